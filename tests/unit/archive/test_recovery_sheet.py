import pytest

from backups.archive import recovery_sheet
from backups.archive.keys import TenantKeys
from backups.errors import KeyUnavailable

TENANT = "3f0c7f9a-5f0e-4a3b-9c39-1d4f7c1de001"


@pytest.fixture(scope="module")
def keys():
    return TenantKeys.generate(TENANT)


def test_what_is_printed_can_be_typed_again(keys):
    assert recovery_sheet.parse(recovery_sheet.text(keys)) == keys
    assert recovery_sheet.parse(recovery_sheet.printable(keys)) == keys


def test_spaces_small_letters_and_lookalikes_do_no_harm(keys):
    lines = [line.split(maxsplit=1) for line in recovery_sheet.text(keys).splitlines()]
    typed = "\n".join(f"{n}. {text.lower().replace(' ', '').replace('o', '0').replace('i', '1')}" for n, text in lines)
    assert recovery_sheet.parse(typed) == keys


def test_a_typing_error_is_told_with_its_line(keys):
    lines = recovery_sheet.text(keys).splitlines()
    wrong = "B" if lines[2][6] == "A" else "A"
    lines[2] = lines[2][:6] + wrong + lines[2][7:]
    with pytest.raises(KeyUnavailable, match="Line 3"):
        recovery_sheet.parse("\n".join(lines))


@pytest.mark.parametrize("what", ["", "hello", "1  ABCD", "HOTFIRST-KEY/1/", "HOTFIRST-KEY/1/ABCDEFGH"])
def test_what_is_no_sheet_is_refused(what):
    with pytest.raises(KeyUnavailable):
        recovery_sheet.parse(what)


def test_a_missing_line_is_noticed(keys):
    with pytest.raises(KeyUnavailable, match="not all"):
        recovery_sheet.parse("\n".join(recovery_sheet.text(keys).splitlines()[:-1]))


def test_the_code_says_the_same_as_the_text(keys):
    assert recovery_sheet.parse(recovery_sheet._qr_text(keys)) == keys
    assert recovery_sheet.qr_svg(keys).startswith("<svg")
    assert len(recovery_sheet.qr_terminal(keys).splitlines()) > 20


def test_there_is_no_sheet_without_the_private_key(keys):
    with pytest.raises(KeyUnavailable):
        recovery_sheet.text(keys.without_private())

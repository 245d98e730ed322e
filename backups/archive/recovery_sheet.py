"""A tenant's keys on paper, in the open: as text that can be typed, and as a QR code. FORMAT.md, section 3."""

import base64
import re
from collections.abc import Iterator

import segno
from blake3 import blake3

from backups.archive import layout
from backups.archive.keys import KEY_BYTES, TenantKeys
from backups.errors import InvalidRequest, KeyUnavailable

VERSION = 1
QR_PREFIX = "HOTFIRST-KEY/1/"
CHECK_BYTES = 4
GROUP, LINE = 4, 24
LINE_CHECK = 2
LOOKALIKES = str.maketrans("0189", "OIBG")
"""Digits that are not in the alphabet, and the letters they are mistaken for."""


def text(keys: TenantKeys) -> str:
    """Numbered lines; the last two letters of each tell a typing error."""
    return "\n".join(_line(number, letters) for number, letters in enumerate(_lines(_letters(keys)), 1)) + "\n"


def qr_svg(keys: TenantKeys) -> str:
    """An SVG element without size, to be put into a page."""
    return segno.make(_qr_text(keys), error="m").svg_inline(omitsize=True)


def qr_terminal(keys: TenantKeys) -> str:
    rows = [bytes(row) for row in segno.make(_qr_text(keys), error="m").matrix_iter(border=4)]
    rows += [bytes(len(rows[0]))] * (len(rows) % 2)
    halves = {(0, 0): "█", (1, 0): "▄", (0, 1): "▀", (1, 1): " "}
    return "\n".join(
        "".join(halves[upper, lower] for upper, lower in zip(rows[at], rows[at + 1], strict=True))
        for at in range(0, len(rows), 2)
    )


def printable(keys: TenantKeys) -> str:
    """All of the sheet as text."""
    return (
        f"RECOVERY SHEET of tenant {keys.tenant_id}\n\n"
        "Whoever has this sheet can read all archives of this tenant. Keep it where you keep deeds. With it and a\n"
        "copy of the repository the archives can be read without the portal: python -m backups.archive --help.\n\n"
        f"{text(keys)}\n"
    )


def parse(sheet: str) -> TenantKeys:
    """Of the typed lines, of all of the sheet, or of what the QR code says. Raises KeyUnavailable, naming the line
    that is wrong."""
    if QR_PREFIX in sheet:
        return _keys(sheet.partition(QR_PREFIX)[2].split()[0] if sheet.partition(QR_PREFIX)[2].split() else "")
    return _keys("".join(_checked(number, letters) for number, letters in _numbered(sheet)))


def looks_like_one(sheet: str) -> bool:
    return QR_PREFIX in sheet or any(True for _ in _numbered(sheet))


def _qr_text(keys: TenantKeys) -> str:
    return QR_PREFIX + _letters(keys)


def _letters(keys: TenantKeys) -> str:
    if keys.private_key is None:
        raise KeyUnavailable("A recovery sheet needs the tenant's private key, which is not on this host.")
    tenant = keys.tenant_id.encode()
    payload = bytes([VERSION, len(tenant)]) + tenant + keys.write_secret + keys.private_key
    return base64.b32encode(payload + blake3(payload).digest(CHECK_BYTES)).decode().rstrip("=")


def _lines(letters: str) -> list[str]:
    return [letters[at : at + LINE] for at in range(0, len(letters), LINE)]


def _line(number: int, letters: str) -> str:
    groups = " ".join(letters[at : at + GROUP] for at in range(0, len(letters), GROUP))
    return f"{number:2}  {groups}  {_line_check(number, letters)}"


def _line_check(number: int, letters: str) -> str:
    return base64.b32encode(blake3(f"{number} {letters}".encode()).digest(5)).decode()[:LINE_CHECK]


def _numbered(sheet: str) -> Iterator[tuple[int, str]]:
    """Lines of a number and groups of letters, however they are spaced."""
    for line in sheet.splitlines():
        found = re.fullmatch(r"\s*(\d{1,2})[\s.:)]\s*([A-Za-z0-9\s-]{4,})", line)
        if found:
            yield int(found[1]), re.sub(r"[\s-]", "", found[2]).upper().translate(LOOKALIKES)


def _checked(number: int, typed: str) -> str:
    letters, check = typed[:-LINE_CHECK], typed[-LINE_CHECK:]
    if check != _line_check(number, letters):
        raise KeyUnavailable(f"Line {number} of the recovery sheet has a typing error; compare it letter by letter.")
    return letters


def _keys(letters: str) -> TenantKeys:
    wrong = KeyUnavailable("This is not all of a recovery sheet; give its numbered lines, in order, each on a line.")
    try:
        data = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except ValueError as error:
        raise wrong from error
    payload, check = data[:-CHECK_BYTES], data[-CHECK_BYTES:]
    if len(payload) < 2 or blake3(payload).digest(CHECK_BYTES) != check:
        raise wrong
    tenant, secrets = payload[2 : 2 + payload[1]], payload[2 + payload[1] :]
    if payload[0] != VERSION or len(secrets) != 2 * KEY_BYTES:
        raise KeyUnavailable("This recovery sheet is of a version that this product does not know; update it.")
    try:
        layout.tenant(tenant.decode())
    except (UnicodeDecodeError, InvalidRequest) as error:
        raise wrong from error
    return TenantKeys.of_secrets(tenant.decode(), secrets[:KEY_BYTES], secrets[KEY_BYTES:])

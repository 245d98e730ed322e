from uuid import uuid4

import pytest

from backups.errors import KeyUnavailable
from backups.vault import seal, unseal


def test_a_secret_comes_back_for_its_row_and_purpose() -> None:
    row = uuid4()
    assert unseal(seal(b"hunter2", row, "password"), row, "password") == b"hunter2"


def test_a_secret_moved_to_another_row_does_not_open() -> None:
    sealed = seal(b"hunter2", uuid4(), "password")
    with pytest.raises(KeyUnavailable):
        unseal(sealed, uuid4(), "password")


def test_a_secret_used_for_another_purpose_does_not_open() -> None:
    row = uuid4()
    with pytest.raises(KeyUnavailable):
        unseal(seal(b"hunter2", row, "password"), row, "token")


def test_a_master_key_that_is_not_in_the_ring_is_named_as_the_trouble() -> None:
    row = uuid4()
    sealed = seal(b"hunter2", row, "password")
    with pytest.raises(KeyUnavailable, match="key ring"):
        unseal(bytes(8) + sealed[8:], row, "password")


def test_the_secret_does_not_show_in_what_is_stored() -> None:
    assert b"hunter2" not in seal(b"hunter2", uuid4(), "password")

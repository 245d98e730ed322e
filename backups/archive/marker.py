"""`repository.json`: that a folder, or a bucket, is a repository, and of which format. FORMAT.md, section 2."""

import json

from blake3 import blake3

from backups.errors import RepositoryUnavailable

NAME = "repository.json"
FORMAT, VERSION = "hotfirst-repository", 1


def encode(repository_id: str) -> bytes:
    check = blake3(f"{FORMAT}/{VERSION}/{repository_id}".encode()).hexdigest()
    return json.dumps({"format": FORMAT, "version": VERSION, "id": repository_id, "check": check}).encode()


def is_sound(data: bytes) -> bool:
    """Every byte of it. A repository opens with a damaged one as well, as long as it can be read."""
    try:
        return data == encode(json.loads(data)["id"])
    except (ValueError, KeyError, TypeError):
        return False


def check(data: bytes, where: str) -> None:
    """That this product can use what lies there."""
    try:
        said = json.loads(data)
        ours = (said.get("format"), said.get("version")) == (FORMAT, VERSION)
    except (ValueError, AttributeError) as error:
        raise RepositoryUnavailable(f"{NAME} of {where} cannot be read: {error}.") from error
    if not ours:
        raise RepositoryUnavailable(f"{where} was written by another version; update this product to use it.")

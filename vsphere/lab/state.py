"""The lab's memory: one small JSON file per object of the inventory, replaced as a whole."""

import json
import re
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def replace_file(path: Path, text: str) -> None:
    """A killed process leaves the old text or the new one."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)


class Store:
    def __init__(self, folder: Path) -> None:
        self._objects = folder / "inventory"
        self._objects.mkdir(parents=True, exist_ok=True)

    def save(self, moid: str, record: Record) -> None:
        replace_file(self._objects / f"{moid}.json", json.dumps(record))

    def forget(self, moid: str) -> None:
        (self._objects / f"{moid}.json").unlink(missing_ok=True)

    def all(self) -> list[Record]:
        """Oldest first: ids end in a serial number."""
        paths = sorted(self._objects.glob("*.json"), key=lambda path: int(re.sub(r"\D", "", path.stem) or 0))
        return [json.loads(path.read_text()) for path in paths]

"""What was told last to whoever follows the inventory."""

from dataclasses import replace
from uuid import uuid4

from backups.differences import difference
from backups.platform import Inventory, InventoryChange


class Told:
    def __init__(self) -> None:
        self._last: tuple[str, Inventory] | None = None

    def since(self, version: str | None, now: Inventory) -> InventoryChange:
        if self._last is None or version != self._last[0]:
            change = InventoryChange(version=str(uuid4()), full=True, seen=now)
        else:
            change = difference(self._last[1], now, version)
            change = change if change.is_empty else replace(change, version=str(uuid4()))
        self._last = change.version, now
        return change

"""What differs between two readings of an inventory."""

from typing import Any

from backups.platform import Inventory, InventoryChange

PARTS = ("vapps", "vms", "hosts", "datastores", "templates")


def difference(before: Inventory, now: Inventory, version: str) -> InventoryChange:
    seen: dict[str, Any] = {}
    gone: set[str] = {each.ref for part in PARTS for each in getattr(before, part)}
    for part in PARTS:
        known = {each.ref: each for each in getattr(before, part)}
        seen[part] = tuple(each for each in getattr(now, part) if known.get(each.ref) != each)
        gone -= {each.ref for each in getattr(now, part)}
    new = Inventory(instance_uuid=now.instance_uuid, **seen)
    return InventoryChange(version=version, full=False, seen=new, gone=frozenset(gone))


def merged(known: Inventory, change: InventoryChange) -> Inventory:
    """The inventory that a change leads to."""
    if change.full:
        return change.seen
    new = {each.ref for part in PARTS for each in getattr(change.seen, part)} | change.gone
    parts: dict[str, Any] = {
        part: (*(each for each in getattr(known, part) if each.ref not in new), *getattr(change.seen, part))
        for part in PARTS
    }
    return Inventory(instance_uuid=known.instance_uuid, **parts)

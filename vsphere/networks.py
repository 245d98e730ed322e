"""Networks by name: the one handle that means the same at another place."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyVmomi import vim, vmodl

from vsphere.properties import read, read_many
from vsphere.session import Session

Card = vim.vm.device.VirtualEthernetCard
Portgroup = vim.dvs.DistributedVirtualPortgroup


def name_of(session: Session, card: Any) -> str | None:
    """None for a card that is on no network, or on one that has gone."""
    backing = card.backing
    if isinstance(backing, Card.NetworkBackingInfo):
        return str(backing.deviceName)
    if isinstance(backing, Card.DistributedVirtualPortBackingInfo) and backing.port.portgroupKey:
        found = read_many(session, Portgroup, [backing.port.portgroupKey], "name")
        return found.get(backing.port.portgroupKey, {}).get("name")
    return None


def mapped(cards: Iterable[dict[str, Any]], wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """The cards as kept, on the networks that they are to be on."""
    return [card | {"network": wanted.get(card["network"] or "", card["network"])} for card in cards]


def warnings(cards: Iterable[dict[str, Any]], available: Iterable[str]) -> list[str]:
    """Of cards that cannot be made."""
    known = set(available)
    lost = [(number, card["network"]) for number, card in enumerate(cards, 1) if card["network"] not in known]
    return [
        f"There is no network {name} at the target, so network adapter {number} is left out."
        if name
        else f"Network adapter {number} was on no network, and is left out."
        for number, name in lost
    ]


def of_host(session: Session, host_ref: str) -> dict[str, Any]:
    """Network name to the backing that puts a card on it."""
    networks = read(session, vim.HostSystem, host_ref, "network").get("network", [])
    groups = [each._moId for each in networks if isinstance(each, Portgroup)]
    plain = [each._moId for each in networks if not isinstance(each, Portgroup)]
    names = read_many(session, vim.Network, plain, "name")
    backings = {v["name"]: Card.NetworkBackingInfo(deviceName=v["name"]) for v in names.values()}
    return backings | _distributed(session, groups)


def _distributed(session: Session, refs: Sequence[str]) -> dict[str, Any]:
    backings = {}
    for values in read_many(session, Portgroup, refs, "name", "key", "config.distributedVirtualSwitch").values():
        switch = values["config.distributedVirtualSwitch"]
        try:
            uuid = read(session, vim.DistributedVirtualSwitch, switch._moId, "uuid")["uuid"]
        except vmodl.fault.ManagedObjectNotFound:
            continue
        port = vim.dvs.PortConnection(portgroupKey=values["key"], switchUuid=uuid)
        backings[values["name"]] = Card.DistributedVirtualPortBackingInfo(port=port)
    return backings

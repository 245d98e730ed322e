"""The inventory back from the state folder."""

from typing import Any

from vsphere.lab import wire
from vsphere.lab.config import Config
from vsphere.lab.entities import Datastore, Entity, Host, Lab, Network
from vsphere.lab.inventory import Cluster, Datacenter, Folder
from vsphere.lab.loads import Profile
from vsphere.lab.pools import ResourcePool, VApp
from vsphere.lab.snapshots import Snapshot
from vsphere.lab.state import Record
from vsphere.lab.vm import VirtualMachine

# `_ensure` sees to it that a parent is there before its children; within a kind the order of age is kept.
ORDER = ("Folder", "Datacenter", "Cluster", "Host", "Datastore", "Network", "ResourcePool", "VApp", "VirtualMachine")


def restore(lab: Lab) -> None:
    records = {record["moid"]: record for record in lab.store.all()}
    for record in sorted(records.values(), key=lambda r: ORDER.index(r["kind"])):
        _ensure(lab, record, records)
    for vm in lab.vms.values():
        _drop_unknown_snapshots(vm)
    for record in records.values():
        if record.get("importing"):  # Its lease was lost with the process.
            lab.vms[record["moid"]].destroy()


def _ensure(lab: Lab, record: Record, records: dict[str, Record]) -> Entity:
    found: Any = lab.registry.objects.get(record["moid"])
    if found is None:
        above = [record.get(name) for name in ("parent", "pool", "folder")]
        kin = {moid: _ensure(lab, records[moid], records) for moid in above if moid}
        found = _made(lab, record, kin)
    return found


def _made(lab: Lab, record: Record, kin: dict[str, Entity]) -> Entity:
    moid, name, kind = record["moid"], record["name"], record["kind"]
    parent: Any = kin.get(record["parent"])
    if kind == "Folder":
        return Folder(lab, name, parent, tuple(record["holds"]), moid)
    if kind == "Datastore":
        return Datastore(lab, name, parent, record["capacity_bytes"], moid)
    if kind == "ResourcePool":
        return ResourcePool(lab, name, parent, wire.from_xml(record["resources"]), moid)
    if kind == "VApp":
        config, resources = wire.from_xml(record["app_config"]), wire.from_xml(record["resources"])
        folder = kin.get(record["folder"])
        return VApp(lab, name, parent, resources, folder=folder, config=config, moid=moid)
    if kind == "VirtualMachine":
        return _vm(lab, record, parent, kin[record["pool"]])
    plain: dict[str, type[Entity]] = {"Datacenter": Datacenter, "Cluster": Cluster, "Host": Host, "Network": Network}
    return plain[kind](lab, name, parent, moid)


def _vm(lab: Lab, record: Record, folder: Entity | None, pool: Any) -> VirtualMachine:
    host: Any = lab.registry.objects[record["host"]]
    vm = VirtualMachine(
        lab,
        Config.parse(record["config"]),
        folder=folder,
        pool=pool,
        host=host,
        profile=Profile.of(record),
        power=record["power"],
        moid=record["moid"],
    )
    for about in record["snapshots"]:
        rest = {key: value for key, value in about.items() if key not in ("number", "config")}
        vm.snapshots.append(Snapshot(vm, about["number"], Config.parse(about["config"]), rest))
    return vm


def _drop_unknown_snapshots(vm: VirtualMachine) -> None:
    """The lab was killed between a snapshot's files and its record: the files wait for a consolidation."""
    known = {snapshot.number for snapshot in vm.snapshots}
    for _, disk in vm.disks():
        for frozen in disk.meta.frozen:
            if frozen.snapshot not in known:
                disk.remove_snapshot(frozen.snapshot)

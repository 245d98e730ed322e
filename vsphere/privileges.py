"""What the product needs to be allowed at vCenter, and what of it the account lacks."""

from collections import defaultdict
from typing import Any

from pyVmomi import vim

from backups.platform import MissingPrivilege
from vsphere.inventory import plain_name
from vsphere.properties import read_all
from vsphere.session import Session

BACK_UP = (
    "System.View",
    "System.Read",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Provisioning.DiskRandomRead",
    "Datastore.Browse",
    "Datastore.FileManagement",
    "VApp.Export",
)
RECOVER = (
    "VirtualMachine.Inventory.Create",
    "VirtualMachine.Inventory.Delete",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.AddRemoveDevice",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.Annotation",
    "VirtualMachine.Config.CPUCount",
    "VirtualMachine.Config.DiskExtend",
    "VirtualMachine.Config.EditDevice",
    "VirtualMachine.Config.Memory",
    "VirtualMachine.Config.RemoveDisk",
    "VirtualMachine.Config.Resource",
    "VirtualMachine.Config.Settings",
    "VirtualMachine.Interact.PowerOff",
    "VirtualMachine.Interact.PowerOn",
    "Datastore.AllocateSpace",
    "Network.Assign",
    "Resource.AssignVMToPool",
    "VApp.ApplicationConfig",
    "VApp.AssignVM",
    "VApp.Create",
    "VApp.Import",
    "VApp.ResourceConfig",
)
PURPOSES = dict.fromkeys(BACK_UP, "back up") | dict.fromkeys(RECOVER, "recover")


def missing(session: Session) -> tuple[MissingPrivilege, ...]:
    """Asked of each datacenter that the account can see: a role may be given on some of them only."""
    names = {each.ref: plain_name(each.values["name"]) for each in read_all(session, {vim.Datacenter: ("name",)})}
    lacking: dict[str, list[str]] = defaultdict(list)
    for answer in session.call(lambda stub: _ask(session, stub, list(names))):
        for each in answer.privAvailability:
            if not each.isGranted:
                lacking[each.privId].append(names[answer.entity._moId])
    return tuple(
        MissingPrivilege(privilege=name, purpose=purpose, places=tuple(sorted(lacking[name])))
        for name, purpose in PURPOSES.items()
        if name in lacking
    )


def _ask(session: Session, stub: Any, datacenter_refs: list[str]) -> Any:
    own = vim.SessionManager(session.content.sessionManager._moId, stub).currentSession
    if own is None:
        raise vim.fault.NotAuthenticated()
    manager = vim.AuthorizationManager(session.content.authorizationManager._moId, stub)
    entities: list[Any] = [vim.Datacenter(ref, stub) for ref in datacenter_refs]
    return manager.HasPrivilegeOnEntities(entities, own.key, list(PURPOSES))

"""What operators do to an inventory: folders, pools, nested vApps, templates, tags, moves, re-registration."""

from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from backups.platform import Vm
from tests.contract import vcsim
from tests.contract.test_watching import Follower, by_ref
from tests.contract.worlds import NUMBERS, LabWorld, connection_to, vm_named
from vsphere import tags, watching
from vsphere.inventory import Mirror, compact
from vsphere.lab.pools import default_resources
from vsphere.platform import VSpherePlatform
from vsphere.properties import Found, read_all
from vsphere.session import Session
from vsphere.tasks import wait


class Operator:
    """Does over the wire what a person does in vCenter."""

    def __init__(self, session: Session) -> None:
        self.session = session
        found = read_all(session, {vim.Folder: ("name",), vim.ResourcePool: ("name",), vim.HostSystem: ("name",)})
        self.folder_ref = next(each.ref for each in found if each.values["name"] == "vm")
        self.pool_ref = next(each.ref for each in found if each.values["name"] == "Resources")
        self.host_ref = next(each.ref for each in found if each.kind is vim.HostSystem)

    def does(self, kind: Any, ref: str, method: str, *arguments: Any) -> Any:
        result = self.session.call(lambda stub: getattr(kind(ref, stub), method)(*arguments))
        return wait(self.session, result, 30) if isinstance(result, vim.Task) else result

    def folder(self, name: str) -> str:
        return str(self.does(vim.Folder, self.folder_ref, "CreateFolder", name)._moId)

    def tag(self, vm_ref: str, category: str, name: str) -> tuple[str, dict[str, str]]:
        """The tag, and what it was attached to."""
        carrier = {"id": vm_ref, "type": "VirtualMachine"}
        with tags.RestClient(self.session) as client:
            spec = {"name": category, "description": "", "cardinality": "MULTIPLE", "associable_types": []}
            category_id = client.post(f"{tags.TAGGING}/category", {"create_spec": spec})
            spec = {"name": name, "description": "", "category_id": category_id}
            tag = client.post(f"{tags.TAGGING}/tag", {"create_spec": spec})
            self.associate(client, tag, carrier, "attach")
        return tag, carrier

    @staticmethod
    def associate(client: Any, tag: str, carrier: dict[str, str], action: str) -> None:
        path = f"{tags.TAGGING}/tag-association/id:{tags.quote(tag)}?~action={action}"
        client.post(path, {"object_id": carrier})


@pytest.fixture
def operator(lab_world: LabWorld) -> Iterator[Operator]:
    session = Session(connection_to(lab_world.lab))
    yield Operator(session)
    session.close()


@pytest.fixture
def platform(lab_world: LabWorld) -> VSpherePlatform:
    return lab_world.platform


@pytest.fixture
def vm(lab_world: LabWorld) -> Vm:
    return lab_world.new_vm(on=False)


@pytest.fixture
def follower(platform: VSpherePlatform, vm: Vm) -> Follower:
    """It knows the VM."""
    return Follower(platform)


def test_a_vm_has_the_paths_of_its_folder_and_its_pool(platform: VSpherePlatform, vm: Vm) -> None:
    assert (vm.folder, vm.pool) == ("/Lab/vm", "/Lab/host/cluster1/Resources")
    in_vapp = vm_named(platform, "shop-db")
    assert (in_vapp.folder, in_vapp.pool) == ("/Lab/vm", "/Lab/host/cluster1/Resources/shop")


def test_a_moved_vm_keeps_its_identity_and_a_renamed_folder_is_seen(
    operator: Operator, platform: VSpherePlatform, follower: Follower, vm: Vm
) -> None:
    name = f"web-{next(NUMBERS)}"
    folder_ref = operator.folder(name)
    operator.does(vim.Folder, folder_ref, "MoveIntoFolder_Task", [vim.VirtualMachine(vm.ref)])
    follower.until(lambda known: by_ref(known)[vm.ref].folder == f"/Lab/vm/{name}")
    operator.does(vim.Folder, folder_ref, "Rename_Task", f"{name}-new")
    follower.until(lambda known: by_ref(known)[vm.ref].folder == f"/Lab/vm/{name}-new")
    assert by_ref(follower.known)[vm.ref].uuid == vm.uuid
    assert by_ref(follower.known) == by_ref(platform.inventory())


def test_vapps_nest_and_hold_vms_and_what_lies_in_them_has_the_outer_ones_folder(
    operator: Operator, platform: VSpherePlatform, follower: Follower, vm: Vm
) -> None:
    outer, inner = (f"{name}-{next(NUMBERS)}" for name in ("outer", "inner"))
    spec, resources = vim.vApp.VAppConfigSpec(), default_resources()
    folder = vim.Folder(operator.folder_ref)
    outer_ref = operator.does(vim.ResourcePool, operator.pool_ref, "CreateVApp", outer, resources, spec, folder)._moId
    inner_ref = operator.does(vim.VirtualApp, outer_ref, "CreateVApp", inner, resources, spec)._moId
    operator.does(vim.VirtualApp, inner_ref, "MoveIntoResourcePool", [vim.VirtualMachine(vm.ref)])
    follower.until(lambda known: getattr(by_ref(known).get(vm.ref), "vapp_ref", None) == inner_ref)
    seen: Any = by_ref(follower.known)
    assert seen[inner_ref].parent_ref == outer_ref
    assert seen[outer_ref].parent_ref is None
    assert seen[inner_ref].pool == f"/Lab/host/cluster1/Resources/{outer}/{inner}"
    assert (seen[vm.ref].folder, seen[vm.ref].pool) == ("/Lab/vm", seen[inner_ref].pool)
    assert by_ref(platform.inventory()) == seen


def test_a_vm_in_a_resource_pool_lies_in_no_vapp(operator: Operator, platform: VSpherePlatform, vm: Vm) -> None:
    name = f"silver-{next(NUMBERS)}"
    pool = operator.does(vim.ResourcePool, operator.pool_ref, "CreateResourcePool", name, default_resources())
    operator.does(vim.ResourcePool, pool._moId, "MoveIntoResourcePool", [vim.VirtualMachine(vm.ref)])
    moved = vm_named(platform, vm.name)
    assert (moved.vapp_ref, moved.pool) == (None, f"/Lab/host/cluster1/Resources/{name}")


def test_a_template_is_told_apart_and_comes_back_as_the_vm_it_was(
    operator: Operator, platform: VSpherePlatform, follower: Follower, vm: Vm
) -> None:
    operator.does(vim.VirtualMachine, vm.ref, "MarkAsTemplate")
    follower.until(lambda known: vm.ref in {each.ref for each in known.templates})
    assert vm.ref not in {each.ref for each in (*follower.known.vms, *platform.inventory().vms)}
    pool, host = vim.ResourcePool(operator.pool_ref), vim.HostSystem(operator.host_ref)
    operator.does(vim.VirtualMachine, vm.ref, "MarkAsVirtualMachine", pool, host)
    follower.until(lambda known: vm.ref in {each.ref for each in known.vms})
    assert vm_named(platform, vm.name) == vm


def test_a_vm_that_is_registered_again_has_another_ref_and_the_same_identity(
    operator: Operator, platform: VSpherePlatform, follower: Follower, vm: Vm
) -> None:
    path = f"[{vm.datastore}] {vm.name}/{vm.name}.vmx"
    operator.does(vim.VirtualMachine, vm.ref, "UnregisterVM")
    follower.until(lambda known: vm.ref not in by_ref(known))
    pool, host = vim.ResourcePool(operator.pool_ref), vim.HostSystem(operator.host_ref)
    folder_ref = operator.folder_ref
    again = operator.does(vim.Folder, folder_ref, "RegisterVM_Task", path, f"{vm.name}-again", False, pool, host)
    follower.until(lambda known: again._moId in by_ref(known))
    seen = vm_named(platform, f"{vm.name}-again")
    assert (seen.uuid, seen.disks) == (vm.uuid, vm.disks)
    assert seen.ref == again._moId != vm.ref


def test_a_renamed_host_is_seen_on_its_vms(operator: Operator, platform: VSpherePlatform, follower: Follower) -> None:
    host = next(host for host in platform.inventory().hosts if host.ref == operator.host_ref)
    for name in ("esx9.lab", host.name):
        operator.does(vim.HostSystem, host.ref, "Rename_Task", name)
        follower.until(lambda known, name=name: name in {vm.host for vm in known.vms})
        assert by_ref(follower.known) == by_ref(platform.inventory())


def test_tags_are_told_with_their_category(
    operator: Operator, platform: VSpherePlatform, follower: Follower, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "TAGS_S", 0)
    category = f"Backup {next(NUMBERS)}"
    tag, carrier = operator.tag(vm.ref, category, "gold/silver")
    told = f"{category}/gold/silver"
    assert vm_named(platform, vm.name).tags == (told,)
    follower.until(lambda known: by_ref(known)[vm.ref].tags == (told,))
    with tags.RestClient(operator.session) as client:
        operator.associate(client, tag, carrier, "detach")
    follower.until(lambda known: by_ref(known)[vm.ref].tags == ())


def test_a_simulator_by_others_tells_tags_the_same_way(vcsim_world: vcsim.VcsimWorld) -> None:
    vm = vcsim_world.new_vm()
    Operator(vcsim_world.session).tag(vm.ref, "Tier", "one")
    assert vm_named(vcsim_world.platform, vm.name).tags == ("Tier/one",)


def test_a_lost_session_costs_no_more_than_a_full_look(
    lab_world: LabWorld, platform: VSpherePlatform, follower: Follower
) -> None:
    lab_world.lab.sessions.end_all()
    vm = lab_world.new_vm()
    change = follower.look(5)
    assert change.full
    assert vm.ref in by_ref(follower.known)
    lab_world.platform.power(vm.ref, False)
    assert not follower.look(5).full


def test_only_the_disks_of_a_vms_devices_are_kept() -> None:
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName="[ssd1] a/a.vmdk")
    disk = vim.vm.device.VirtualDisk(key=2000, capacityInKB=64, capacityInBytes=65536, backing=backing)
    devices = [vim.vm.device.VirtualVmxnet3(key=4000), disk]
    mirror = Mirror("vcenter-1")
    values = {"name": "a", "config.instanceUuid": "u", "config.hardware.device": devices}
    mirror.take(compact(Found(vim.VirtualMachine, "vm-1", values)))
    mirror.take(Found(vim.VirtualMachine, "vm-1", {"name": "b", "runtime.host": None}))
    (vm,) = mirror.inventory({}).vms
    assert (vm.name, [each.key for each in vm.disks]) == ("b", [2000])

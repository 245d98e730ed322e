from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.lab.client import Client, PropertyCollector, disk


def view_spec(client: Client, kind: Any, *paths: str) -> Any:
    view = client.content.viewManager.CreateContainerView(client.content.rootFolder, [kind], True)
    step = PropertyCollector.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
    return PropertyCollector.FilterSpec(
        objectSet=[PropertyCollector.ObjectSpec(obj=view, skip=True, selectSet=[step])],
        propSet=[PropertyCollector.PropertySpec(type=kind, pathSet=list(paths))],
    )


def test_vms_show_their_hardware_and_where_they_belong(idle: Client) -> None:
    vm = idle.vm("alice-db")
    config = vm.config
    assert vm.parentVApp.name == "alice-app"
    assert vm.parent is None
    assert vm.runtime.host in idle.all(vim.HostSystem)
    assert config.firmware == "efi"
    assert [disk(config, key).backing.fileName for key in (2000, 2001)] == [
        "[ssd1] alice-db/alice-db.vmdk",
        "[ssd1] alice-db/alice-db_1.vmdk",
    ]
    card = next(d for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualVmxnet3))
    assert card.macAddress.startswith("00:50:56:")
    assert isinstance(disk(config, 1000), vim.vm.device.ParaVirtualSCSIController)
    assert idle.vm("stray").parent == idle.vm_folder


def test_the_place_around_the_vms_is_there(idle: Client) -> None:
    assert len(idle.all(vim.HostSystem)) >= 2
    datastores = idle.all(vim.Datastore)
    assert len(datastores) >= 2
    assert all(0 < store.summary.freeSpace <= store.summary.capacity for store in datastores)
    assert {vapp.name for vapp in idle.all(vim.VirtualApp)} == {"alice-app", "bob-app"}
    assert idle.content.searchIndex.FindByInventoryPath("Lab/vm/alice-app").name == "alice-app"
    vm = idle.vm("stray")
    assert idle.content.searchIndex.FindAllByUuid(None, vm.config.instanceUuid, True, True) == [vm]


def test_every_property_that_is_served_can_be_read(idle: Client) -> None:
    for kind in (vim.VirtualMachine, vim.VirtualApp, vim.HostSystem, vim.Datastore, vim.Datacenter, vim.Folder,
                 vim.Network, vim.ClusterComputeResource, vim.ResourcePool):  # fmt: skip
        spec = view_spec(idle, kind)
        spec.propSet[0].all = True
        found = idle.content.propertyCollector.RetrieveProperties([spec])
        assert found
        assert all("name" in {p.name for p in content.propSet} for content in found)


def test_a_long_answer_comes_in_pages(idle: Client) -> None:
    collector = idle.content.propertyCollector
    options = PropertyCollector.RetrieveOptions(maxObjects=3)
    answer = collector.RetrievePropertiesEx([view_spec(idle, vim.VirtualMachine, "name")], options)
    rest = collector.ContinueRetrievePropertiesEx(answer.token)
    assert (len(answer.objects), len(rest.objects), rest.token) == (3, 1, None)


def test_an_unknown_property_is_an_error(idle: Client) -> None:
    with pytest.raises(vmodl.query.InvalidProperty):
        idle.content.propertyCollector.RetrieveProperties([view_spec(idle, vim.VirtualMachine, "name.first")])


def test_a_filter_tells_what_changed_came_and_went(idle: Client) -> None:
    collector = idle.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(view_spec(idle, vim.VirtualMachine, "name", "runtime.powerState"), False)
    soon = PropertyCollector.WaitOptions(maxWaitSeconds=5)

    def updates(version: str) -> tuple[str, list[Any]]:
        update = collector.WaitForUpdatesEx(version, soon)
        return update.version, list(update.filterSet[0].objectSet)

    version, first = updates("")
    assert {update.kind for update in first} == {"enter"}
    assert len(first) == 4

    stray = idle.vm("stray")
    idle.done(stray.PowerOffVM_Task())
    version, changed = updates(version)
    assert [(u.kind, u.obj, [(c.name, c.val) for c in u.changeSet]) for u in changed] == [
        ("modify", stray, [("runtime.powerState", "poweredOff")])
    ]

    idle.done(stray.Destroy_Task())
    version, left = updates(version)
    assert [(update.kind, update.obj) for update in left] == [("leave", stray)]

    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        collector.WaitForUpdatesEx("999", soon)
    assert collector.WaitForUpdatesEx(version, PropertyCollector.WaitOptions(maxWaitSeconds=0)) is None

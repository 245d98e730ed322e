"""The inventory, followed."""

import threading
import time
from collections.abc import Callable

import pytest

from backups.differences import PARTS, merged
from backups.platform import Inventory, InventoryChange, Platform
from tests.contract.worlds import World


class Follower:
    """Keeps an inventory by the changes alone."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        first = platform.watch(None, 0)
        self.version, self.known = first.version, first.seen

    def look(self, wait_s: float = 0) -> InventoryChange:
        change = self.platform.watch(self.version, wait_s)
        self.version, self.known = change.version, merged(self.known, change)
        return change

    def until(self, seen: Callable[[Inventory], bool]) -> None:
        deadline = time.monotonic() + 10
        while not seen(self.known) and time.monotonic() < deadline:
            assert not self.look(2).full
        assert seen(self.known)


@pytest.fixture
def follower(platform: Platform) -> Follower:
    return Follower(platform)


def by_ref(inventory: Inventory) -> dict[str, object]:
    """Free space changes all the time."""
    return {each.ref: each for part in PARTS if part != "datastores" for each in getattr(inventory, part)}


def test_at_first_everything_is_told(platform: Platform) -> None:
    first = platform.watch(None, 0)
    assert first.full
    assert first.gone == frozenset()
    assert by_ref(first.seen) == by_ref(platform.inventory())
    assert {store.ref for store in first.seen.datastores} == {store.ref for store in platform.inventory().datastores}


def test_where_nothing_happens_nothing_is_told_and_the_version_stays(follower: Follower) -> None:
    before = follower.version
    change = follower.look()
    if not change.seen.datastores:
        assert (change.is_empty, change.version) == (True, before)
    assert not change.full


def test_changes_alone_lead_to_the_same_inventory(world: World, follower: Follower) -> None:
    first, second = world.new_vm(), world.new_vm()
    world.platform.power(first.ref, False)
    world.platform.enable_change_tracking(second.ref)
    follower.until(lambda known: by_ref(known) == by_ref(world.platform.inventory()))
    world.platform.power(second.ref, False)
    world.platform.destroy_vm(first.ref)
    follower.until(lambda known: first.ref not in by_ref(known))
    follower.until(lambda known: by_ref(known) == by_ref(world.platform.inventory()))


def test_a_change_holds_only_what_changed(world: World, follower: Follower) -> None:
    vm = world.new_vm()
    follower.until(lambda known: vm.ref in by_ref(known))
    follower.look()
    world.platform.power(vm.ref, False)
    told = [follower.look(5) for _ in range(2)]
    assert {each.ref for change in told for each in change.seen.vms} == {vm.ref}
    assert not any(change.seen.hosts or change.seen.vapps for change in told)


def test_a_wait_ends_as_soon_as_something_happens(world: World, follower: Follower) -> None:
    vm = world.new_vm()
    follower.until(lambda known: vm.ref in by_ref(known))
    follower.look()
    threading.Timer(0.3, world.platform.power, (vm.ref, False)).start()
    began = time.monotonic()
    follower.until(lambda known: not next(each for each in known.vms if each.ref == vm.ref).powered_on)
    assert time.monotonic() - began < 5


def test_a_version_that_is_not_the_last_one_gets_everything(world: World, follower: Follower) -> None:
    old = follower.version
    world.new_vm()
    follower.look(5)
    assert world.platform.watch(old, 0).full
    assert world.platform.watch("from before a restart", 0).full
    assert world.platform.watch(None, 0).full

"""What changes in vCenter is known at once, by one worker for each vCenter."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from backups.errors import Interrupted, LoginFailed, PlatformUnreachable
from backups.models import Plan, Tenant, VApp, VCenter, Vm
from backups.services.inventory import refresh
from backups.services.vcenters import enrol_vcenter
from backups.tasks import watch
from backups.tasks.watch import Lease, watch_all
from tests.fakes.platform import FakePlatform

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Starts it; it ends with the test."""
    for name, seconds in {"LOOK_S": 0.1, "WAIT_S": 0.1, "GATHER_S": 0.01, "FIRST_PAUSE_S": 0.2}.items():
        monkeypatch.setattr(watch, name, seconds)
    stopped = threading.Event()
    thread = threading.Thread(target=watch_all, args=(stopped,))
    yield thread.start
    stopped.set()
    if thread.ident:
        thread.join(10)
        assert not thread.is_alive()
    assert not VCenter.objects.exclude(watched_until=None).filter(watched_until__lt=timezone.now()).exists()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.05)


def calls(platform: FakePlatform, name: str) -> int:
    return sum(call == name for call, *_ in list(platform.calls))


def test_a_new_vm_of_a_tenants_vapp_is_his_at_once(
    plan: Plan, acme: Tenant, platform: FakePlatform, watching: Callable[[], None]
) -> None:
    watching()
    until(lambda: calls(platform, "watch") > 1)
    platform.add_vm("shop-new", vapp_ref=VApp.objects.get(name="shop").ref)
    until(lambda: Vm.objects.filter(name="shop-new", tenant=acme).exists())


def test_a_vcenter_enrolled_later_is_watched_and_a_removed_one_is_dropped(
    platform: FakePlatform, watching: Callable[[], None], request: pytest.FixtureRequest
) -> None:
    watching()
    time.sleep(0.3)
    vcenter = request.getfixturevalue("vcenter")
    until(lambda: calls(platform, "watch"))
    Vm.objects.all().delete()
    VApp.objects.all().delete()
    platform._vms.clear()
    platform._vapps.clear()
    VCenter.objects.filter(pk=vcenter.pk).delete()
    time.sleep(0.5)
    seen = calls(platform, "watch")
    time.sleep(0.5)
    assert calls(platform, "watch") == seen


def test_one_that_is_away_is_tried_again_and_the_provider_is_told(
    vcenter: VCenter, platform: FakePlatform, watching: Callable[[], None]
) -> None:
    platform.fail_next("watch", PlatformUnreachable("It is away.", provider="Nobody listens at vc:443."))
    watching()
    until(lambda: VCenter.objects.get().sync_error == "Nobody listens at vc:443.")
    until(lambda: VCenter.objects.get().sync_error == "")


def test_a_login_that_was_refused_is_not_repeated_until_the_vcenter_is_enrolled_again(
    vcenter: VCenter, platform: FakePlatform, watching: Callable[[], None]
) -> None:
    platform.fail_next("watch", LoginFailed("It refused the login."))
    watching()
    until(lambda: VCenter.objects.get().sync_error == "It refused the login.")
    time.sleep(1)
    assert calls(platform, "watch") == 1
    fields = {"host": "fake", "port": 443, "username": "backup", "certificate_pem": "-"}
    enrol_vcenter(None, name="Fake", password="hunter-three", **fields)
    until(lambda: calls(platform, "watch") > 1)


def test_a_refresh_makes_the_watcher_read_everything_anew(
    vcenter: VCenter, platform: FakePlatform, watching: Callable[[], None]
) -> None:
    watching()
    until(lambda: calls(platform, "watch") > 1)
    refresh(vcenter)

    def anew() -> int:
        return [subject for call, subject, _ in list(platform.calls) if call == "watch"].count(None)

    until(lambda: anew() > 1)


def test_one_host_at_a_time_watches_a_vcenter(vcenter: VCenter) -> None:
    one, two = Lease(vcenter), Lease(vcenter)
    assert one.take()
    assert not two.take()
    VCenter.objects.update(watched_until=timezone.now() - timedelta(seconds=1))
    assert two.take()
    with pytest.raises(Interrupted):
        one.renew(0)
    with pytest.raises(Interrupted):
        one.fence()
    one.give_back()
    assert VCenter.objects.get().watched_until is not None
    two.give_back()
    assert one.take()
    connection.close()

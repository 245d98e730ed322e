"""From a vApp to a recovery: backup time, consequences, start."""

from typing import Any

import pytest

from backups.models import Archive, Recovery
from tests.portal.conftest import Browser
from tests.portal.worlds import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def vapp(ours: World, **changes: Any) -> dict[str, Any]:
    chosen = {"vapp": "vapp-of-acme", "0-point": ours.ids["run_id"], "0-new_name": "again", "mode": "as_new"}
    return chosen | changes


def vm(ours: World, **changes: Any) -> dict[str, Any]:
    chosen = {"vm": ours.ids["vm_id"], "0-point": ours.ids["archive_id"], "0-new_name": "again", "mode": "as_new"}
    return chosen | changes


def test_what_can_be_recovered_is_listed(at_acme: Browser, ours: World) -> None:
    page = at_acme.sees("recoveries/")
    assert 'aria-label="Recover vapp-of-acme"' in page
    assert "new-vapp-of-acme" in page


def test_as_new_is_explained_and_changes_nothing_yet(as_olivia: Browser, ours: World) -> None:
    page = as_olivia.sees("recoveries/review/", **vapp(ours))
    assert "A new vApp again is made; nothing that exists is changed." in page
    assert "It stays powered off" in page
    assert Recovery.objects.count() == 1


def test_in_place_says_what_is_overwritten(at_acme: Browser, ours: World) -> None:
    page = at_acme.sees("recoveries/review/", **vm(ours, mode="in_place"))
    assert "vm-of-acme is powered off." in page
    assert "written since then is lost" in page
    assert "Overwrite and recover" in page


def test_a_vapp_is_recovered_as_new(as_olivia: Browser, ours: World) -> None:
    answer = as_olivia.posts("recoveries/review/", **vapp(ours))
    made = Recovery.objects.get(new_name="again")
    assert answer.headers["Location"].endswith(f"/recoveries/{made.pk}/")
    assert (made.mode, made.vapp_name) == ("as_new", "vapp-of-acme")
    assert [item.archive_id for item in made.items.all()] == [ours.ids["archive_id"]]


def test_several_things_are_recovered_at_once(at_acme: Browser, ours: World) -> None:
    second = {"vm": ours.ids["vm_id"], "1-point": ours.ids["archive_id"], "1-new_name": "other"}
    page = at_acme.reads_after("recoveries/review/", **vapp(ours), **second)
    assert "2 recoveries have started" in page
    assert set(Recovery.objects.values_list("new_name", flat=True)) >= {"again", "other"}


def test_olivia_may_not_overwrite_and_is_not_offered_it(as_olivia: Browser, ours: World) -> None:
    assert "In place" not in as_olivia.sees("recoveries/new/", vapp="vapp-of-acme")
    assert as_olivia.posts("recoveries/review/", **vapp(ours, mode="in_place")).status_code == 403
    assert Recovery.objects.count() == 1


def test_a_name_that_is_missing_is_asked_for(at_acme: Browser, ours: World) -> None:
    assert "Give what is recovered a name." in at_acme.sees("recoveries/review/", **vapp(ours, **{"0-new_name": ""}))


def test_a_name_that_is_taken_is_told(at_acme: Browser, ours: World) -> None:
    page = at_acme.reads_after("recoveries/review/", **vapp(ours, **{"0-new_name": "vapp-of-acme"}))
    assert "There is a vApp named vapp-of-acme already" in page


def test_a_damaged_archive_is_not_offered(at_acme: Browser, ours: World) -> None:
    Archive.objects.update(state="damaged")
    assert "There is no good archive" in at_acme.sees("recoveries/new/", vapp="vapp-of-acme")


@pytest.mark.parametrize("chosen", [vapp, vm])
def test_an_archive_of_another_tenant_cannot_be_chosen(
    at_acme: Browser, ours: World, theirs: World, chosen: Any
) -> None:
    foreign = theirs.ids["run_id"] if chosen is vapp else theirs.ids["archive_id"]
    page = at_acme.reads_after("recoveries/review/", **chosen(ours, **{"0-point": foreign}))
    assert "Choose one of the backup times in this list." in page
    assert Recovery.objects.for_tenant(ours.tenant).count() == 1


def test_a_vapp_of_another_tenant_has_no_backup_times(at_acme: Browser, ours: World, theirs: World) -> None:
    assert "There is no good archive" in at_acme.sees("recoveries/new/", vapp="vapp-of-globex")


def test_the_archive_whose_button_was_pressed_is_chosen(at_acme: Browser, ours: World) -> None:
    page = at_acme.sees("recoveries/new/", vm=ours.ids["vm_id"], archive=ours.ids["archive_id"])
    assert f'value="{ours.ids["archive_id"]}" selected' in page


def test_a_recovery_is_followed_live_and_cancelled(as_olivia: Browser, ours: World) -> None:
    page = as_olivia.sees(f"recoveries/{ours.ids['recovery_id']}/")
    assert f"/recoveries/{ours.ids['recovery_id']}/events/" in page
    assert "0 of 1 VMs recovered" in page
    assert "being cancelled" in as_olivia.reads_after(f"recoveries/{ours.ids['recovery_id']}/cancel/")


def test_only_an_administrator_cancels_what_overwrites(as_olivia: Browser, ours: World) -> None:
    Recovery.objects.update(mode="in_place")
    assert as_olivia.posts(f"recoveries/{ours.ids['recovery_id']}/cancel/").status_code == 403

"""The run's screen: what it says while the run goes on, and afterwards."""

import csv
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.models import Run, RunItem, Vm
from backups.models.runs import ItemState
from portal.views.progress import progress_of
from portal.views.timeline import draw
from tests.portal.conftest import Browser
from tests.portal.worlds import World, shared

pytestmark = [pytest.mark.database, pytest.mark.django_db]
T0 = datetime(2026, 11, 24, 22, tzinfo=UTC)


def at(second: float) -> datetime:
    return T0 + timedelta(seconds=second)


def item(name: str, load_kbps: float, state: str = "waiting", **times: float) -> RunItem:
    return RunItem(vm_name=name, load_kbps=load_kbps, state=state, **{key: at(s) for key, s in times.items()})


def test_the_live_part_says_what_goes_on(at_acme: Browser, ours: World) -> None:
    page = at_acme.sees(f"runs/{ours.ids['run_id']}/")
    assert f"/runs/{ours.ids['run_id']}/events/" in page
    assert 'data-live-state="running"' in page
    assert "0 of 1 VMs done. Archiving vm-of-acme." in page
    assert "Cancel now" in page
    part = at_acme.sees(f"runs/{ours.ids['run_id']}/live/")
    assert "<html" not in part
    assert "vm-of-acme" in part


def test_a_run_that_has_ended_asks_for_no_more(at_acme: Browser, ours: World) -> None:
    orders = {"highest_load": 10, "least_disturbance": 9.5, "name": 40, "random": 60}
    report = {"exposure_kb": 10, "bound_kb": 9, "orders": orders, "skew_s": 0, "longest_hold_s": 1}
    Run.objects.update(state="succeeded", report=report, message="1 of 1 VMs backed up.", finished_at=datetime.now(UTC))
    page = at_acme.sees(f"runs/{ours.ids['run_id']}/")
    assert "data-final" in page
    assert "What the order cost" in page
    for order in ("Least disturbance", "By name", "Random order", "No order does better than"):
        assert order in page
    assert "Cancel now" not in page


def test_cancelling_goes_to_the_run_and_says_so(as_olivia: Browser, ours: World) -> None:
    assert "being cancelled" in as_olivia.reads_after(f"runs/{ours.ids['run_id']}/cancel/", mode="now")
    assert Run.objects.get().cancel == "now"


def test_a_cancel_without_a_mode_is_refused_with_a_sentence(as_olivia: Browser, ours: World) -> None:
    assert "Cancel either now" in as_olivia.reads_after(f"runs/{ours.ids['run_id']}/cancel/")


def test_charlie_may_not_cancel_and_is_not_asked(as_charlie: Browser, ours: World) -> None:
    assert "Cancel now" not in as_charlie.sees(f"runs/{ours.ids['run_id']}/")
    assert as_charlie.posts(f"runs/{ours.ids['run_id']}/cancel/", mode="now").status_code == 403


def test_a_vm_name_cannot_bring_markup_along(at_acme: Browser, ours: World) -> None:
    RunItem.objects.update(vm_name="<b>web</b>", message="<script>")
    page = at_acme.sees(f"runs/{ours.ids['run_id']}/")
    assert "<b>web</b>" not in page
    assert "<script>\n" not in page
    assert "&lt;b&gt;web" in page


def test_no_page_carries_script_or_style_of_its_own(at_acme: Browser, ours: World) -> None:
    for path in ("", "plans/new/", "vapps/", f"runs/{ours.ids['run_id']}/"):
        page = at_acme.sees(path)
        assert "style=" not in page
        assert "<script>" not in page
        assert "onclick" not in page


def test_the_timeline_is_drawn_to_time() -> None:
    done = item("db", 400, "succeeded", snapshot_at=0, archiving_at=10, archived_at=60, removed_at=70)
    run = Run(state="succeeded", started_at=at(-5), finished_at=at(100))
    drawing = draw(run, [done], at(0), 400, at(500))
    spans = [(span.kind, round(span.left), round(span.width)) for span in drawing.lanes[0].spans]
    assert spans == [("waiting", 0, 10), ("archiving", 10, 50), ("removing", 60, 10)]
    assert drawing.lanes[0].exposure_kb == 400 * 70
    assert drawing.now_left is None
    assert drawing.ticks[0].label == "0 s"


def test_what_goes_on_is_drawn_until_now() -> None:
    busy = item("db", 400, "archiving", snapshot_at=0, archiving_at=10)
    busy.bytes_expected, busy.bytes_read = 200, 50
    waiting = item("web", 100, snapshot_at=0)
    drawing = draw(Run(state="running", started_at=T0), [busy, waiting], at(0), 400, at(50))
    assert drawing.now_left is not None
    assert [lane.spans[-1].kind for lane in drawing.lanes] == ["archiving", "waiting"]
    assert drawing.lanes[0].spans[-1].left + drawing.lanes[0].spans[-1].width == pytest.approx(drawing.now_left)
    assert drawing.lanes[0].done_percent == 25
    assert [round(lane.load_percent) for lane in drawing.lanes] == [100, 25]


def test_a_vm_that_was_never_snapshotted_has_an_empty_lane() -> None:
    failed = item("db", 0, "failed")
    drawing = draw(Run(state="failed", started_at=T0, finished_at=at(5)), [failed], None, 0, at(9))
    assert drawing.lanes[0].spans == []
    assert drawing.lanes[0].hold_s is None
    assert "db: failed" in drawing.lanes[0].told


def add_items(ours: World, count: int, **fields: Any) -> list[RunItem]:
    run, (vcenter, _) = Run.objects.get(), shared()
    first = Vm.objects.count()
    vms = Vm.objects.bulk_create(
        Vm(vcenter=vcenter, tenant=ours.tenant, instance_uuid=f"m{n}", ref=f"m{n}", name=f"m{n:04}", plan=run.plan)
        for n in range(first, first + count)
    )
    return RunItem.objects.bulk_create(
        RunItem(run=run, tenant=ours.tenant, vm=vm, vm_name=vm.name, **{"state": "waiting"} | fields) for vm in vms
    )


def end_run(**items: Any) -> None:
    RunItem.objects.update(finished_at=timezone.now(), **items)
    Run.objects.update(state="failed", finished_at=timezone.now())


def test_a_run_is_paused_and_goes_on(as_olivia: Browser, ours: World) -> None:
    (waits,) = add_items(ours, 1, snapshot_at=timezone.now())
    here = f"runs/{ours.ids['run_id']}/"
    assert "VMs that wait give their snapshots back, and get new ones" in as_olivia.sees(here)
    page = as_olivia.reads_after(f"{here}pause/")
    assert "nothing new starts" in page
    assert "Resume" in page
    assert "Paused" in page
    waits.refresh_from_db()
    assert (waits.state, waits.outcome) == ("removing", "queued")
    assert "paused already" in as_olivia.reads_after(f"{here}pause/")
    assert "The run goes on" in as_olivia.reads_after(f"{here}resume/")
    assert Run.objects.get().paused_at is None


def test_a_run_that_failed_is_retried_by_another_and_each_leads_to_the_other(as_olivia: Browser, ours: World) -> None:
    end_run(state="failed", message="The datastore was full.")
    here = f"runs/{ours.ids['run_id']}/"
    assert "Retry what failed" in as_olivia.sees(here)
    page = as_olivia.reads_after(f"{here}retry/")
    again = Run.objects.exclude(pk=ours.ids["run_id"]).get()
    assert f"/{here}" in page
    assert "did not back up" in page
    assert f"/runs/{again.pk}/" in as_olivia.sees(here)


def test_a_run_without_failures_has_nothing_to_retry(as_olivia: Browser, ours: World) -> None:
    end_run(state="succeeded")
    here = f"runs/{ours.ids['run_id']}/"
    assert "Retry what failed" not in as_olivia.sees(here)
    assert "nothing to retry" in as_olivia.reads_after(f"{here}retry/")


def test_a_vm_that_waits_is_raised_by_hand(as_olivia: Browser, ours: World) -> None:
    low, high = add_items(ours, 2)
    RunItem.objects.filter(pk=high.pk).update(priority=9)
    here = f"runs/{ours.ids['run_id']}/"
    page = as_olivia.sees(here)
    assert page.index(high.vm_name) < page.index(low.vm_name)
    page = as_olivia.reads_after(f"{here}items/{low.pk}/raise/")
    assert f"{low.vm_name} is the next to be archived." in page
    assert "next by hand" in page
    lanes = page[page.index("lane-list") :]
    assert lanes.index(low.vm_name) < lanes.index(high.vm_name)


def test_what_is_being_archived_cannot_be_raised(as_olivia: Browser, ours: World) -> None:
    page = as_olivia.reads_after(f"runs/{ours.ids['run_id']}/items/{ours.ids['item_id']}/raise/")
    assert "does not wait any more" in page


def test_charlie_sees_no_button_that_steers(as_charlie: Browser, ours: World) -> None:
    add_items(ours, 1)
    page = as_charlie.sees(f"runs/{ours.ids['run_id']}/")
    for button in ("Pause", "Archive next", "Cancel"):
        assert button not in page
    assert "report.csv" in page


def test_reasons_are_told(at_acme: Browser, ours: World) -> None:
    told = {"held_back": "ds1 answers in 90 ms.", "load_reason": "mean of 3 days at this hour", "batch": 2}
    add_items(ours, 1, **told)
    add_items(ours, 1, state="queued", reason="Left for a later batch: 4 at a time.")
    page = at_acme.sees(f"runs/{ours.ids['run_id']}/")
    for sentence in ("ds1 answers in 90 ms.", "mean of 3 days", "batch 2", "Left for a later batch: 4 at a time."):
        assert sentence in page


def test_the_forecast_stands_beside_what_happens(at_acme: Browser, ours: World) -> None:
    totals = {"exposure_kb": 2048, "bound_kb": 1024, "window_s": 95, "longest_hold_s": 75, "batches": 1}
    vms = {str(ours.ids["item_id"]): {"hold_s": 61, "growth_kb": 3072}}
    Run.objects.update(forecast={**totals, "vms": vms})
    page = at_acme.sees(f"runs/{ours.ids['run_id']}/")
    for told in (
        "forecast 2.0 MB",
        "forecast 1 min 15 s",
        "forecast 1 min 35 s",
        "forecast 1 min 1 s",
        "forecast 3.0 MB",
    ):
        assert told in page


def test_progress_is_counted_by_the_database_as_the_models_count_it(ours: World) -> None:
    now = timezone.now()
    RunItem.objects.update(bytes_expected=200, bytes_read=50, snapshot_at=now - timedelta(seconds=30))
    add_items(ours, 1, load_kbps=10, snapshot_at=now - timedelta(seconds=100), earlier_hold_s=20)
    ends = {"removed_at": now - timedelta(seconds=40), "finished_at": now}
    add_items(ours, 1, state=ItemState.SUCCEEDED, load_kbps=100, snapshot_at=now - timedelta(seconds=90), **ends)
    add_items(ours, 1, state=ItemState.FAILED, finished_at=now)
    found = progress_of(RunItem.objects.all(), now)
    assert {key: found[key] for key in ("vms", "ended", "good", "failed", "waiting", "open")} == {
        "vms": 4, "ended": 2, "good": 1, "failed": 1, "waiting": 1, "open": 1,
    }  # fmt: skip
    assert found["percent"] == 56
    assert found["exposure_kb"] == pytest.approx(5 * 30 + 10 * 120 + 100 * 50, rel=1e-3)
    assert found["longest_hold_s"] == pytest.approx(120, abs=0.01)
    assert list(found["archiving"]) == ["vm-of-acme"]


def test_a_run_of_thousands_is_shown_a_page_at_a_time_and_searched(at_acme: Browser, ours: World) -> None:
    add_items(ours, 2500)
    add_items(ours, 1, state="failed", finished_at=timezone.now(), message="No room left.")
    here = f"runs/{ours.ids['run_id']}/"
    page = at_acme.sees(here)
    assert "of 2502" in page
    assert page.count('class="lane lane-waiting"') == 99
    assert "No room left." not in page
    failed = at_acme.sees(here, show="failed")
    assert "No room left." in failed
    assert failed.count('class="lane lane-') == 2, "the axis and the VM that failed"
    assert "m0777" in at_acme.sees(f"{here}live/", q="m0777")
    assert "Show all 2502" in at_acme.sees(here, q="nothing of this name")


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume asynchronous iterators")
def test_the_report_is_a_table_for_spreadsheets(at_acme: Browser, ours: World) -> None:
    begin = timezone.now() - timedelta(seconds=90)
    item = RunItem.objects.get()
    item.vm_name, item.message, item.batch, item.grown_bytes = "=HYPERLINK(0)", "-1 of the disks", 1, 4096
    item.snapshot_at, item.state, item.quiesced = begin + timedelta(milliseconds=250), "succeeded", True
    item.archiving_at, item.archived_at = begin + timedelta(seconds=10), begin + timedelta(seconds=70)
    item.removing_at, item.removed_at = begin + timedelta(seconds=70), begin + timedelta(seconds=80.25)
    item.save()
    add_items(ours, 1, batch=1, snapshot_at=begin)
    Run.objects.update(forecast={"vms": {str(item.pk): {"hold_s": 61, "growth_kb": 3072}}})
    answer = at_acme.client.get(f"{at_acme.base}runs/{ours.ids['run_id']}/report.csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in answer.headers["Content-Disposition"]
    row, other = csv.DictReader(b"".join(answer).decode().splitlines())
    assert row["VM"] == "'=HYPERLINK(0)"
    assert row["Message"] == "'-1 of the disks"
    wanted = {
        "Skew ms": "250", "Hold s": "80.0", "Waited s": "9.75", "Archiving s": "60.0", "Removal s": "10.25",
        "Growth forecast KB": "3072", "Growth measured bytes": "4096", "Consistency reached": "quiesced",
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert (other["Skew ms"], other["Hold s"], other["State"]) == ("0", "", "waiting")

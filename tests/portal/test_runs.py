"""The run's screen: what it says while the run goes on, and afterwards."""

from datetime import UTC, datetime, timedelta

import pytest

from backups.models import Run, RunItem
from portal.views.timeline import draw
from tests.portal.conftest import Browser
from tests.portal.worlds import World

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
    orders = {"highest_load": 10, "name": 40, "reverse": 90}
    report = {"exposure_kb": 10, "bound_kb": 9, "orders": orders, "skew_s": 0, "longest_hold_s": 1}
    Run.objects.update(state="succeeded", report=report, message="1 of 1 VMs backed up.", finished_at=datetime.now(UTC))
    page = at_acme.sees(f"runs/{ours.ids['run_id']}/")
    assert "data-final" in page
    assert "What the order cost" in page
    assert "Idlest first" in page
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
    drawing = draw(run, [done], [done], at(500))
    spans = [(span.kind, round(span.left), round(span.width)) for span in drawing.lanes[0].spans]
    assert spans == [("waiting", 0, 10), ("archiving", 10, 50), ("removing", 60, 10)]
    assert drawing.lanes[0].exposure_kb == 400 * 70
    assert drawing.now_left is None
    assert drawing.ticks[0].label == "0 s"


def test_what_goes_on_is_drawn_until_now() -> None:
    busy = item("db", 400, "archiving", snapshot_at=0, archiving_at=10)
    busy.bytes_expected, busy.bytes_read = 200, 50
    waiting = item("web", 100, snapshot_at=0)
    drawing = draw(Run(state="running", started_at=T0), [busy, waiting], [busy, waiting], at(50))
    assert drawing.now_left is not None
    assert [lane.spans[-1].kind for lane in drawing.lanes] == ["archiving", "waiting"]
    assert drawing.lanes[0].spans[-1].left + drawing.lanes[0].spans[-1].width == pytest.approx(drawing.now_left)
    assert drawing.lanes[0].done_percent == 25
    assert [round(lane.load_percent) for lane in drawing.lanes] == [100, 25]


def test_a_vm_that_was_never_snapshotted_has_an_empty_lane() -> None:
    failed = item("db", 0, "failed")
    drawing = draw(Run(state="failed", started_at=T0, finished_at=at(5)), [failed], [failed], at(9))
    assert drawing.lanes[0].spans == []
    assert drawing.lanes[0].hold_s is None
    assert "db: failed" in drawing.lanes[0].told

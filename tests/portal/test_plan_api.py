"""Programs read and write every option of a plan, with the checks that people meet."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from backups.models import Archive, Plan, VApp
from backups.services.plans import apply_plan
from backups.services.repositories import create_repository
from tests.portal.test_api import api, plan, repository, shop

pytestmark = pytest.mark.django_db
__all__ = ["api", "plan", "repository", "shop"]

EVERYTHING: dict[str, Any] = {
    "cron": "0 8-18/2 * * 1-5",
    "time_zone": "Europe/Berlin",
    "every_weeks": 2,
    "first_week": "2026-05-20",
    "blackouts": [{"days": [0, 4], "start": "12:00", "end": "14:00"}],
    "keep_count": 3,
    "keep_days": 10,
    "keep_daily": 7,
    "keep_weekly": 5,
    "keep_monthly": 12,
    "keep_yearly": 3,
    "gfs_weekday": 4,
    "policy": "least_disturbance",
    "metric": "iops",
    "batch_size": 5,
    "vapps_whole": False,
    "hold_budget_s": 5400,
    "over_budget": "skip",
    "readers": 4,
    "quiesce": "require",
}


def changed(api: Any, plan: Plan, **options: Any) -> Any:
    return api("patch", f"plans/{plan.pk}/", options, If_Match=api("get", f"plans/{plan.pk}/").headers["ETag"])


def test_every_option_is_written_and_read_back(api: Any, plan: Plan) -> None:
    assert changed(api, plan, **EVERYTHING).status_code == 200
    read = api("get", f"plans/{plan.pk}/").json()
    assert {name: read[name] for name in EVERYTHING} == EVERYTHING


@pytest.mark.parametrize(
    ("option", "status"),
    [
        ({"blackouts": [{"days": [7], "start": "08:00", "end": "18:00"}]}, 400),
        ({"blackouts": [{"days": [1], "start": "8", "end": "18:00"}]}, 400),
        ({"blackouts": [{"days": [1]}]}, 422),
        ({"blackouts": "nights"}, 400),
        ({"blackouts": None}, 400),
        ({"blackouts": [{"days": list(range(7)), "start": "00:00", "end": "00:00"}]}, 422),
        ({"every_weeks": 0}, 400),
        ({"gfs_weekday": 7}, 400),
        ({"metric": "luck"}, 400),
        ({"time_zone": "Nowhere"}, 422),
        ({"cron": "R * * * *"}, 422),
    ],
)
def test_what_makes_no_sense_is_a_problem(api: Any, plan: Plan, option: dict[str, Any], status: int) -> None:
    answer = changed(api, plan, **option)
    assert answer.status_code == status, answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_the_next_starts_heed_weeks_and_blackouts(api: Any, plan: Plan) -> None:
    blackout = [{"days": list(range(7)), "start": "21:00", "end": "23:30"}]
    changed(api, plan, cron="0 22 * * *", time_zone="UTC", blackouts=blackout)
    starts = api("get", f"plans/{plan.pk}/starts/").json()["starts"]
    assert {start[11:16] for start in starts} == {"23:30"}


def test_the_retention_is_tried_without_deleting(api: Any, plan: Plan, shop: VApp) -> None:
    apply_plan(None, plan, vapps=[shop])
    now = timezone.now()
    for day in range(4):
        Archive.objects.create(
            tenant=plan.tenant, repository=plan.repository, vm=shop.vms.get(), vm_name="shop-db", full=True,
            backup_time=now - timedelta(days=day), bytes_total=1, bytes_read=1, bytes_new=1, bytes_stored=1,
        )  # fmt: skip
    changed(api, plan, cron="0 22 * * *", keep_count=2, keep_days=0, keep_monthly=1, gfs_weekday=now.weekday())
    tried = api("get", f"plans/{plan.pk}/retention/").json()
    assert tried["starts"] == 365
    assert tried["kept"][0]["reasons"][0] == {"rule": "newest", "text": "the newest"}
    assert tried["archives_now"] == 4
    assert tried["going_now"] in (1, 2)
    assert tried["going"][0]["reason"] == "not among the newest 2 and not a monthly archive that is kept"
    assert Archive.objects.exclude(state="deleted").count() == 4


def test_a_plan_by_hand_foretells_nothing(api: Any, plan: Plan) -> None:
    changed(api, plan, cron="")
    tried = api("get", f"plans/{plan.pk}/retention/").json()
    assert (tried["starts"], tried["until"], tried["kept"]) == (0, None, [])


def test_an_archive_is_locked_and_the_lock_only_prolonged(
    api: Any, plan: Plan, shop: VApp, tmp_path: Path, monkeypatch: Any
) -> None:
    """The row's part; that of the repository, which has no manifest here, is shown in tests/runs/test_retention.py."""
    monkeypatch.setattr("backups.services.archives.locks.lock", lambda *_: None)
    monkeypatch.setattr("backups.services.archives.locks.locked_until", lambda *_: None)
    repository = create_repository(None, "Kept", str(tmp_path / "kept"))
    archive = Archive.objects.create(
        tenant=plan.tenant, repository=repository, vm=shop.vms.get(), vm_name="shop-db", full=True,
        backup_time=timezone.now(), bytes_total=1, bytes_read=1, bytes_new=1, bytes_stored=1,
    )  # fmt: skip
    path = f"archives/{archive.pk}/"
    locked = api("post", f"{path}lock/", {"until": "2099-12-31T00:00:00Z"})
    assert locked.json()["locked_until"] == "2099-12-31T00:00:00Z"
    shorter = api("post", f"{path}lock/", {"until": "2098-12-31T00:00:00Z"})
    assert (shorter.status_code, shorter.json()["code"]) == (409, "conflict")
    assert api("post", f"{path}lock/", {"until": "2001-01-01T00:00:00Z"}).status_code == 422
    kept = api("delete", path)
    assert kept.status_code == 409
    assert "locked until 2099-12-31" in kept.json()["detail"]

"""Archives by VM: looked at by all, verified by operators, deleted by administrators."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.archive import layout
from backups.archive.addresses import create_store
from backups.errors import RepositoryUnavailable
from backups.models import Archive, AuditEntry, Plan, Repository
from backups.services import archives as service
from tests.portal.conftest import Browser
from tests.portal.worlds import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]


@pytest.fixture
def stored(ours: World, tmp_path: Path) -> None:
    """The archive has a manifest, though an empty one."""
    store = create_store(tmp_path / "repository")
    store.put(layout.archive(str(ours.tenant.pk), str(ours.ids["archive_id"])), b"")
    Repository.objects.update(path=str(tmp_path / "repository"))


def test_an_archive_says_how_and_why_it_was_read(at_acme: Browser, ours: World) -> None:
    Archive.objects.update(full_reason="The VM has no archive yet.")
    page = at_acme.sees("archives/")
    assert "vm-of-acme" in page
    assert "The VM has no archive yet." in page
    assert "not yet" in page


def test_archives_are_filtered_by_vm_and_by_words(at_acme: Browser, ours: World) -> None:
    assert "Archives of vm-of-acme" in at_acme.sees("archives/", vm=ours.ids["vm_id"])
    assert "No archive matches" in at_acme.sees("archives/", q="nowhere")


def test_a_vm_of_another_tenant_filters_nothing(at_acme: Browser, theirs: World) -> None:
    assert at_acme.client.get(f"{at_acme.base}archives/", {"vm": theirs.ids["vm_id"]}).status_code == 404


@pytest.mark.parametrize(("whole", "told"), [(True, "is whole"), (False, "is damaged")])
def test_verify_tells_what_it_found(
    as_olivia: Browser, ours: World, monkeypatch: pytest.MonkeyPatch, whole: bool, told: str
) -> None:
    monkeypatch.setattr(service, "verify_archive", lambda actor, archive: whole)
    assert told in as_olivia.reads_after(f"archives/{ours.ids['archive_id']}/verify/")


def test_a_repository_that_is_away_is_told(as_olivia: Browser, ours: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(actor: object, archive: Archive) -> bool:
        raise RepositoryUnavailable("The repository cannot be reached.")

    monkeypatch.setattr(service, "verify_archive", away)
    assert "cannot be reached" in as_olivia.reads_after(f"archives/{ours.ids['archive_id']}/verify/")


def test_deleting_says_what_is_lost_first(at_acme: Browser, ours: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[Archive] = []
    monkeypatch.setattr(service, "delete_archive", lambda actor, archive: deleted.append(archive))
    page = at_acme.sees(f"archives/{ours.ids['archive_id']}/delete/")
    assert "It is the last good archive of this VM" in page
    assert deleted == []
    at_acme.posts(f"archives/{ours.ids['archive_id']}/delete/")
    assert [archive.pk for archive in deleted] == [ours.ids["archive_id"]]


def test_olivia_may_not_delete_and_is_not_asked(as_olivia: Browser, ours: World) -> None:
    assert "Delete the archive" not in as_olivia.sees("archives/")
    assert as_olivia.posts(f"archives/{ours.ids['archive_id']}/delete/").status_code == 403


def test_alice_locks_an_archive_until_the_end_of_a_day(at_acme: Browser, ours: World, stored: None) -> None:
    page = f"archives/{ours.ids['archive_id']}/lock/"
    assert "It is not locked now" in at_acme.sees(page)
    assert "is locked until the end of 2099-12-31" in at_acme.reads_after(page, until="2099-12-31")
    assert Archive.objects.get().locked_until == datetime(2100, 1, 1, tzinfo=UTC)
    assert "locked until" in at_acme.sees("archives/")
    assert AuditEntry.objects.filter(action="archive.lock").count() == 1


def test_a_lock_is_never_shortened(at_acme: Browser, ours: World, stored: None) -> None:
    page = f"archives/{ours.ids['archive_id']}/lock/"
    at_acme.posts(page, until="2099-12-31")
    assert "never shortened" in at_acme.reads_after(page, until="2099-12-30")
    assert "in the future" in at_acme.reads_after(page, until="2001-01-01")
    assert Archive.objects.get().locked_until == datetime(2100, 1, 1, tzinfo=UTC)


def test_a_locked_archive_is_not_deleted_by_hand(at_acme: Browser, ours: World, stored: None) -> None:
    at_acme.posts(f"archives/{ours.ids['archive_id']}/lock/", until="2099-12-31")
    assert "until then nobody can delete it" in at_acme.sees(f"archives/{ours.ids['archive_id']}/delete/")
    told = at_acme.reads_after(f"archives/{ours.ids['archive_id']}/delete/")
    assert "locked until 2100-01-01 00:00 UTC; nobody can delete it before" in told
    assert Archive.objects.get().state == "good"


def test_the_archives_of_one_vm_say_why_they_stay(at_acme: Browser, ours: World) -> None:
    Plan.objects.update(keep_days=30)
    assert "kept: the newest; younger than 30 days; being recovered" in at_acme.sees("archives/", vm=ours.ids["vm_id"])


def test_olivia_may_not_lock(as_olivia: Browser, ours: World) -> None:
    assert "Lock the archive" not in as_olivia.sees("archives/")
    assert as_olivia.posts(f"archives/{ours.ids['archive_id']}/lock/", until="2099-12-31").status_code == 403
    assert Archive.objects.get().locked_until is None

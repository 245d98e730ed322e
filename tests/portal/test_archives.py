"""Archives by VM: looked at by all, verified by operators, deleted by administrators."""

import pytest

from backups.errors import RepositoryUnavailable
from backups.models import Archive
from backups.services import archives as service
from tests.portal.conftest import Browser
from tests.portal.worlds import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]


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

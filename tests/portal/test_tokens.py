"""Tokens of a tenant: shown once, never more than their role."""

import re

import pytest
from django.test import Client

from backups.models import AuditEntry, Tenant
from portal.models import ApiToken
from tests.portal.conftest import Browser
from tests.portal.worlds import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def test_a_token_is_shown_once_and_opens_the_api(at_acme: Browser, acme: Tenant) -> None:
    page = at_acme.reads_after("tokens/", name="script", role="viewer", expiry="30")
    secret = re.search(r'id="secret">(\w+)<', page)
    assert secret
    assert secret[1] not in at_acme.sees("tokens/")
    headers = {"Authorization": f"Bearer {secret[1]}"}
    assert Client().get(f"/api/v1/tenants/{acme.pk}/plans/", headers=headers).status_code == 200
    entry = AuditEntry.objects.get(action="token.create")
    assert secret[1] not in str(entry.detail)


def test_a_revoked_token_is_gone_and_audited(at_acme: Browser, ours: World) -> None:
    page = at_acme.reads_after(f"tokens/{ours.ids['token_id']}/revoke/")
    assert "no longer opens anything" in page
    assert not ApiToken.objects.exists()
    assert AuditEntry.objects.filter(action="token.revoke").exists()


def test_a_token_needs_a_name(at_acme: Browser) -> None:
    assert "This field is required" in at_acme.reads_after("tokens/", name="", role="viewer", expiry="30")
    assert not ApiToken.objects.exists()


def test_the_audit_log_is_the_tenants_own(at_acme: Browser, ours: World, theirs: World) -> None:
    page = at_acme.sees("audit/")
    assert "audit-of-acme" in page
    assert "globex" not in page.lower()

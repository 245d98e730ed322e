"""Alice steers a run on a lab vCenter: she pauses it, lets it go on, and retries what failed."""

import base64
import json
import ssl
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Installation
from tests.browser.test_story import LIVE_MS, back_up, make_plan, sign_in

pytestmark = pytest.mark.browser
BROKEN = "acme-web-lb"


def want_faults(installation: Installation, **faults: Any) -> None:
    """The lab's own call."""
    lab = installation.lab
    login = base64.b64encode(f"{lab['username']}:{lab['password']}".encode()).decode()
    context = ssl.create_default_context(cadata=lab["certificate_pem"])
    context.check_hostname = False
    request = urllib.request.Request(
        f"https://{lab['host']}:{lab['port']}/lab/faults",
        data=json.dumps(faults).encode(),
        method="PUT",
        headers={"Authorization": f"Basic {login}"},
    )
    with urllib.request.urlopen(request, context=context):  # noqa: S310 - the lab, over https
        pass


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIVE_MS / 1000
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_run_is_paused_goes_on_and_what_failed_is_retried(page: Page, installation: Installation) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    want_faults(installation, create_snapshot={BROKEN: "The snapshot file cannot be made."})
    sign_in(page, installation, "alice")
    make_plan(page, "Steered")
    back_up(page, "acme-web", "Steered")

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused since")).to_be_visible()
    wait_until(lambda: installation.ask("snapshots") == [])
    assert page.locator("[data-final]").count() == 0, "a run that is paused has not ended"

    page.get_by_role("button", name="Resume").click()
    expect(page.locator("[data-live-state=failed]")).to_be_visible(timeout=LIVE_MS)
    expect(page.locator(".lead-in").first).to_contain_text("3 of 4 VMs backed up.")
    expect(page.get_by_text("The snapshot could not be taken").first).to_be_visible()
    first = page.url

    want_faults(installation)
    page.get_by_role("button", name="Retry what failed").click()
    expect(page.locator("[data-live-state=succeeded]")).to_be_visible(timeout=LIVE_MS)
    expect(page.locator(".lead-in").first).to_contain_text("1 of 1 VMs backed up.")
    assert installation.ask("snapshots") == []
    page.get_by_role("link", name="run of").click()
    assert page.url == first
    expect(page.get_by_text("Retried by the run of")).to_be_visible()

    with page.expect_download() as download:
        page.get_by_role("link", name="Report as CSV").click()
    table = download.value.path().read_text()
    assert table.startswith("VM,vApp,Batch")
    assert BROKEN in table


def test_a_forecast_is_played_with(page: Page, installation: Installation) -> None:
    sign_in(page, installation, "alice")
    page.get_by_role("link", name="Plans", exact=True).click()
    page.get_by_role("link", name="Forecast of Steered").click()
    expect(page.get_by_role("heading", name="What there is to choose from")).to_be_visible()
    page.get_by_label("Readers").fill("1")
    expect(page.locator("#told-first")).to_contain_text("The plan as it is saved")
    page.get_by_label("Order").select_option(label="By name")
    expect(page.locator("tr.own")).to_contain_text("By name")
    page.get_by_role("link", name="Least disturbance").first.click()
    expect(page.get_by_label("Order")).to_have_value("least_disturbance")

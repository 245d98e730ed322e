"""Alice, who never read a manual: from a plan in the browser to a vApp recovered, on a lab vCenter over the wire."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Installation

pytestmark = pytest.mark.browser
LIVE_MS = 90_000


def sign_in(page: Page, installation: Installation, name: str) -> None:
    page.goto(installation.address)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(installation.passwords[name])
    page.get_by_role("button", name="Sign in").click()


def make_plan(page: Page, name: str) -> None:
    page.get_by_role("link", name="Plans", exact=True).click()
    page.get_by_role("link", name="New plan").first.click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="OK").click()


def back_up(page: Page, vapp: str, plan: str) -> None:
    page.get_by_label(f"vApp {vapp}", exact=True).check()
    page.get_by_label("Backup plan").select_option(label=plan)
    page.get_by_role("button", name="Apply backup plan").click()
    expect(page.get_by_text(f"The plan {plan} now protects {vapp}.")).to_be_visible()
    page.get_by_label(f"vApp {vapp}", exact=True).check()
    page.get_by_role("button", name="Back up now").click()


def test_from_a_plan_to_a_recovered_vapp(page: Page, installation: Installation) -> None:
    sign_in(page, installation, "alice")
    make_plan(page, "Nightly")
    expect(page.get_by_role("heading", name="vApps")).to_be_visible()
    expect(page.get_by_text("globex")).to_have_count(0)

    back_up(page, "acme-web", "Nightly")
    seen = watch(page)
    expect(page.locator("[data-live-state=succeeded]")).to_be_visible(timeout=LIVE_MS)
    expect(page.locator(".lead-in").first).to_contain_text("4 of 4 VMs backed up.")
    states = seen()
    assert len(states) > 1, "the page changed by itself, without a reload"
    assert installation.ask("snapshots") == []

    page.get_by_role("link", name="vApps", exact=True).click()
    page.get_by_label("vApp acme-web", exact=True).check()
    page.get_by_role("button", name="Recover", exact=True).click()
    page.get_by_label("New name").fill("acme-web-copy")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="What will happen")).to_be_visible()
    page.get_by_role("button", name="Start recovery").click()
    expect(page.locator("[data-live-state=succeeded]")).to_be_visible(timeout=LIVE_MS)
    expect(page.locator(".lead-in").first).to_contain_text("4 of 4 VMs recovered.")
    unequal = installation.ask("compare", "acme-web-copy")
    assert len(unequal) == 4
    assert not any(unequal.values()), unequal


def test_in_place_from_the_browser(page: Page, installation: Installation) -> None:
    sign_in(page, installation, "bob")
    make_plan(page, "Hourly")
    back_up(page, "globex-shop", "Hourly")
    expect(page.locator("[data-live-state=succeeded]")).to_be_visible(timeout=LIVE_MS)
    page.get_by_role("link", name="Recover", exact=True).click()
    page.get_by_role("link", name="Recover globex-shop").click()
    page.get_by_label("In place").check()
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("powered off").first).to_be_visible()
    page.get_by_role("button", name="Overwrite and recover").click()
    expect(page.locator("[data-live-state=succeeded]")).to_be_visible(timeout=LIVE_MS)
    expect(page.locator(".lead-in").first).to_contain_text("4 of 4 VMs recovered.")


def test_a_wrong_password_is_told(page: Page, installation: Installation) -> None:
    page.goto(installation.address)
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill("not this one")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()


def test_a_plan_without_vms_says_what_to_do(page: Page, installation: Installation) -> None:
    sign_in(page, installation, "alice")
    make_plan(page, "Empty")
    page.get_by_role("link", name="Plans", exact=True).click()
    page.get_by_role("row", name="Empty").get_by_role("button", name="Back up now").click()
    expect(page.get_by_role("alert")).to_contain_text("apply it to a vApp")


def test_a_wrong_vcenter_address_says_what_to_check(page: Page, installation: Installation) -> None:
    sign_in(page, installation, "provider")
    page.get_by_role("link", name="vCenters", exact=True).click()
    page.get_by_role("link", name="Enrol").first.click()
    page.get_by_label("Address").fill("127.0.0.1")
    page.get_by_label("Port").fill("1")
    page.get_by_role("button", name="Look up").click()
    expect(page.get_by_role("alert")).to_contain_text("127.0.0.1")


def test_a_wrong_vcenter_password_says_what_to_do_and_keeps_nothing(page: Page, installation: Installation) -> None:
    sign_in(page, installation, "provider")
    page.get_by_role("link", name="vCenters", exact=True).click()
    page.get_by_role("link", name="Enrol").first.click()
    page.get_by_label("Address").fill(installation.lab["host"])
    page.get_by_label("Port").fill(str(installation.lab["port"]))
    page.get_by_role("button", name="Look up").click()
    page.get_by_label("Name", exact=True).fill("Second")
    page.get_by_label("User", exact=True).fill(installation.lab["username"])
    page.get_by_label("Password").fill("not this one")
    page.get_by_label("The fingerprint is that of this vCenter").check()
    page.get_by_role("button", name="Enrol").click()
    expect(page.get_by_role("alert")).to_contain_text("password")
    page.get_by_role("link", name="vCenters", exact=True).click()
    expect(page.get_by_text("Second")).to_have_count(0)


def watch(page: Page):  # type: ignore[no-untyped-def]
    """Collects what the live part of the page says of itself as it changes."""
    page.evaluate(
        """() => {
            window.seen = [];
            const look = () => window.seen.push(document.querySelector("[data-summary]")?.dataset.summary);
            look();
            new MutationObserver(look).observe(document.getElementById("live"), {childList: true, subtree: true});
        }"""
    )
    return lambda: set(page.evaluate("() => window.seen"))

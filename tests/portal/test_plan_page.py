"""The plan's page in a real browser: what does not matter is out of sight, and what will happen follows each change."""

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Page, expect, sync_playwright

from backups.models import Tenant
from tests.portal.server import serve
from tests.portal.test_api_docs import CHROMIUM
from tests.portal.worlds import shared

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture(params=[True, False], ids=["with script", "without script"])
def scripted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def page(acme: Tenant, alice: User, scripted: bool) -> Iterator[Page]:
    shared()
    client = Client()
    client.force_login(alice)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    with serve() as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**CHROMIUM)
        context = browser.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=scripted)
        address = f"http://127.0.0.1:{port}"
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": address}])
        page = context.new_page()
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda told: troubles.append(told.text) if told.type == "error" else None)
        page.goto(f"{address}/t/{acme.pk}/plans/new/")
        yield page
        browser.close()
    assert troubles == []


@pytest.mark.parametrize("scripted", [True], indirect=True)
def test_what_will_happen_follows_each_change(page: Page) -> None:
    expect(page.locator("#starts li")).to_have_count(5)
    expect(page.locator("#kept")).to_contain_text("after 365 starts: 30 archives")
    expect(page.get_by_label("Cron expression")).to_be_hidden()

    page.locator("label", has_text="Weekly").first.click()
    expect(page.get_by_label("Every so many weeks")).to_be_visible()
    page.get_by_label("Every so many weeks").fill("4")
    expect(page.locator("#kept")).to_contain_text("after 13 starts")

    page.get_by_text("Keep some for longer").click()
    page.get_by_label("Yearly").fill("2")
    expect(page.locator("#kept")).to_contain_text("Yearly")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("scripted", [True], indirect=True)
def test_a_day_of_the_month_gives_way_to_a_weekday(page: Page) -> None:
    page.locator("label", has_text="Monthly").first.click()
    expect(page.get_by_label("Weekday")).to_be_hidden()
    page.get_by_label("On", exact=True).select_option("1")
    expect(page.get_by_label("Weekday")).to_be_visible()
    expect(page.get_by_label("Day of the month")).to_be_hidden()
    expect(page.locator("#starts li").first).to_contain_text("Mon ")


def test_a_plan_with_a_blackout_is_made(page: Page) -> None:
    page.get_by_label("Name", exact=True).fill("Nightly")
    page.get_by_text("Blackouts: times in which nothing starts").click()
    blackout = page.get_by_role("group", name="Blackout 1")
    for day in ("Sat", "Sun"):
        blackout.get_by_text(day).click()
    blackout.get_by_label("From").fill("20:00")
    blackout.get_by_label("To").fill("23:00")
    page.get_by_role("button", name="OK").click()
    expect(page.get_by_text("The plan Nightly is saved.")).to_be_visible()
    page.goto(page.url.replace("/vapps/", "/plans/"))
    page.get_by_role("link", name="Nightly", exact=True).click()
    expect(blackout.get_by_label("To")).to_have_value("23:00")
    expect(blackout.get_by_role("checkbox", checked=True)).to_have_count(2)

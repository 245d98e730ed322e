"""The page of the API works in a real browser under the content security policy, without a network."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.portal.server import serve

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
CHROMIUM = {
    "executable_path": "/usr/bin/chromium",
    "args": ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
}


@pytest.fixture
def address() -> Iterator[str]:
    with serve() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**CHROMIUM)
        yield browser.new_page()
        browser.close()


def test_the_page_shows_every_endpoint_and_asks_nobody_else(address: str, page: Page) -> None:
    troubles: list[str] = []
    asked: list[str] = []
    page.on("console", lambda told: troubles.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/api/v1/docs/")
    page.get_by_text("/api/v1/tenants/{tenant_id}/plans/{plan_id}/runs/").first.click()
    page.get_by_text("A repeat starts nothing twice.").first.wait_for()
    assert troubles == []
    assert {url for url in asked if not url.startswith((address, "data:"))} == set()

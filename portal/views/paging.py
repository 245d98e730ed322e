from typing import Any

from django.core.paginator import Page, Paginator
from django.http import HttpRequest

PER_PAGE = 50


def page_of(request: HttpRequest, rows: Any, key: str = "page", per_page: int = PER_PAGE) -> Page[Any]:
    """A number out of range gives the nearest page, so that old links keep working."""
    return Paginator(rows, per_page).get_page(request.GET.get(key))

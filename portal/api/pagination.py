"""Apart from the views: the framework imports these by name while the views are being imported."""

from typing import Any

from rest_framework.pagination import CursorPagination


class Pages(CursorPagination):
    """Each view names its order in `ordering`; ties are broken by the key, so no row is left out between pages."""

    page_size = 100
    page_size_query_param = "page_size"
    max_page_size = 500

    def get_ordering(self, request: Any, queryset: Any, view: Any) -> Any:  # noqa: ARG002
        return (*getattr(view, "ordering", ()), "pk")

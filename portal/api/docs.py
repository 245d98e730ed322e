"""The OpenAPI document and its page: open to all, since it tells nothing of any tenant."""

from typing import Any

from csp.constants import NONCE, SELF
from csp.decorators import csp_update
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from portal.access import Access

PUBLIC = Access("public")
schema: Any = SpectacularAPIView.as_view(authentication_classes=[], permission_classes=[])
schema.access = PUBLIC
# Swagger UI sets styles from its script; its own script comes as a file of the same origin.
page: Any = csp_update({"style-src": [SELF, "'unsafe-inline'"], "script-src": [SELF, NONCE]})(
    SpectacularSwaggerSplitView.as_view(url_name="api-schema", authentication_classes=[], permission_classes=[])
)
page.access = PUBLIC

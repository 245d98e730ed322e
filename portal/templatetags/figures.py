"""How figures, times and states look on every screen."""

from datetime import datetime
from typing import Any

from django import template
from django.forms import BoundField, CheckboxInput, CheckboxSelectMultiple, RadioSelect, Select
from django.templatetags.static import static
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()
UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
TONES = {
    "succeeded": ("good", "check-circle-fill"),
    "good": ("good", "check-circle-fill"),
    "protected": ("good", "shield-check"),
    "failed": ("bad", "x-circle-fill"),
    "errored": ("bad", "x-circle-fill"),
    "damaged": ("bad", "exclamation-triangle-fill"),
    "unprotected": ("bad", "exclamation-triangle-fill"),
    "running": ("busy", "arrow-repeat"),
    "snapshotting": ("busy", "camera"),
    "archiving": ("busy", "archive"),
    "removing": ("busy", "arrow-repeat"),
    "waiting": ("wait", "hourglass-split"),
    "paused": ("wait", "hourglass-split"),
    "first": ("wait", "hourglass-split"),
}


@register.filter
def size(count: float | None) -> str:
    """Bytes, in binary units, with three significant digits at most."""
    if count is None:
        return "–"
    value, unit = float(count), 0
    while abs(value) >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    digits = 0 if unit == 0 or value >= 100 else 1
    return f"{value:.{digits}f} {UNITS[unit]}"


@register.filter
def size_kb(count: float | None) -> str:
    return size(None if count is None else count * 1024)


@register.filter
def rate(kbps: float | None) -> str:
    return "–" if kbps is None else f"{size(kbps * 1024)}/s"


@register.filter
def span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days"


@register.simple_tag
def moment(at: datetime | None, otherwise: str = "–") -> str:
    """UTC, which the page turns into the reader's own time."""
    if at is None:
        return otherwise
    return format_html('<time datetime="{}">{}</time>', at.isoformat(), f"{at:%Y-%m-%d %H:%M} UTC")


@register.simple_tag
def icon(name: str) -> SafeString:
    href = f"{static('vendor/icons.svg')}#{name}"
    return format_html('<svg class="icon" aria-hidden="true" width="16" height="16"><use href="{}"/></svg>', href)


@register.simple_tag
def state(value: str, label: str) -> SafeString:
    """A state is told by a word, a shape and a colour, never by the colour alone."""
    tone, shape = TONES.get(value, ("idle", "slash-circle" if value == "cancelled" else "clock"))
    return format_html('<span class="state state-{}">{} {}</span>', tone, icon(shape), label)


@register.simple_tag(takes_context=True)
def nav_link(context: dict[str, Any], name: str, shape: str, label: str, tenant: Any = None) -> SafeString:
    url = reverse(name, args=[tenant.pk] if tenant else [])
    path = context["request"].path
    here = path == url or (path.startswith(url) and name not in ("dashboard", "provider"))
    current = SafeString(' aria-current="page"') if here else ""
    return format_html('<a class="nav-item" href="{}"{}>{} {}</a>', url, current, icon(shape), label)


@register.simple_tag(takes_context=True)
def with_page(context: dict[str, Any], number: int, key: str = "page") -> str:
    query = context["request"].GET.copy()
    query[key] = str(number)
    return f"?{query.urlencode()}"


@register.filter
def is_checkbox(field: BoundField) -> bool:
    return isinstance(field.field.widget, CheckboxInput)


@register.filter
def styled(field: BoundField) -> SafeString:
    widget = field.field.widget
    look = "form-control"
    if isinstance(widget, CheckboxInput | RadioSelect | CheckboxSelectMultiple):
        look = "form-check-input"
    elif isinstance(widget, Select):
        look = "form-select"
    attrs: dict[str, str | bool] = {"class": f"{look} is-invalid" if field.errors else look}
    if isinstance(widget, RadioSelect | CheckboxSelectMultiple):
        return field.as_widget()
    return field.as_widget(attrs=attrs)

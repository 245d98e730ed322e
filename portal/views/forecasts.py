"""What a plan's next run will cost, and what would cost less: to be read, and to be played with."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render

from backups.forecast import Forecast
from backups.models import Plan, Role, Tenant, VCenter
from backups.models.plans import Policy
from backups.services.datastores import places_of
from backups.services.forecasts import forecast_plan
from backups.services.plans import vms_of
from portal.access import tenant_view
from portal.forecasts import Foretold, foretell, tried
from portal.templatetags import figures
from portal.views.runs import ORDERS

MOST_VMS = 20
MOST_DATASTORES = 12
MINUTE_S = 60
NO_BREAK = "\N{NO-BREAK SPACE}"


class TryForm(forms.Form):
    """What is not filled in is as the plan has it."""

    policy = forms.ChoiceField(choices=Policy, label="Order", required=False)
    readers = forms.IntegerField(min_value=1, max_value=64, required=False)
    batch_size = forms.IntegerField(
        min_value=0, max_value=100_000, required=False, label="Batch size", help_text="0: all together."
    )
    hold_minutes = forms.FloatField(
        min_value=0, max_value=7 * 1440, required=False, label="Longest hold, minutes", help_text="0: no limit."
    )

    def __init__(self, sent: QueryDict, plan: Plan) -> None:
        own = {name: str(getattr(plan, name)) for name in ("policy", "readers", "batch_size")}
        own["hold_minutes"] = minutes_of(plan.hold_budget_s)
        super().__init__(own | {name: sent[name] for name in own if sent.get(name)})

    def options(self) -> dict[str, Any]:
        """Nothing of it while there is a mistake."""
        if not self.is_valid():
            return {}
        given = dict(self.cleaned_data)
        minutes = given.pop("hold_minutes")
        return given | {"hold_budget_s": round(MINUTE_S * minutes)}


def minutes_of(seconds: int) -> str:
    return f"{seconds / MINUTE_S:g}"


@dataclass(frozen=True)
class Row:
    """One of the things there are to choose from; lengths in percent of the dearest."""

    told: Forecast
    order: str
    size: str
    percent: float
    bound_percent: float
    above: str
    short_kb: float
    own: bool
    query: str


@dataclass(frozen=True)
class Room:
    datastore: str
    peak_kb: float
    room_kb: float | None
    percent: float
    short: bool


@tenant_view(Role.VIEWER)
def plan_forecast(request: HttpRequest, tenant: Tenant, plan_id: UUID) -> HttpResponse:
    plan = get_object_or_404(Plan.objects.for_tenant(tenant).select_related("tenant"), pk=plan_id)
    form = TryForm(request.GET, plan)
    changed = {name: value for name, value in form.options().items() if value != getattr(plan, name)}
    tested = tried(plan, changed)
    told = foretell(tested)
    context = {
        "plan": plan,
        "form": form,
        "told": told,
        "changed": changed,
        "sentences": _sentences(told, forecast_plan(plan) if changed else None),
        "rows": _rows(told, tested.hold_budget_s),
        "rooms": _rooms(told, tested),
        "left_out": _left_out(told.own),
        "vms": sorted(told.own.courses, key=lambda course: -course.growth_kb)[:MOST_VMS],
        "part": "HX-Request" in request.headers,
    }
    return render(request, "forecasts/_told.html" if context["part"] else "forecasts/plan.html", context)


def _left_out(own: Forecast) -> dict[str, list[str]]:
    """The VMs' names by the reason."""
    found: dict[str, list[str]] = {}
    for id_, reason in own.left_out.items():
        found.setdefault(reason, []).append(own.names[id_])
    return found


def _sentences(told: Foretold, saved: Forecast | None) -> list[str]:
    own = told.own
    if not own.exposure_kb:
        return [f"Nothing is known yet of what these VMs write. The run is expected to take {span(own.window_s)}."]
    costs = (
        f"Snapshots are expected to grow by {size_kb(own.exposure_kb)} in all, {_above(own)}; the longest is held for "
        f"{span(own.longest_hold_s)}, and the run takes {span(own.window_s)}."
    )
    return [costs, _saved(own, saved) if saved else _better(told)]


def span(seconds: float) -> str:
    return figures.span(seconds).replace(" ", NO_BREAK)


def size_kb(kilobytes: float) -> str:
    return figures.size_kb(kilobytes).replace(" ", NO_BREAK)


def _above(told: Forecast) -> str:
    """Against the bound, which is of the same readers and durations."""
    percent = round(100 * (told.exposure_kb / told.bound_kb - 1)) if told.bound_kb else 0
    return f"{percent} % above the least possible" if percent > 0 else "the least possible"


def _better(told: Foretold) -> str:
    better = told.better
    if better is None:
        return f"No other order or batch size does noticeably better with {_readers(told.own.readers)}."
    less = round(100 * (1 - better.exposure_kb / told.own.exposure_kb))
    what = f"{ORDERS[better.policy]}, {_size(better)}"
    return f"{what}, would let them grow by {less} % less: {size_kb(better.exposure_kb)} in {span(better.window_s)}."


def _saved(own: Forecast, saved: Forecast) -> str:
    percent = round(100 * (own.exposure_kb / saved.exposure_kb - 1)) if saved.exposure_kb else 0
    compared = f"{abs(percent)} % {'more' if percent > 0 else 'less'}" if percent else "as much"
    return f"The plan as it is saved: {size_kb(saved.exposure_kb)} in {span(saved.window_s)}. This would be {compared}."


def _readers(count: int) -> str:
    return "1 reader" if count == 1 else f"{count} readers"


def _size(told: Forecast) -> str:
    return f"{told.batch_size} at a time" if told.batch_size else "all together"


def _rows(told: Foretold, hold_budget_s: int) -> list[Row]:
    dearest = max((other.exposure_kb for other in told.others), default=0) or 1
    return [
        Row(
            told=other,
            order=ORDERS[other.policy],
            size=_size(other),
            percent=100 * other.exposure_kb / dearest,
            bound_percent=100 * other.bound_kb / dearest,
            above=_above(other),
            short_kb=sum(other.short_kb.values()),
            own=told.is_own(other),
            query=urlencode(
                {
                    "policy": other.policy,
                    "batch_size": other.batch_size,
                    "readers": other.readers,
                    "hold_minutes": minutes_of(hold_budget_s),
                }
            ),
        )
        for other in told.others
    ]


def _rooms(told: Foretold, plan: Plan) -> list[Room]:
    """The fullest first."""
    datastores, _ = places_of(VCenter.objects.filter(vms__in=vms_of(plan)).distinct())
    rooms = [_room(told.own, name, kb, datastores) for name, kb in told.own.peak_kb.items()]
    return sorted(rooms, key=lambda room: (-room.short, -room.percent, room.datastore))[:MOST_DATASTORES]


def _room(own: Forecast, name: str, peak_kb: float, datastores: dict[str, Any]) -> Room:
    room_kb = datastores[name].room_kb if name in datastores else None
    percent = min(100 * peak_kb / room_kb, 100) if room_kb and room_kb > 0 else 100.0 if room_kb is not None else 0.0
    return Room(name, peak_kb, room_kb, percent, name in own.short_kb)

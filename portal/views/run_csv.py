"""A run as a table for spreadsheets: one line for each VM, sent while it is read."""

import csv
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Min
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.text import slugify

from backups.models import Role, Run, RunItem, Tenant
from portal.access import tenant_view
from portal.views.runs import in_order

COLUMNS = (
    "VM", "vApp", "Batch", "Position", "Load", "Load reason", "Snapshot time", "Skew ms", "Hold s",
    "Growth forecast KB", "Growth measured bytes", "Waited s", "Archiving s", "Removal s", "Consistency reached",
    "Transport", "Bytes read", "Bytes new", "Bytes stored", "Full or changed", "Reason", "State", "Message",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
AT_A_TIME = 500


class Echo:
    """A file that hands back what is written to it."""

    def write(self, line: str) -> str:
        return line


@tenant_view(Role.VIEWER)
def run_report(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse | StreamingHttpResponse:  # noqa: ARG001
    run = get_object_or_404(Run.objects.for_tenant(tenant), pk=run_id)
    items = RunItem.objects.for_tenant(tenant).filter(run=run).select_related("archive")
    name = f"{slugify(run.plan_name) or 'run'}-{run.created_at:%Y%m%d-%H%M}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingHttpResponse(_lines(run, items), content_type="text/csv; charset=utf-8", headers=headers)


async def _lines(run: Run, items: Any) -> AsyncIterator[str]:
    writer = csv.writer(Echo())
    yield writer.writerow(COLUMNS)
    begins = {
        row["batch"]: row["begin"] async for row in items.order_by().values("batch").annotate(begin=Min("snapshot_at"))
    }
    foretold = run.forecast.get("vms", {})
    async for item in in_order(items).aiterator(AT_A_TIME):
        cells = _cells(item, begins.get(item.batch), foretold.get(str(item.pk), {}))
        yield writer.writerow([_harmless(cell) for cell in cells])


def _cells(item: RunItem, batch_begin: datetime | None, forecast: dict[str, float]) -> tuple[Any, ...]:
    skew_s = seconds(batch_begin, item.snapshot_at)
    return (
        item.vm_name, item.vapp_name, item.batch, item.position, item.load, item.load_reason,
        item.snapshot_at.isoformat() if item.snapshot_at else None,
        None if skew_s is None else round(1000 * skew_s),
        None if item.hold_s is None else round(item.hold_s + item.earlier_hold_s, 3),
        forecast.get("growth_kb"), item.grown_bytes,
        seconds(item.held_from, item.archiving_at), seconds(item.archiving_at, item.archived_at),
        seconds(item.removing_at, item.removed_at), consistency(item), item.transport,
        item.bytes_read, item.bytes_new, item.bytes_stored, extent(item), item.reason,
        item.state, item.message,
    )  # fmt: skip


def seconds(begin: datetime | None, end: datetime | None) -> float | None:
    return round((end - begin).total_seconds(), 3) if begin and end else None


def consistency(item: RunItem) -> str | None:
    if not item.snapshot_at:
        return None
    return "quiesced" if item.quiesced else "crash-consistent"


def extent(item: RunItem) -> str | None:
    if item.archive is None:
        return None
    return "full" if item.archive.full else "changed"


def _harmless(cell: Any) -> Any:
    """A spreadsheet takes text that begins so for a formula; names come from whoever named the VM."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell

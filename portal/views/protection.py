"""Whether a VM is protected, and what to say beside it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery

from backups.models import Archive, Plan, RunItem, Tenant, Vm
from backups.models.archives import ArchiveState
from backups.models.runs import ITEM_FINAL, ItemState

LABELS = {
    "unprotected": "Not protected",
    "failed": "Last backup failed",
    "running": "Backing up",
    "first": "No backup yet",
    "protected": "Protected",
    "partly": "Partly protected",
}
WORST_FIRST = ("failed", "running", "first", "protected")


def with_protection(vms: QuerySet[Vm], tenant: Tenant) -> QuerySet[Vm]:
    """Adds `last_backup` and `last_state`, in the same query."""
    archives = Archive.objects.for_tenant(tenant).filter(vm=OuterRef("pk"), state=ArchiveState.GOOD)
    items = RunItem.objects.for_tenant(tenant).filter(vm=OuterRef("pk")).order_by("-run__created_at")
    return vms.select_related("plan", "vapp__plan").annotate(
        last_backup=Subquery(archives.order_by("-backup_time").values("backup_time")[:1]),
        last_state=Subquery(items.values("state")[:1]),
    )


def status_of(planned: bool, last_state: str | None, last_backup: datetime | None) -> str:
    if last_state and last_state not in ITEM_FINAL:
        return "running"
    if not planned:
        return "unprotected"
    if last_state in (ItemState.FAILED, ItemState.ERRORED):
        return "failed"
    return "protected" if last_backup else "first"


@dataclass
class Row:
    """A VM on the vApps screen."""

    vm: Any
    plan: Plan | None
    status: str

    @property
    def label(self) -> str:
        return LABELS[self.status]


def row_of(vm: Any) -> Row:
    plan = vm.effective_plan
    return Row(vm, plan, status_of(plan is not None, vm.last_state, vm.last_backup))


@dataclass
class Group:
    """A vApp with its VMs, or the VMs outside any."""

    vapp: Any
    rows: list[Row]

    @property
    def status(self) -> str:
        found = {row.status for row in self.rows}
        if not found or found == {"unprotected"}:
            return "unprotected" if not (self.vapp and self.vapp.plan) else "first"
        if "unprotected" in found:
            return "partly"
        return next(status for status in WORST_FIRST if status in found)

    @property
    def label(self) -> str:
        return LABELS[self.status]

    @property
    def write_kbps(self) -> float:
        return float(sum(row.vm.write_kbps for row in self.rows))

    @property
    def capacity_bytes(self) -> int:
        return sum(row.vm.capacity_bytes for row in self.rows)

    @property
    def last_backup(self) -> datetime | None:
        """The oldest of its VMs' newest backups: what the whole vApp can be taken back to."""
        times = [row.vm.last_backup for row in self.rows]
        return min(times) if times and all(times) else None

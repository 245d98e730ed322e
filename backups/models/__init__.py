from backups.models.archives import Archive, Repository, TenantKey
from backups.models.audit import AuditEntry
from backups.models.events import Event
from backups.models.inventory import Datastore, LoadSample, VApp, VCenter, Vm
from backups.models.plans import Plan
from backups.models.recoveries import Recovery, RecoveryItem
from backups.models.runs import Run, RunItem, SnapshotRecord
from backups.models.tenancy import Membership, Role, Tenant

__all__ = [
    "Archive",
    "AuditEntry",
    "Datastore",
    "Event",
    "LoadSample",
    "Membership",
    "Plan",
    "Recovery",
    "RecoveryItem",
    "Repository",
    "Role",
    "Run",
    "RunItem",
    "SnapshotRecord",
    "Tenant",
    "TenantKey",
    "VApp",
    "VCenter",
    "Vm",
]

"""Who may do what: for each route in a tenant, the role that reading and writing need. None: it cannot be done."""

from backups.models import Role

V, O, A = Role.VIEWER, Role.OPERATOR, Role.ADMIN  # noqa: E741

MAY: dict[str, tuple[Role, Role | None]] = {
    "run-events": (V, None),
    "recovery-events": (V, None),
    "api-plans": (V, A),
    "api-plan": (V, A),
    "api-plan-starts": (V, None),
    "api-plan-apply": (A, A),
    "api-plan-runs": (O, O),
    "api-revoke": (A, A),
    "api-vapps": (V, None),
    "api-vms": (V, None),
    "api-repositories": (V, None),
    "api-refresh": (V, O),
    "api-runs": (V, None),
    "api-run": (V, None),
    "api-run-items": (V, None),
    "api-run-events": (V, None),
    "api-run-cancel": (O, O),
    "api-archives": (V, None),
    "api-archive": (V, A),
    "api-archive-verify": (V, O),
    "api-recovery-points": (V, None),
    "api-recoveries": (V, O),
    "api-recovery": (V, None),
    "api-recovery-events": (V, None),
    "api-recovery-cancel": (O, O),
    "api-audit": (A, None),
}

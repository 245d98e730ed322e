"""Which VMs are snapshotted together next, and why the others are left for later."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A VM that has no snapshot yet. `vapp` "" is a VM outside any vApp."""

    id: str
    vapp: str
    load_kbps: float


@dataclass(frozen=True)
class Batch:
    taken: list[str]
    left: dict[str, str]
    """The ids left for later, each with its reason."""


def next_batch(queued: Sequence[Queued], batch_size: int) -> Batch:
    """The busiest VMs first, whole vApps together: a batch may exceed `batch_size` rather than split a vApp.
    `batch_size` 0 takes all."""
    if batch_size == 0:
        return Batch([q.id for q in queued], {})
    taken: list[str] = []
    for group in _groups_by_load(queued):
        if taken and len(taken) + len(group) > batch_size:
            break
        taken += [q.id for q in group]
    left = {q.id: f"left for a later batch: {batch_size} at a time, busiest first" for q in queued}
    return Batch(taken, {id_: reason for id_, reason in left.items() if id_ not in taken})


def _groups_by_load(queued: Sequence[Queued]) -> list[list[Queued]]:
    """vApps whole, VMs outside one singly; the group with the busiest VM first."""
    groups: dict[str, list[Queued]] = {}
    for q in queued:
        groups.setdefault(q.vapp or q.id, []).append(q)
    return sorted(groups.values(), key=lambda group: -max(q.load_kbps for q in group))

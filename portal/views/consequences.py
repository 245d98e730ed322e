"""What a recovery will do, in sentences that are read before it starts."""

from collections.abc import Sequence

from backups.engine.recovering import Placement
from backups.models import Archive
from backups.models.recoveries import RecoveryMode


def consequences(
    archives: Sequence[Archive],
    *,
    mode: str,
    vapp_name: str,
    new_name: str,
    power_on: bool,
    complete: bool,
    placement: Placement,
) -> list[str]:
    if mode == RecoveryMode.IN_PLACE:
        told = _in_place(archives, power_on)
    else:
        told = [*_as_new(vapp_name, new_name, power_on), *_placed(placement)]
    if not complete:
        told.append("The run of that time did not archive every VM of this vApp; only those named here are recovered.")
    return told


def _placed(placement: Placement) -> list[str]:
    places = [f"on host {placement.host}"] if placement.host else []
    places += [f"on datastore {placement.datastore}"] if placement.datastore else []
    told = [f"It is made {' and '.join(places)}."] if places else []
    told += [
        f"Network adapters on {name} are moved to {instead}."
        if instead
        else f"Network adapters on {name} stay disconnected until you connect them."
        for name, instead in sorted(placement.networks.items())
    ]
    if placement.same_identity:
        told.append("It takes over the identity of the original, which has gone: its ids and hardware addresses.")
    return told


def _in_place(archives: Sequence[Archive], power_on: bool) -> list[str]:
    one = len(archives) == 1
    names = ", ".join(archive.vm_name for archive in archives)
    return [
        f"{names} {'is' if one else 'are'} powered off.",
        f"{'Its' if one else 'Their'} disks and settings are overwritten with those of the backup time. "
        "Whatever was written since then is lost.",
        f"Afterwards {'it is' if one else 'they are'} powered on."
        if power_on
        else "Afterwards what was running before is powered on again.",
        "If it is cancelled in the middle, a VM is left powered off and partly overwritten.",
    ]


def _as_new(vapp_name: str, new_name: str, power_on: bool) -> list[str]:
    made = f"A new vApp {new_name} is made" if vapp_name else f"A new VM {new_name} is made"
    told = [f"{made}; nothing that exists is changed."]
    if vapp_name:
        told.append("VMs keep their names. Where a name is taken, the backup time is added to it.")
    told.append(
        "Afterwards it is powered on. It carries the same network addresses as the original: see that they do not meet."
        if power_on
        else "It stays powered off until you start it."
    )
    return told

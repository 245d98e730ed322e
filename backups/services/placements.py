"""Where VMs that are recovered as new may go, and what they will lack there."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q

from backups.archive.reader import ArchiveReader
from backups.engine.recovering import Placement, choose_target, config_of, connected_as, networks_of
from backups.errors import InvalidRequest
from backups.models import Archive, Recovery, Tenant, VCenter, Vm
from backups.models.recoveries import RecoveryMode
from backups.platform import Inventory
from backups.services.repositories import open_store
from backups.services.tenants import reading_keys
from backups.services.vcenters import connect


@dataclass(frozen=True, kw_only=True)
class Places:
    """What may be chosen, by name."""

    hosts: frozenset[str]
    datastores: frozenset[str]
    networks: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Foresight:
    places: Places
    networks: tuple[str, ...]
    """Those that the archives name."""
    warnings: tuple[tuple[str, str], ...]
    """VM, and what it will lack, in a sentence."""


def placement_of(recovery: Recovery) -> Placement:
    return Placement(
        host=recovery.host,
        datastore=recovery.datastore,
        networks=recovery.networks,
        same_identity=recovery.same_identity,
    )


def homes(tenant: Tenant, vcenter: VCenter, everywhere: bool) -> tuple[list[str], list[str]]:
    """Hosts and datastores that may be chosen as far as is known without asking vCenter: those of the tenant's own VMs,
    and for provider staff all."""
    whose = Q() if everywhere else Q(tenant=tenant)
    rows = Vm.objects.filter(whose, vcenter=vcenter, vanished_at=None)
    hosts, datastores = set(rows.values_list("host", flat=True)), set(rows.values_list("datastore", flat=True))
    if everywhere:
        datastores |= set(vcenter.datastores.values_list("name", flat=True))
    return sorted(hosts - {""}), sorted(datastores - {""})


def places(tenant: Tenant, vcenter: VCenter, seen: Inventory, everywhere: bool, host: str = "") -> Places:
    """A tenant may choose only what VMs of his own are on; a host and a datastore are shared, but another's network
    would let him in there. `host`: only networks that it has."""
    uuids = set(Vm.objects.for_tenant(tenant).filter(vcenter=vcenter).values_list("instance_uuid", flat=True))
    mine = [vm for vm in seen.vms if vm.uuid in uuids]
    reachable = {name for each in seen.hosts if not host or each.name == host for name in each.networks}
    hosts, datastores = {each.name for each in seen.hosts}, {each.name for each in seen.datastores}
    networks = reachable
    if not everywhere:
        hosts &= {vm.host for vm in mine}
        datastores &= {vm.datastore for vm in mine}
        networks = reachable & {name for vm in mine for name in vm.networks}
    return Places(hosts=frozenset(hosts), datastores=frozenset(datastores), networks=frozenset(networks))


def check_placement(
    tenant: Tenant, archives: Sequence[Archive], mode: str, placement: Placement, *, everywhere: bool
) -> None:
    """Raises InvalidRequest with what cannot be. vCenter is asked only if a place was chosen."""
    if placement == Placement():
        return
    if mode != RecoveryMode.AS_NEW:
        raise InvalidRequest("In place a VM stays where and what it is; recover it as new to choose that.")
    if placement.same_identity:
        _check_identity(tenant, archives)
    if placement.host or placement.datastore or placement.networks:
        vcenter = archives[0].vm.vcenter
        with connect(vcenter) as platform:
            seen = platform.inventory()
        check_places(placement, places(tenant, vcenter, seen, everywhere, placement.host))


def _check_identity(tenant: Tenant, archives: Sequence[Archive]) -> None:
    for archive in archives:
        if archive.vm.vanished_at is None:
            raise InvalidRequest(
                f"{archive.vm_name} is still there, and no other VM can have its identity; recover it in place, or "
                "with a new identity."
            )
        if archive.vm.tenant_id != tenant.pk:
            raise InvalidRequest(f"{archive.vm_name} no longer belongs to this tenant; give it a new identity.")


def check_places(placement: Placement, offered: Places) -> None:
    """What belongs to others is answered as what is not there."""
    if placement.host and placement.host not in offered.hosts:
        raise InvalidRequest(f"There is no host {placement.host} to recover to; choose another.")
    if placement.datastore and placement.datastore not in offered.datastores:
        raise InvalidRequest(f"There is no datastore {placement.datastore} to recover to; choose another.")
    if not all(name.isprintable() for name in placement.networks):
        raise InvalidRequest("An archived network has no such name.")
    wanted = {name for name in placement.networks.values() if name is not None}
    if lacking := sorted(wanted - offered.networks):
        raise InvalidRequest(f"There is no network {lacking[0]} to recover to; choose another.")


def foresee(tenant: Tenant, archives: Sequence[Archive], placement: Placement, *, everywhere: bool) -> Foresight:
    """What a recovery as new will find, asked of vCenter now."""
    vcenter, keys = archives[0].vm.vcenter, reading_keys(tenant)
    named: set[str] = set()
    warnings = []
    with connect(vcenter) as platform:
        offered = places(tenant, vcenter, platform.inventory(), everywhere, placement.host)
        for archive in archives:
            config = config_of(ArchiveReader(open_store(archive.repository), keys, str(archive.pk)))
            named |= networks_of(config)
            vm = archive.vm
            target = choose_target(
                platform, placement, host=vm.host, datastore=vm.datastore, vapp_ref=None, bytes_needed=0
            )
            told = platform.recovery_warnings(connected_as(config, placement), target)
            warnings += [(archive.vm_name, sentence) for sentence in told]
    return Foresight(places=offered, networks=tuple(sorted(named)), warnings=tuple(warnings))

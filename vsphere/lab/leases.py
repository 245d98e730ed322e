"""HttpNfcLease: the right to carry disks in or out of a VM for a while. It dies without progress, and with its
session; a VM that was being imported dies with it."""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pyVmomi import vim, vmodl

from vsphere.lab import wire
from vsphere.lab.disk import LabDisk
from vsphere.lab.entities import Entity, Lab
from vsphere.lab.registry import Managed
from vsphere.lab.sessions import Call

if TYPE_CHECKING:
    from vsphere.lab.vm import VirtualMachine

INITIALIZING, READY, DONE, ERROR = "initializing", "ready", "done", "error"
device: Any = vim.vm.device


@dataclass(frozen=True)
class Slot:
    """One disk that goes over the lease."""

    vm: "VirtualMachine"
    device: Any
    disk: LabDisk
    name: str
    snapshot: int | None = None
    """What is carried out; None: the disk as it is, or what is carried in."""

    @property
    def place(self) -> str:
        """As vSphere names it: the controller's kind and bus, and the unit."""
        config = self.vm.config.info
        controller = next(d for d in config.hardware.device if d.key == self.device.controllerKey)
        return f"{type(controller).__name__.rpartition('.')[2]}{controller.busNumber}:{self.device.unitNumber}"


@dataclass(frozen=True)
class Cargo:
    entity: Entity
    slots: tuple[Slot, ...]

    @property
    def vms(self) -> "set[VirtualMachine]":
        return {slot.vm for slot in self.slots}


class Lease(Managed):
    wsdl = vim.HttpNfcLease

    def __init__(
        self, lab: Lab, call: Call, prepare: Callable[[], Cargo], *, undo: Callable[[Cargo], None] | None = None
    ) -> None:
        """`undo`: what is to be done with the cargo if the lease does not end well; only an import has that."""
        if call.session is None:
            raise wire.not_authenticated(vim.SessionManager("SessionManager"))
        self.lab, self._prepare, self._undo = lab, prepare, undo
        self.ticket = str(uuid.uuid4())
        self._base_url = call.base_url
        self.state, self.percent = INITIALIZING, 0
        self.error: Any = None
        self.cargo: Cargo | None = None
        self._told = threading.Condition(lab.registry.lock)
        self._heard_at = time.monotonic()
        super().__init__(lab.registry, f"session[{call.session.key}]{self.ticket}")
        call.session.owned.append(self)
        lab.leases[self.ticket] = self
        threading.Thread(target=self._live, daemon=True, name=self.moid).start()

    @property
    def importing(self) -> bool:
        return self._undo is not None

    def _live(self) -> None:
        try:
            cargo = self._prepare()
        except vmodl.MethodFault as fault:
            self._end(ERROR, fault)
            return
        with self._told:
            self.cargo = cargo
            for vm in cargo.vms:
                vm.leases.append(self)
            if self.state == INITIALIZING:
                self._become(READY)
        self._watch()
        self._release(cargo)

    def _watch(self) -> None:
        with self._told:
            while self.state == READY:
                left_s = self._heard_at + self.lab.lease_timeout_s - time.monotonic()
                if left_s <= 0:
                    self._end(ERROR, vim.fault.Timedout(msg="The lease had no progress for too long."))
                else:
                    self._told.wait(left_s)

    def _release(self, cargo: Cargo) -> None:
        with self._told:
            for vm in cargo.vms:
                vm.leases.remove(self)
        if self.state == ERROR and self._undo:
            self._undo(cargo)
            return
        for vm in cargo.vms:
            vm.importing = False
            vm.changed()

    def _become(self, state: str) -> None:
        self.state = state
        self._told.notify_all()
        self.registry.touch(self)

    def _end(self, state: str, error: Any = None) -> None:
        with self._told:
            if self.state in (DONE, ERROR):
                return
            self.error = error
            self.lab.leases.pop(self.ticket, None)
            self._become(state)

    def dispose(self) -> None:
        """Its session has ended. What is on its way out by now arrives: its ticket is the host's."""
        self._end(ERROR, wire.not_authenticated(self.ref))
        self.registry.remove(self)

    def slot(self, name: str) -> Slot | None:
        with self._told:
            slots = self.cargo.slots if self.cargo and self.state == READY else ()
        return next((slot for slot in slots if slot.name == name), None)

    @property
    def broken(self) -> bool:
        return self.state == ERROR and not isinstance(self.error, vim.fault.NotAuthenticated)

    # Properties and methods.

    def p_state(self) -> Any:
        return vim.HttpNfcLease.State(self.state)

    def p_error(self) -> Any:
        return self.error

    def p_initializeProgress(self) -> int:
        return 0 if self.state == INITIALIZING else 100

    def p_transferProgress(self) -> int:
        return self.percent

    def p_mode(self) -> str:
        return "pushOrGet"

    def p_info(self) -> Any:
        if self.cargo is None:
            return None
        return vim.HttpNfcLease.Info(
            lease=self.ref,
            entity=self.cargo.entity.ref,
            deviceUrl=[self._url(slot) for slot in self.cargo.slots],
            totalDiskCapacityInKB=sum(slot.disk.meta.capacity_bytes for slot in self.cargo.slots) // 1024,
            leaseTimeout=max(1, int(self.lab.lease_timeout_s)),
        )

    def _url(self, slot: Slot) -> Any:
        """`*` stands for the address that the client itself has used."""
        port = urlsplit(self._base_url).port or 443
        return vim.HttpNfcLease.DeviceUrl(
            key=f"/{slot.vm.moid}/{slot.place}",
            importKey=f"/{slot.vm.name}/{slot.place}",
            url=f"https://*:{port}/nfc/{self.ticket}/{slot.name}",
            sslThumbprint="",
            disk=True,
            targetId=slot.name,
            datastoreKey=self.lab.datastores[slot.vm.datastore].uuid,
        )

    def HttpNfcLeaseProgress(self, call: Call, percent: int) -> None:
        with self._told:
            self._refuse_ended()
            self.percent, self._heard_at = percent, time.monotonic()
            self.registry.touch(self)

    def HttpNfcLeaseComplete(self, call: Call) -> None:
        with self._told:
            self._refuse_ended()
            self._end(DONE)

    def HttpNfcLeaseAbort(self, call: Call, fault: Any = None) -> None:
        with self._told:
            if self.state != INITIALIZING:
                self._refuse_ended()
            self._end(ERROR, fault or vmodl.fault.RequestCanceled(msg="The lease was aborted."))

    def _refuse_ended(self) -> None:
        if isinstance(self.error, vim.fault.Timedout):
            raise vim.fault.Timedout(msg="The lease has timed out.")
        if self.state != READY:
            raise vim.fault.InvalidState(msg=f"The lease is {self.state}.")


def refuse_leased(vm: "VirtualMachine") -> None:
    """What would change a VM while its disks are carried."""
    with vm.registry.lock:
        if vm.leases:
            raise vim.fault.TaskInProgress(
                task=vim.Task(f"task-of-{vm.leases[0].ticket}"), msg="A lease on the VM's disks is held."
            )

"""Keeps inventories as vCenter has them: a thread for each vCenter follows its changes, on one host at a time."""

import logging
import threading
import time
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Q, QuerySet
from django.utils import timezone

from backups.errors import CertificateMismatch, HotfirstError, Interrupted, LoginFailed
from backups.locks import DATABASE_AWAY
from backups.models import VCenter
from backups.platform import Platform
from backups.services.inventory import follow, kept_beside
from backups.services.vcenters import connect, what_is_lacking

log = logging.getLogger(__name__)
LOOK_S = 10.0
WAIT_S = 3.0
"""One call's; it bounds how long a stop takes."""
FULL_S = 300.0
"""What reading and storing everything may take."""
GATHER_S = 0.5
"""Changes come in swarms."""
PRIVILEGES_S = 300.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
STOP_S = 4.0
USELESS = (CertificateMismatch, LoginFailed)
"""Tried again only once somebody has enrolled the vCenter anew: repeated logins lock the account."""


class Lease:
    """On the row. The moment that it lasts until is its token: nobody else has written the same."""

    def __init__(self, vcenter: VCenter) -> None:
        self._rows = VCenter.objects.filter(pk=vcenter.pk)
        self._until: datetime | None = None

    def take(self) -> bool:
        free = Q(watched_until=None) | Q(watched_until__lt=timezone.now())
        return self._move(self._rows.filter(free), 0)

    def renew(self, silent_s: float) -> VCenter:
        """The row as it is now. Raises Interrupted if it has gone, or is another host's."""
        if not self._move(self._rows.filter(watched_until=self._until), silent_s):
            raise Interrupted("This vCenter is no longer watched here.")
        return self._rows.get()

    def fence(self) -> VCenter:
        """The row, which is held until the transaction ends. Raises as `renew` does."""
        if not self._rows.filter(watched_until=self._until).update(watched_until=self._until):
            raise Interrupted("This vCenter is no longer watched here.")
        return self._rows.get()

    def give_back(self) -> None:
        self._rows.filter(watched_until=self._until).update(watched_until=None)

    def _move(self, rows: "QuerySet[VCenter]", silent_s: float) -> bool:
        until = timezone.now() + timedelta(seconds=silent_s + settings.HOTFIRST_LEASE_S)
        won = rows.update(watched_until=until) == 1
        if won:
            self._until = until
        return won


class Watcher:
    """Of one vCenter, whose lease was taken."""

    def __init__(self, lease: Lease, stopped: threading.Event) -> None:
        self.lease, self._stopped = lease, stopped
        self._pause_s, self._overtaken = 0.0, False
        self.thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._attempt(self.lease.renew(FULL_S))
            self.lease.give_back()
        except Interrupted as error:
            log.info("%s", error)
        except DATABASE_AWAY as error:
            # Taken again, here or elsewhere, once the lease is over.
            log.warning("watching stopped: %s", error)
        finally:
            connection.close()

    def _attempt(self, vcenter: VCenter) -> None:
        try:
            with kept_beside(vcenter), connect(vcenter) as platform:
                self._follow(vcenter, platform)
        except (Interrupted, *DATABASE_AWAY):
            raise
        except HotfirstError as error:
            log.warning("watching %s: %s", vcenter, error.provider_message)
            self._rest(vcenter, for_good=isinstance(error, USELESS))
        except Exception:
            log.exception("watching %s", vcenter)
            self._rest(vcenter)

    def _follow(self, vcenter: VCenter, platform: Platform) -> None:
        """Until stopped, or until the vCenter is enrolled anew."""
        version: str | None = None
        lacking, looked_at = what_is_lacking(platform), time.monotonic()
        while not self._stopped.is_set():
            row = self.lease.renew(WAIT_S if version else FULL_S)
            if login_of(row) != login_of(vcenter):
                return
            if time.monotonic() - looked_at > PRIVILEGES_S:
                lacking, looked_at = what_is_lacking(platform), time.monotonic()
            known_at = vcenter.synced_at
            told = follow(vcenter, platform, version, WAIT_S, lacking=lacking, first=partial(self._open, known_at))
            version = None if self._overtaken and version else told
            self._pause_s = 0.0
            self._stopped.wait(GATHER_S)

    def _open(self, known_at: datetime | None) -> None:
        """Somebody may have refreshed meanwhile, with what he read before the last change that was stored here."""
        self._overtaken = self.lease.fence().synced_at != known_at

    def _rest(self, tried: VCenter, *, for_good: bool = False) -> None:
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        ends_at = time.monotonic() + self._pause_s
        while for_good or time.monotonic() < ends_at:
            if login_of(self.lease.renew(LOOK_S)) != login_of(tried):
                self._pause_s = 0.0
                return
            if self._stopped.wait(min(LOOK_S, self._pause_s)):
                return


def login_of(vcenter: VCenter) -> tuple[object, ...]:
    """What enrolling anew changes: a password is sealed anew each time."""
    place = (vcenter.host, vcenter.port, vcenter.username, vcenter.certificate_pem)
    return (*place, bytes(vcenter.sealed_password))


def watch_all(stopped: threading.Event) -> None:
    watchers: dict[UUID, Watcher] = {}
    while not stopped.is_set():
        try:
            _start_missing(watchers, stopped)
        except DATABASE_AWAY as error:
            log.warning("looking for vCenters: %s", error)
            connection.close()
        stopped.wait(LOOK_S)
    _end(watchers)


def _start_missing(watchers: dict[UUID, Watcher], stopped: threading.Event) -> None:
    for vcenter in VCenter.objects.all():
        known = watchers.get(vcenter.pk)
        lease = Lease(vcenter)
        if (known is None or not known.thread.is_alive()) and lease.take():
            watchers[vcenter.pk] = Watcher(lease, stopped)
            watchers[vcenter.pk].thread.start()


def _end(watchers: dict[UUID, Watcher]) -> None:
    """They log out; whoever hangs loses his lease, so that nothing he stores counts."""
    deadline = time.monotonic() + STOP_S
    for watcher in watchers.values():
        watcher.thread.join(max(0.0, deadline - time.monotonic()))
    try:
        for watcher in watchers.values():
            if watcher.thread.is_alive():
                watcher.lease.give_back()
    except DATABASE_AWAY as error:
        log.warning("a vCenter's lease is left to end by itself: %s", error)
    finally:
        connection.close()

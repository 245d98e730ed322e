"""An installation of its own: a database, a lab vCenter, workers, two tenants with a plan each. Whatever dies of it is
started again. The caller's process shares the database: that of its tests, or one that Django is set up for here."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.faults.programs import Program
from tests.with_postgres import ThrowAwayServer, free_port, programs

T = TypeVar("T")
LEASE_S = 4
START_S = 60
LASTING = ("synchronous_commit=on", "max_connections=60")
"""A commit survives the death of the server's processes: nothing of it is in their memory alone."""
QUICK = {
    "DJANGO_SETTINGS_MODULE": "portal.settings",
    "LOG_LEVEL": "WARNING",
    "HOTFIRST_LEASE_S": str(LEASE_S),
    "HOTFIRST_LOAD_WINDOW_S": "5",
    "HOTFIRST_DEAF_S": "12",
    "HOTFIRST_STOP_S": "10",
}


@dataclass
class Installation:
    home: Path
    database: ThrowAwayServer | None
    environment: dict[str, str] = field(default_factory=dict)
    lab: Program = field(init=False)
    workers: list[Program] = field(default_factory=list)
    provider: Any = None
    vcenter: Any = None
    plans: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        place = ("--state", str(self.lab_state), "--port", str(free_port()))
        self.lab = Program(self.home / "lab.log", ("-m", "tests.faults.lab", *place))

    @property
    def lab_state(self) -> Path:
        return self.home / "lab"

    def slow_down(self, latency_ms: int) -> None:
        """What each access of a backup to a datastore takes from now on."""
        faults = {"datastore_latency_ms": dict.fromkeys(("ssd1", "ssd2"), latency_ms)}
        (self.lab_state / "faults.json").write_text(json.dumps(faults))

    def start_worker(self, host: str, **environment: str) -> Program:
        environment = {**self.environment, "HOTFIRST_HOST": host, **environment}
        program = Program(self.home / f"{host}.log", ("manage.py", "worker"), environment)
        program.start()
        self.workers.append(program)
        return program

    def revive(self) -> int:
        """Starts what is dead again, and returns how much that was."""
        dead = [program for program in (self.lab, *self.workers) if program.exit_code is not None]
        if self.database and self.database.pid() is None:
            self.database.start()
        for program in dead:
            program.start()
        return len(dead)

    def stop(self) -> None:
        from django.db import connection

        connection.close()
        for program in (*self.workers, self.lab):
            program.stop()

    def steadily(self, call: Callable[[], T]) -> T:
        """As often as it takes: the database may be dead just now."""
        from django.db import Error, connection

        while True:
            try:
                return call()
            except Error:
                connection.close()
                time.sleep(0.2)
                self.revive()

    def tick(self) -> None:
        from backups.queues import hint

        self.steadily(lambda: hint("backups.tasks.tick.tick"))


@contextmanager
def installation(home: Path, engine: str) -> Iterator[Installation]:
    """`engine`: sqlite or postgres."""
    os.environ |= {**QUICK, "HOTFIRST_HOME": str(home)}
    with ExitStack() as stack:
        database = None
        if engine == "postgres":
            found = programs()
            assert found, "No PostgreSQL server programs were found."
            database = stack.enter_context(ThrowAwayServer(found, *LASTING))
        os.environ["DATABASE_URL"] = database.url if database else ""
        _set_up_django()
        made = Installation(home, database)
        stack.callback(made.stop)
        furnish(made)
        yield made


def _set_up_django() -> None:
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def _endpoint(made: Installation) -> dict[str, Any]:
    path, deadline = made.lab_state / "endpoint.json", time.monotonic() + START_S
    while not path.exists():
        assert made.lab.exit_code is None, made.lab.log.read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    endpoint: dict[str, Any] = json.loads(path.read_text())
    return endpoint


def furnish(made: Installation) -> None:
    """Starts the lab, and makes the tenants and their plans."""
    from django.contrib.auth.models import User

    from backups.models import VApp
    from backups.services.inventory import assign_vapp
    from backups.services.plans import apply_plan, create_plan
    from backups.services.repositories import create_repository
    from backups.services.tenants import create_tenant
    from backups.services.vcenters import enrol_vcenter

    made.lab.start()
    endpoint = _endpoint(made)
    made.provider = User.objects.create_user("peggy", is_staff=True)
    login = {key: endpoint[key] for key in ("host", "port", "username", "password", "certificate_pem")}
    made.vcenter = enrol_vcenter(made.provider, name="Lab", **login)
    repository = create_repository(made.provider, "Folder", str(made.home / "repository"))
    for name, batch_size in (("shop", 0), ("wiki", 1)):
        tenant = create_tenant(made.provider, name)
        assign_vapp(made.provider, VApp.objects.get(name=name), tenant)
        options = {"cron": "0 3 1 1 *", "repository": repository, "readers": 3, "batch_size": batch_size}
        plan = create_plan(made.provider, tenant, name=f"Back up {name}", keep_count=3, **options)
        apply_plan(made.provider, plan, vapps=VApp.objects.for_tenant(tenant))
        made.plans.append(plan)

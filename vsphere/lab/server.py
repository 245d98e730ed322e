"""One lab vCenter: its state folder, its inventory, its threads."""

import json
import os
import secrets
import shutil
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vsphere.lab import certificate, content, restoring
from vsphere.lab.authorization import AuthorizationManager
from vsphere.lab.content import LabSpec
from vsphere.lab.entities import Lab
from vsphere.lab.faults import CONSOLIDATION_MIB_PER_S, Faults
from vsphere.lab.generator import Generator
from vsphere.lab.http import LabHttpServer
from vsphere.lab.loads import HOUR_S, Clock
from vsphere.lab.ovf import OvfManager
from vsphere.lab.perf import Meter, PerformanceManager
from vsphere.lab.property_collector import Collector
from vsphere.lab.registry import Registry
from vsphere.lab.service import SearchIndex, ServiceInstance
from vsphere.lab.sessions import SessionManager, Sessions
from vsphere.lab.shelf import DiskShelf
from vsphere.lab.state import Record, Store, replace_file
from vsphere.lab.stores import DATASTORE_MB_PER_S, Stores
from vsphere.lab.tagging import Tags
from vsphere.lab.tasks import Tasks
from vsphere.lab.views import ViewManager

USERNAME = "administrator@vsphere.local"
ROOT = "group-d1"
DRAIN_S = 10.0
LEASE_TIMEOUT_S = 30.0
"""A tenth of vCenter's: a lab's disks are small, and its clients are killed often."""
POLL_S = 0.05
"""How soon the server notices that it is to stop."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    host: str
    port: int
    username: str
    password: str
    certificate_pem: str
    pid: int


class LabServer:
    """`spec` is a name of `content.SPECS` or a LabSpec; it counts only for a state folder that is still empty."""

    def __init__(
        self,
        state_dir: Path | str,
        port: int = 0,
        *,
        spec: str | LabSpec = "demo",
        seed: int = 1,
        sample_s: float = 20.0,
        load_scale: float = 1.0,
        hour_s: float = HOUR_S,
        consolidation_mb_per_s: float = CONSOLIDATION_MIB_PER_S,
        datastore_mb_per_s: float = DATASTORE_MB_PER_S,
        host: str = "127.0.0.1",
        session_idle_s: float = 1800.0,
        lease_timeout_s: float = LEASE_TIMEOUT_S,
    ) -> None:
        self.folder = Path(state_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._spec = content.SPECS[spec]() if isinstance(spec, str) else spec
        self._seed, self._host, self._port = seed, host, port
        self._about = self._load_about()
        registry = Registry(self._about["incarnation"])
        faults = Faults(self.folder / "faults.json", consolidation_mb_per_s)
        stores = Stores(faults, datastore_mb_per_s)
        self.lab = Lab(
            registry=registry,
            store=Store(self.folder),
            tasks=Tasks(registry, faults),
            faults=faults,
            shelf=DiskShelf(self.folder / "datastores"),
            stores=stores,
            lease_timeout_s=lease_timeout_s,
        )
        self.meter = Meter(sample_s, stores)
        clock = Clock(began=self._about["began"], hour_s=hour_s)
        self.generator = Generator(self.lab, self.meter, clock, seed, load_scale)
        self.sessions = Sessions(registry, USERNAME, self._about["password"], session_idle_s)
        self._http: LabHttpServer | None = None
        self._thread: threading.Thread | None = None

    def _load_about(self) -> Record:
        """`incarnation` grows with each start: it keeps managed object ids unique."""
        path = self.folder / "lab.json"
        if path.exists():
            about: Record = json.loads(path.read_text())
            about["incarnation"] += 1
            about.setdefault("began", time.time())
            replace_file(path, json.dumps(about))
            return about
        # Either new, or killed while it was filled: begin anew.
        for leftover in ("inventory", "datastores"):
            shutil.rmtree(self.folder / leftover, ignore_errors=True)
        return {
            "incarnation": 1,
            "instance_uuid": str(uuid.uuid4()),
            "password": secrets.token_urlsafe(12),
            "began": time.time(),
        }

    def start(self) -> "LabServer":
        if (self.folder / "lab.json").exists():
            restoring.restore(self.lab)
        else:
            content.Builder(self.lab, self._spec, self._seed).build()
            replace_file(self.folder / "lab.json", json.dumps(self._about))
        self._add_services()
        pem = certificate.ensure(self.folder, self._host)
        context = certificate.server_context(pem)
        self._http = LabHttpServer(
            (self._host, self._port), self.lab, self.sessions, Tags(self.folder / "tags.json"), context
        )
        self._thread = threading.Thread(target=self._http.serve_forever, args=(POLL_S,), daemon=True, name="lab-http")
        self._thread.start()
        self.generator.start()
        replace_file(self.folder / "endpoint.json", json.dumps(asdict(self.endpoint)))
        return self

    def _add_services(self) -> None:
        registry = self.lab.registry
        root: Any = registry.objects[ROOT]
        services = {
            "rootFolder": root,
            "propertyCollector": Collector(registry, "propertyCollector"),
            "viewManager": ViewManager(registry),
            "sessionManager": SessionManager(registry, self.sessions),
            "authorizationManager": AuthorizationManager(self.lab),
            "perfManager": PerformanceManager(self.lab, self.meter),
            "searchIndex": SearchIndex(self.lab, root),
            "ovfManager": OvfManager(self.lab),
        }
        ServiceInstance(self.lab, self._about["instance_uuid"], services)

    @property
    def endpoint(self) -> Endpoint:
        if self._http is None:
            raise RuntimeError("The lab has not been started.")
        return Endpoint(
            host=self._host,
            port=self._http.server_address[1],
            username=USERNAME,
            password=self._about["password"],
            certificate_pem=certificate.certificate_only(self.folder / "certificate.pem"),
            pid=os.getpid(),
        )

    def stop(self) -> None:
        """Lets running tasks end. Everything is saved as it happens, so there is nothing else to do."""
        if self._http is None:
            return
        (self.folder / "endpoint.json").unlink(missing_ok=True)
        self.generator.stop()
        self._http.shutdown()
        self._http.server_close()
        self.sessions.end_all()
        self.lab.tasks.join(DRAIN_S)
        self.lab.shelf.close()
        self._http = None

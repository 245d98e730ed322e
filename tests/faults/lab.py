"""`python -m tests.faults.lab --state DIR --port N`: a small, slow lab that bears witness of what snapshots held."""

import argparse
import json
from pathlib import Path

from vsphere.lab.__main__ import serve
from vsphere.lab.content import MIB, LabSpec, VmSpec
from vsphere.lab.server import LabServer
from vsphere.lab.witness import Witness

SHOP = {"db": (24, 12), "web": (16,), "cache": (16,), "queue": (12,), "mail": (12,), "files": (12, 12)}
WIKI = {"db": (16,), "web": (12,)}
SLOW = {"datastore_latency_ms": {"ssd1": 250, "ssd2": 250}, "consolidation_mib_per_s": 1}


def fleet() -> LabSpec:
    """The loads are drawn, so that the VMs differ."""
    vms = [(vapp, *vm) for vapp, its_vms in (("shop", SHOP), ("wiki", WIKI)) for vm in its_vms.items()]
    return LabSpec(
        vms=tuple(
            VmSpec(name=f"{vapp}-{role}", vapp=vapp, disk_bytes=tuple(size * MIB for size in sizes))
            for vapp, role, sizes in vms
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    (options.state / "faults.json").write_text(json.dumps(SLOW))
    server = LabServer(options.state, options.port, spec=fleet(), sample_s=1.0)
    server.lab.shelf.witness = Witness(options.state / "witness")
    serve(server)


if __name__ == "__main__":
    main()

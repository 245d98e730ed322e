"""`python -m vsphere.lab --state DIR --port N`"""

import argparse
import logging
import resource
import signal
import threading
from pathlib import Path

from vsphere.lab import fleets
from vsphere.lab.content import SPECS, LabSpec
from vsphere.lab.faults import CONSOLIDATION_MIB_PER_S
from vsphere.lab.loads import HOUR_S
from vsphere.lab.server import LabServer
from vsphere.lab.stores import DATASTORE_MB_PER_S


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vsphere.lab", description="A lab vCenter over the wire.")
    parser.add_argument("--state", type=Path, required=True, help="folder that everything is kept in")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--spec", choices=sorted(SPECS), default="demo", help="what a new lab is filled with")
    parser.add_argument("--trace", type=Path, help="a CSV of loads, gzipped or not, that a new lab is filled from")
    parser.add_argument(
        "--fleet", type=int, metavar="N", help="so many VMs: of the trace, or drawn from a distribution"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies disk sizes and loads of trace or fleet")
    parser.add_argument("--hour-s", type=float, default=HOUR_S, help="how long an hour of the loads takes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample-s", type=float, default=20.0, help="interval of the real-time counters")
    parser.add_argument("--load-scale", type=float, default=1.0, help="0: the guests are idle")
    parser.add_argument("--consolidation-mb-per-s", type=float, default=CONSOLIDATION_MIB_PER_S)
    parser.add_argument("--datastore-mb-per-s", type=float, default=DATASTORE_MB_PER_S, help="more makes it slow")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(
        LabServer(
            options.state,
            options.port,
            host=options.host,
            spec=spec_of(options),
            seed=options.seed,
            sample_s=options.sample_s,
            load_scale=options.load_scale,
            hour_s=options.hour_s,
            consolidation_mb_per_s=options.consolidation_mb_per_s,
            datastore_mb_per_s=options.datastore_mb_per_s,
        )
    )


def spec_of(options: argparse.Namespace) -> str | LabSpec:
    if options.trace:
        return fleets.of_trace(options.trace, vms=options.fleet, scale=options.scale, seed=options.seed)
    if options.fleet:
        return fleets.drawn(options.fleet, scale=options.scale, seed=options.seed)
    return str(options.spec)


def serve(server: LabServer) -> None:
    """Until SIGTERM or SIGINT."""
    _allow_many_files()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    end = server.endpoint
    print(f"lab vCenter on https://{end.host}:{end.port}/sdk user {end.username} password {end.password}", flush=True)
    stop.wait()
    server.stop()


def _allow_many_files() -> None:
    """A disk in use takes two or three files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()

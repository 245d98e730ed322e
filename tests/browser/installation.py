"""A whole installation for a browser to meet: database, lab vCenter, worker and portal, each a process of its own.

`python -m tests.browser.installation FOLDER` prints one line of JSON when all is up (address, passwords), answers the
line `compare VAPP` with what of the recovered vApp is not as in its archive, `snapshots` with those left in the lab,
and stops at the end of its input.
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def main() -> None:
    home = Path(sys.argv[1])
    os.environ |= {"HOTFIRST_HOME": str(home), "DJANGO_SETTINGS_MODULE": "portal.settings", "DATABASE_URL": ""}
    os.environ |= {"HOTFIRST_LOAD_WINDOW_S": "10", "LOG_LEVEL": "WARNING", "HOTFIRST_LEASE_S": "5"}
    import django

    django.setup()
    from django.core.management import call_command

    from portal.demo import processes, world

    call_command("migrate", verbosity=0)
    with ExitStack() as stack:
        endpoint = processes.start_lab(stack, home / "lab", 1.0)
        processes.start(stack, "worker", "manage.py", "worker")
        made = world.build(endpoint, with_plans=False)
        address = processes.start_portal(stack, processes.free_port())
        time.sleep(5)
        print(json.dumps({"address": address, "passwords": made.passwords, "lab": endpoint}), flush=True)
        for line in sys.stdin:
            word, *rest = line.split()
            answer = {"compare": compare, "snapshots": snapshots}[word](made, *rest)
            print(json.dumps(answer), flush=True)


def compare(made: Any, vapp_name: str) -> dict[str, list[str]]:
    """By VM: empty lists mean that every byte and the configuration are equal."""
    from backups.archive.reader import ArchiveReader
    from backups.engine.recovering import differences
    from backups.models import Recovery
    from backups.services.repositories import open_store
    from backups.services.tenants import reading_keys
    from backups.services.vcenters import connect

    recovery = Recovery.objects.get(new_name=vapp_name)
    found = {}
    with connect(made.vcenter) as platform:
        for item in recovery.items.select_related("archive__repository", "archive__tenant"):
            keys = reading_keys(item.archive.tenant)
            reader = ArchiveReader(open_store(item.archive.repository), keys, str(item.archive_id))
            found[item.vm_name] = differences(platform, reader, item.vm_ref)
    return found


def snapshots(made: Any) -> list[str]:
    from backups.services.vcenters import connect

    with connect(made.vcenter) as platform:
        return [snapshot.name for snapshot in platform.find_snapshots("")]


if __name__ == "__main__":
    main()

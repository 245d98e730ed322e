"""A real S3 server on this machine, for tests: SeaweedFS in one process."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

BUCKET = "backups"
ACCESS_KEY_ID, SECRET_ACCESS_KEY = "hotfirst", "only-for-tests"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}
START_S = 60.0


def program() -> str | None:
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Gives its endpoint."""
    weed = program()
    assert weed
    names = ["master", "volume", "filer", "s3"]
    ports = free_ports(2 * len(names))
    options = [f"-{name}.port={ports[at]}" for at, name in enumerate(names)]
    options += [f"-{name}.port.grpc={ports[len(names) + at]}" for at, name in enumerate(names)]
    options += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-ip=127.0.0.1"]
    options += ["-ip.bind=127.0.0.1", f"-dir={folder}", f"-s3.localSocket={folder}/s3.sock"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [weed, "mini", *options], stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT}, cwd=folder
        )
    try:
        endpoint = f"http://127.0.0.1:{ports[3]}"
        _await(endpoint, folder / "log", server)
        yield endpoint
    finally:
        server.kill()
        server.wait()


def _await(endpoint: str, log: Path, server: "subprocess.Popen[bytes]") -> None:
    """The first upload makes the bucket."""
    bucket = S3Store(
        BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET_ACCESS_KEY,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            obstore.put(bucket, "started", b"")
        except BaseError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"The S3 server did not start:\n{log.read_text()[-3000:]}")

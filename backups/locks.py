"""One critical section across all processes: its name is locked until the transaction ends."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import InterfaceError, OperationalError, connection, transaction

DATABASE_AWAY = (OperationalError, InterfaceError)
"""It may be back in a moment: no bug of the work that met it. Whoever stops for it closes his connection and leaves the
rest to the tick, once his lease is over."""


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """On SQLite every transaction that writes is exclusive already (IMMEDIATE)."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [zlib.crc32(name.encode())])
        yield

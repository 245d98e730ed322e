"""Reads archives without the portal and without its database: a repository and a key are enough.

  python -m backups.archive list    REPOSITORY
  python -m backups.archive restore REPOSITORY ARCHIVE FOLDER
  python -m backups.archive mount   REPOSITORY ARCHIVE

REPOSITORY is the folder that holds “repository.json”, or an address such as
s3://bucket/prefix?endpoint=https://host&region=name; for that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY have to be
in the environment.

The key is one of these:
  the recovery sheet     --key FILE, with its numbered lines typed, or the text of its QR code; “-” reads the terminal
  the tenant's passphrase  is asked for, if a key under a passphrase lies in the repository
  the provider's master keys  --master-key FILE, if the provider holds the tenant's key

“scrub” needs no key at all. If an index is damaged, “repair” writes it anew. Nothing here changes or deletes an
archive. What it needs is Python 3.11 with blake3, zstandard, cryptography, segno and obstore: “pip install” gets them.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from backups.archive import copying, index, marks, recovery_sheet, restore, statistics, verify
from backups.archive.addresses import open_store
from backups.archive.keys import TenantKeys
from backups.archive.nbd import NbdServer, ServedDisk
from backups.archive.reader import ArchiveReader
from backups.archive.rescue import find_archive, find_keys, find_tenant
from backups.archive.store import ObjectStore
from backups.errors import ArchiveDamaged, HotfirstError, InvalidRequest, KeyUnavailable

GIB = 1024**3
MISUSE, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except HotfirstError as error:
        print(f"{error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backups.archive", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _command(commands, "list", _list, "shows all archives, and which of them are damaged")
    _command(commands, "show", _show, "shows what an archive holds, with the VM's configuration").add_argument(
        "archive"
    )
    restoring = _command(commands, "restore", _restore, "writes disks, as raw images, and configuration into a folder")
    restoring.add_argument("archive", help="its id, or the first letters of it")
    restoring.add_argument("folder", type=Path, help="is made if it is missing")
    restoring.add_argument("--disk", type=int, metavar="KEY", help="only this disk; “show” tells the keys")
    verifying = _command(commands, "verify", _verify, "reads, decrypts and compares all data of archives")
    verifying.add_argument("archives", nargs="*", metavar="ARCHIVE", help="all, if none is named")
    scrubbing = _command(commands, "scrub", _scrub, "compares all that is stored with its hashes; needs no key")
    scrubbing.add_argument("--share", default="1/1", metavar="N/M", help="only the N-th of M parts, such as 3/7")
    mounting = _command(commands, "mount", _mount, "serves an archive's disks, to be mounted or converted")
    mounting.add_argument("archive", help="its id, or the first letters of it")
    mounting.add_argument("--socket", type=Path, default=Path("hotfirst.sock"), help="a name for the socket")
    copies = _command(commands, "copy", _copy, "copies what is missing into another repository")
    copies.add_argument("target", help="another repository")
    copies.add_argument("archives", nargs="*", metavar="ARCHIVE", help="all, if none is named")
    _command(commands, "repair", _repair, "writes anew what is damaged of the index; needs a writable repository")
    _command(commands, "statistics", _statistics, "tells what archives hold and what they take, as JSON")
    _command(commands, "sheet", _sheet, "prints a recovery sheet: whoever has it can read everything")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=f"{name}: {what}.")
    command.set_defaults(run=run)
    command.add_argument("repository", help="a folder, or s3://bucket/prefix")
    command.add_argument("--tenant", help="its id; needed if the repository holds several")
    command.add_argument("--key", metavar="FILE", help="a recovery sheet or a key file")
    command.add_argument("--master-key", metavar="FILE", help="the provider's file of master keys")
    return command


def _list(options: argparse.Namespace) -> int:
    store, keys = _opened(options)
    damaged = {found.archive_id: found.reason for found in marks.damaged_archives(store, keys)}
    names = [stored.name.rpartition("/")[2] for stored in store.list(f"tenants/{keys.tenant_id}/archives/")]
    lines = []
    for archive_id in names:
        try:
            lines.append(_line(ArchiveReader(store, keys, archive_id), damaged.get(archive_id)))
        except ArchiveDamaged as error:
            lines.append((datetime.max.isoformat(), f"{archive_id:36}  DAMAGED: {error}"))
    print(f"{'ARCHIVE':36}  {'TAKEN (UTC)':16}  {'GIB':>9}  VM")
    print("\n".join(line for _, line in sorted(lines)))
    return 0


def _line(reader: ArchiveReader, damage: str | None) -> tuple[str, str]:
    """With what it is sorted by."""
    taken = f"{reader.backup_time:%Y-%m-%d %H:%M}"
    size = sum(disk.capacity_bytes for disk in reader.disks) / GIB
    try:
        name = _plain(str(reader.config.get("name", "")))
    except KeyUnavailable:
        name = "(name not readable with this key)"
    note = f"  DAMAGED: {damage}" if damage else ""
    return taken, f"{reader.archive_id:36}  {taken:16}  {size:9.1f}  {name}{note}"


def _plain(text: str) -> str:
    """What a VM is called must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _show(options: argparse.Namespace) -> int:
    reader = _reader(options)
    disks = [{"key": disk.key, "label": disk.label, "capacity_bytes": disk.capacity_bytes} for disk in reader.disks]
    told = {"archive": reader.archive_id, "backup_time": reader.backup_time.isoformat(), "disks": disks}
    print(json.dumps({**told, "config": reader.config, "extra": reader.extra}, indent=2))
    return 0


def _restore(options: argparse.Namespace) -> int:
    reader = _reader(options)
    disks = [disk for disk in reader.disks if options.disk in (None, disk.key)]
    if not disks:
        raise InvalidRequest(f"This archive has no disk {options.disk}; “show” tells the keys of its disks.")
    _make_folder(options.folder)
    config = {"config": reader.config, "extra": reader.extra}
    (options.folder / "config.json").write_text(json.dumps(config, indent=2))
    for disk in disks:
        target = options.folder / f"disk-{disk.key}.raw"
        print(f"{_plain(disk.label)} …", file=sys.stderr, flush=True)
        written = restore.restore_to_file(reader, disk.key, target)
        print(f"{_plain(disk.label)}: {target}, {disk.capacity_bytes} bytes, {written} written, the rest holes.")
    print("For VMware: qemu-img convert -O vmdk disk-….raw disk.vmdk. For KVM the images can be used as they are.")
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be made: {error.strerror}; choose another folder.") from error


def _verify(options: argparse.Namespace) -> int:
    store, keys = _opened(options)
    wanted = [find_archive(store, keys.tenant_id, name) for name in options.archives]
    names = [stored.name.rpartition("/")[2] for stored in store.list(f"tenants/{keys.tenant_id}/archives/")]
    damaged = 0
    for archive_id in wanted or names:
        try:
            print(f"{archive_id}  good, {verify.check(store, keys, archive_id)} bytes compared", flush=True)
        except ArchiveDamaged as error:
            damaged += 1
            print(f"{archive_id}  DAMAGED: {error}", flush=True)
    return FAILED if damaged else 0


def _scrub(options: argparse.Namespace) -> int:
    part, _, parts = options.share.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InvalidRequest("A share is written as 3/7: the third of seven parts.")
    store = open_store(options.repository, writable=False)
    tenant_id = find_tenant(store, options.tenant)
    report = verify.scrub(store, tenant_id, part=int(part) - 1, parts=int(parts))
    for damage in report.damages:
        print(f"DAMAGED: {damage.name}: {damage.reason}")
    print(f"{report.objects} objects, {report.bytes_read} bytes read, {len(report.damages)} damaged.")
    return FAILED if report.damages else 0


def _mount(options: argparse.Namespace) -> int:
    reader = _reader(options)
    _ = reader.config  # says at once if the key cannot read
    disks = [ServedDisk(reader, disk) for disk in reader.disks]
    with _serving(options.socket, disks) as server:
        for disk in disks:
            address = f"nbd+unix:///{disk.name}?socket={options.socket.absolute()}"
            print(f"{_plain(disk.label)}: {address}")
        print(
            "\nWhile this runs, in another terminal, for instance:\n"
            f"  qemu-img convert -p -O qcow2 '{address}' disk.qcow2\n"
            f"  nbd-client -unix {options.socket.absolute()} /dev/nbd0 -name {disk.name} -readonly\n"
            "  mount -o ro /dev/nbd0p1 /mnt\n"
            "Ctrl-C ends it.",
            flush=True,
        )
        server.serve_forever()
    return 0


def _serving(path: Path, disks: list[ServedDisk]) -> NbdServer:
    try:
        return NbdServer(path, disks)
    except OSError as error:
        raise InvalidRequest(f"The socket {path} cannot be made: {error}; name another with --socket.") from error


def _copy(options: argparse.Namespace) -> int:
    store, keys = _opened(options)
    target = open_store(options.target)
    wanted = [find_archive(store, keys.tenant_id, name) for name in options.archives]
    copied = copying.copy_archives(store, target, keys, wanted or None)
    for archive_id, reason in copied.refused.items():
        print(f"{archive_id}  not copied: {reason}")
    print(f"{copied.archives} archives and {copied.bytes_copied} bytes copied.")
    return FAILED if copied.refused else 0


def _repair(options: argparse.Namespace) -> int:
    store = open_store(options.repository)
    keys = find_keys(store, options.tenant, options.key, options.master_key)
    print(f"{index.repair(store, keys)} packs were indexed anew.")
    return 0


def _statistics(options: argparse.Namespace) -> int:
    found = statistics.gather(*_opened(options))
    ratios = {"dedup_ratio": round(found.dedup_ratio, 3), "compression_ratio": round(found.compression_ratio, 3)}
    print(json.dumps({**vars(found), **ratios}, indent=2))
    return 0


def _sheet(options: argparse.Namespace) -> int:
    _, keys = _opened(options)
    print(recovery_sheet.printable(keys))
    print(recovery_sheet.qr_terminal(keys))
    return 0


def _reader(options: argparse.Namespace) -> ArchiveReader:
    store, keys = _opened(options)
    return ArchiveReader(store, keys, find_archive(store, keys.tenant_id, options.archive))


def _opened(options: argparse.Namespace) -> tuple[ObjectStore, TenantKeys]:
    store = open_store(options.repository, writable=False)
    return store, find_keys(store, options.tenant, options.key, options.master_key)


if __name__ == "__main__":
    sys.exit(main())

"""The datastores' files: `[datastore] folder/name.vmdk` to a LabDisk or a plain file."""

import re
import threading
from pathlib import Path

from pyVmomi import vim

from vsphere.lab.disk import LabDisk
from vsphere.lab.witness import Witness

FILE_NAME = re.compile(r"\[(?P<datastore>[^\]]+)\] *(?P<path>.*)")


def split(file_name: str) -> tuple[str, str]:
    """Datastore and path. Raises InvalidDatastorePath."""
    match = FILE_NAME.fullmatch(file_name.strip())
    if match is None:
        raise vim.fault.InvalidDatastorePath(datastorePath=file_name, msg=f"Invalid datastore path '{file_name}'.")
    return match["datastore"], match["path"]


class DiskShelf:
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._lock = threading.Lock()
        self._disks: dict[Path, LabDisk] = {}
        self.witness: Witness | None = None
        """Told of each snapshot, if there is one."""

    def path(self, datastore: str, relative: str) -> Path:
        """Raises InvalidDatastorePath for a datastore that does not exist or a path that leads out of it."""
        folder = self.root / datastore
        path = (folder / relative).resolve()
        if "/" in datastore or datastore.startswith(".") or not folder.is_dir() or not path.is_relative_to(folder):
            name = f"[{datastore}] {relative}"
            raise vim.fault.InvalidDatastorePath(datastorePath=name, msg=f"Invalid datastore path '{name}'.")
        return path

    def _stem(self, file_name: str) -> Path:
        path = self.path(*split(file_name))
        return path.with_name(path.name.removesuffix(".vmdk"))

    def create(self, file_name: str, capacity_bytes: int) -> LabDisk:
        stem = self._stem(file_name)
        with self._lock:
            if stem.with_name(stem.name + ".disk.json").exists():
                raise vim.fault.FileAlreadyExists(file=file_name, msg=f"The file {file_name} already exists.")
            disk = self._disks[stem] = LabDisk.create(stem, capacity_bytes)
        return disk

    def get(self, file_name: str) -> LabDisk:
        """Raises FileNotFound."""
        found = self.of_stem(self._stem(file_name))
        if found is None:
            raise vim.fault.FileNotFound(file=file_name, msg=f"File {file_name} was not found.")
        return found

    def of_stem(self, stem: Path) -> LabDisk | None:
        with self._lock:
            disk = self._disks.get(stem)
            if disk is None and stem.with_name(stem.name + ".disk.json").exists():
                disk = self._disks[stem] = LabDisk(stem)
        return disk

    def file_name(self, disk: LabDisk) -> str:
        relative = disk.stem.relative_to(self.root)
        return f"[{relative.parts[0]}] {'/'.join(relative.parts[1:])}.vmdk"

    def exists(self, file_name: str) -> bool:
        return self.path(*split(file_name)).exists()

    def delete(self, file_name: str) -> None:
        stem = self._stem(file_name)
        disk = self.of_stem(stem)
        if disk is not None:
            disk.delete()
            with self._lock:
                self._disks.pop(stem, None)
        if stem.parent.is_dir() and not any(stem.parent.iterdir()):
            stem.parent.rmdir()

    def close(self) -> None:
        with self._lock:
            for disk in self._disks.values():
                disk.close()
            self._disks.clear()

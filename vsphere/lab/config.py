"""A VM's configuration as the lab keeps it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vsphere.lab import wire


@dataclass(frozen=True)
class Config:
    """A ConfigInfo that is never changed in place, with its XML for the state folder."""

    info: Any
    xml: str

    @cached_property
    def home(self) -> str:
        """`[datastore] folder`"""
        return str(self.info.files.vmPathName).rpartition("/")[0]

    @cached_property
    def instance_uuid(self) -> str:
        return str(self.info.instanceUuid)

    @classmethod
    def of(cls, info: Any) -> "Config":
        return cls(info, wire.to_xml(info))

    @classmethod
    def parse(cls, xml: str) -> "Config":
        return cls(wire.from_xml(xml), xml)

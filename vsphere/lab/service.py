"""ServiceInstance and the services without a file of their own."""

from typing import Any

from pyVmomi import vim

from vsphere.lab import wire
from vsphere.lab.entities import Entity, Lab
from vsphere.lab.registry import Managed, refs
from vsphere.lab.sessions import Call


class ServiceInstance(Managed):
    wsdl = vim.ServiceInstance

    def __init__(self, lab: Lab, instance_uuid: str, services: dict[str, Managed]) -> None:
        """`services` by their names in ServiceInstanceContent."""
        self.content = vim.ServiceInstanceContent(
            about=vim.AboutInfo(
                name="Lab vCenter",
                fullName="Lab vCenter 8.0.3 (embedded, for trying out and for tests)",
                vendor="Hotfirst",
                version="8.0.3",
                build="0",
                osType="linux-x64",
                productLineId="vpx",
                apiType="VirtualCenter",
                apiVersion="8.0.3.0",
                instanceUuid=instance_uuid,
                licenseProductName="Lab",
                licenseProductVersion="8.0",
            ),
            **{name: service.ref for name, service in services.items()},
        )
        super().__init__(lab.registry, "ServiceInstance")

    def p_content(self) -> Any:
        return self.content

    def p_serverClock(self) -> Any:
        return wire.now()

    def RetrieveServiceContent(self, call: Call) -> Any:
        return self.content

    def CurrentTime(self, call: Call) -> Any:
        return wire.now()


class SearchIndex(Managed):
    wsdl = vim.SearchIndex

    def __init__(self, lab: Lab, root: Entity) -> None:
        self.lab, self.root = lab, root
        super().__init__(lab.registry, "SearchIndex")

    def FindAllByUuid(
        self, call: Call, uuid: str, vmSearch: bool, datacenter: Any = None, instanceUuid: bool | None = None
    ) -> list[Any]:
        name = "instanceUuid" if instanceUuid else "uuid"
        vms = list(self.lab.vms.values()) if vmSearch else []
        return refs(vm for vm in vms if getattr(vm.config.info, name) == uuid)

    def FindByUuid(
        self, call: Call, uuid: str, vmSearch: bool, datacenter: Any = None, instanceUuid: bool | None = None
    ) -> Any:
        return next(iter(self.FindAllByUuid(call, uuid, vmSearch, datacenter, instanceUuid)), None)

    def FindByInventoryPath(self, call: Call, inventoryPath: str) -> Any:
        found: Managed | None = self.root
        for name in inventoryPath.strip("/").split("/"):
            found = self._child(found, name) if found else None
        return found.ref if found else None

    def FindChild(self, call: Call, entity: Any, name: str) -> Any:
        found = self._child(self.registry.find(entity), name)
        return found.ref if found else None

    @staticmethod
    def _child(parent: Managed, name: str) -> Managed | None:
        named = (child for child in parent.children() if isinstance(child, Entity) and child.name == name)
        return next(named, None)

"""Who may do what. There is one user, who may do everything but what the scripted faults take from him."""

from typing import Any

from pyVmomi import vim

from vsphere.lab.entities import Lab
from vsphere.lab.registry import Managed
from vsphere.lab.sessions import Call

Manager = vim.AuthorizationManager


class AuthorizationManager(Managed):
    wsdl = vim.AuthorizationManager

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        super().__init__(lab.registry, "AuthorizationManager")

    def HasPrivilegeOnEntities(
        self, call: Call, entity: list[Any], sessionId: str, privId: list[str] | None = None
    ) -> list[Any]:
        lacking = self.lab.faults.missing_privileges()
        return [
            Manager.EntityPrivilege(
                entity=self.registry.find(each).ref,
                privAvailability=[
                    Manager.PrivilegeAvailability(privId=name, isGranted=name not in lacking) for name in privId or ()
                ],
            )
            for each in entity
        ]

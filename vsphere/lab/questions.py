"""What a VM asks when its datastore is full. It stands still until somebody answers."""

import uuid
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

if TYPE_CHECKING:
    from vsphere.lab.vm import VirtualMachine

RETRY, CANCEL = "0", "1"
OUT_OF_SPACE = "msg.hbacommon.outofspace"


def ask_for_space(vm: "VirtualMachine", datastore: str) -> None:
    text = (
        f"There is no more space for virtual disk {vm.name}.vmdk. You might be able to continue this session by "
        f"freeing disk space on the relevant volume, {datastore}, and clicking Retry. "
        "Click Cancel to terminate this session."
    )
    with vm.registry.lock:
        if vm.question is None:
            vm.question = _question(text)
            vm.registry.touch(vm)


def _question(text: str) -> Any:
    choices = [
        vim.ElementDescription(key=key, label=label, summary=label)
        for key, label in ((RETRY, "button.retry"), (CANCEL, "button.abort"))
    ]
    return vim.vm.QuestionInfo(
        id=str(uuid.uuid4().int % 10**6),
        text=text,
        choice=vim.option.ChoiceOption(choiceInfo=choices, defaultIndex=0),
        message=[vim.vm.Message(id=OUT_OF_SPACE, text=text)],
    )


def answer(vm: "VirtualMachine", question: str, choice: str) -> None:
    if vm.question is None or vm.question.id != question:
        raise vmodl.fault.InvalidArgument(invalidProperty="questionId", msg="The VM does not ask this.")
    with vm.registry.lock:
        vm.question = None
        vm.registry.touch(vm)
    if choice == CANCEL:
        vm.set_power("poweredOff")


def refuse_without_space(vm: "VirtualMachine") -> None:
    """A snapshot needs room for its first delta. Raises NoDiskSpace."""
    for name in vm.datastore_names():
        if vm.lab.datastores[name].is_full():
            raise vim.fault.NoDiskSpace(
                file=vm.config.info.files.vmPathName,
                datastore=name,
                msg=f"There is not enough space on the datastore '{name}' for the snapshot.",
            )

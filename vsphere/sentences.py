"""Every fault of vSphere that can be met, what it is in our tree of errors, and how it is told: to the tenant, who can
do something about his VMs and plans, and to the provider, who can look into vCenter."""

from dataclasses import dataclass

from pyVmomi import vim, vmodl

from backups.errors import (
    DiskUnreadable,
    LoginFailed,
    NotFound,
    PermissionMissing,
    PlatformError,
    PlatformUnreachable,
    RecoveryRefused,
    SnapshotFailed,
)

ASK = "ask your provider to look at it"


@dataclass(frozen=True)
class Sentence:
    """`{detail}` stands for vCenter's own words, which only the provider gets; other names are fields of the fault."""

    kinds: tuple[type[Exception], ...]
    error: type[PlatformError]
    tenant: str
    provider: str = ""

    def __post_init__(self) -> None:
        if not self.provider:
            object.__setattr__(self, "provider", self.tenant)


LOGIN_AND_RIGHTS = (
    Sentence(
        (vim.fault.PasswordExpired,),
        LoginFailed,
        f"The virtualization platform does not let the backup log in; {ASK}.",
        "The password of the vCenter account has expired; set a new one and enter it under vCenters.",
    ),
    Sentence(
        (vim.fault.InvalidLogin,),
        LoginFailed,
        f"The virtualization platform does not let the backup log in; {ASK}.",
        "vCenter did not accept the user name or the password; correct them under vCenters.",
    ),
    Sentence(
        (vim.fault.NotAuthenticated,),
        LoginFailed,
        f"The virtualization platform keeps ending the backup's session; {ASK}.",
        "vCenter keeps ending the session; look whether the account may log in and has sessions left.",
    ),
    Sentence(
        (vim.fault.NoPermission,),
        PermissionMissing,
        f"The backup lacks a right at the virtualization platform that this needs; {ASK}.",
        "The vCenter account lacks the privilege {privilegeId}; add it to the account's role in vCenter.",
    ),
    Sentence(
        (vim.fault.RestrictedVersion, vmodl.fault.NotEnoughLicenses, vim.fault.LicenseEntityNotFound),
        PlatformError,
        f"The virtualization platform's licence does not allow this; {ASK}.",
        "The licence of vCenter or of the host does not allow this: {detail}",
    ),
)

QUIESCING = (
    Sentence(
        (vim.fault.ToolsUnavailable,),
        SnapshotFailed,
        "VMware Tools do not run in the guest, so it could not be brought to rest; start them, or let the plan take "
        "snapshots without it.",
        "VMware Tools do not run in the guest: {detail}",
    ),
    Sentence(
        (vim.fault.ApplicationQuiesceFault, vim.fault.FilesystemQuiesceFault),
        SnapshotFailed,
        "The guest could not be brought to rest for the snapshot; look at VMware Tools and the guest's own log.",
        "The guest could not be brought to rest for the snapshot: {detail} Look at VMware Tools and the guest's log.",
    ),
)

SNAPSHOTS = (
    Sentence(
        (vim.fault.TooManySnapshotLevels,),
        SnapshotFailed,
        "The VM has as many snapshots as it can hold; remove some that are no longer needed.",
        "The VM has as many snapshots as it can hold; remove some, and look for a chain that consolidation left over.",
    ),
    Sentence(
        (vim.fault.SnapshotIncompatibleDeviceInVm,),
        SnapshotFailed,
        f"The VM has a device that allows no snapshots; {ASK}.",
        "The VM has a device that allows no snapshots, such as a raw or a shared disk: {detail}",
    ),
    Sentence(
        (vim.fault.SnapshotDisabled, vim.fault.MultipleSnapshotsNotSupported),
        SnapshotFailed,
        f"Snapshots are switched off for this VM; {ASK}.",
        "Snapshots are switched off for this VM, or it may have only one: {detail}",
    ),
    Sentence(
        (vim.fault.SnapshotFault,),
        SnapshotFailed,
        "The snapshot could not be taken; the next run tries again.",
        "vCenter could not take the snapshot: {detail} Look at the VM's events in vCenter.",
    ),
)

ROOM_AND_FILES = (
    Sentence(
        (vim.fault.NoDiskSpace,),
        SnapshotFailed,
        "The datastore {datastore} is full; free some space on it.",
    ),
    Sentence(
        (vim.fault.InsufficientStorageSpace,),
        RecoveryRefused,
        "The datastore has too little room for this; choose another, or free some space on it.",
        "The datastore has too little room for this: {detail}",
    ),
    Sentence(
        (vim.fault.InaccessibleDatastore, vim.fault.DatastoreNotWritableOnHost),
        PlatformUnreachable,
        f"The VM's datastore cannot be reached at the moment; it is tried again later, or {ASK}.",
        "The host cannot reach the datastore {name}: {detail} Look at the host's storage in vCenter.",
    ),
    Sentence(
        (vim.fault.InvalidDatastore,),
        RecoveryRefused,
        "The datastore that was chosen cannot be used; choose another.",
        "vCenter cannot use the datastore {name}: {detail}",
    ),
    Sentence(
        (vim.fault.FileNotFound,),
        NotFound,
        f"A file of the VM is no longer on its datastore; {ASK}.",
        "The file {file} is no longer on its datastore.",
    ),
    Sentence(
        (vim.fault.FileLocked,),
        DiskUnreadable,
        "A disk of the VM is in use by something else; it is tried again later.",
        "The file {file} is locked by another host or program: {detail}",
    ),
    Sentence(
        (vim.fault.FileAlreadyExists,),
        RecoveryRefused,
        "There are files where the recovered VM should lie; choose another name or datastore.",
        "The file {file} exists already; remove what is left of an earlier VM, or choose another name.",
    ),
    Sentence(
        (vim.fault.FileTooLarge,),
        RecoveryRefused,
        "A disk is larger than the datastore allows; choose another datastore.",
        "The file {file} is larger than the datastore {datastore} allows; choose another datastore.",
    ),
    Sentence(
        (vim.fault.FileFault,),
        DiskUnreadable,
        f"A file of the VM could not be opened; it is tried again later, or {ASK}.",
        "vCenter could not open the file {file}: {detail}",
    ),
)

STATES = (
    Sentence(
        (vim.fault.TaskInProgress, vim.fault.ConcurrentAccess),
        SnapshotFailed,
        "Another task is running on this VM; it is tried again later.",
        "Another task is running on this VM in vCenter; it is tried again later.",
    ),
    Sentence(
        (vim.fault.QuestionPending,),
        SnapshotFailed,
        f"The VM stands still with a question; {ASK}.",
        "The VM stands still until the question is answered that it asks in vCenter: {text}",
    ),
    Sentence(
        (vim.fault.InvalidPowerState,),
        RecoveryRefused,
        "The VM is {existingState}, which does not allow this; change its power state and try again.",
    ),
    Sentence(
        (vim.fault.InvalidHostState, vim.fault.NoActiveHostInCluster),
        PlatformUnreachable,
        "The VM's host is not available at the moment; it is tried again later.",
        "The host is in a state that does not allow this, such as maintenance: {detail}",
    ),
    Sentence(
        (vim.fault.InvalidState,),
        PlatformError,
        "The VM is in a state that does not allow this; try again later.",
        "The VM is in a state that does not allow this: {detail}",
    ),
    Sentence(
        (vim.fault.ResourceInUse,),
        PlatformError,
        "Something that this needs is in use; try again later.",
        "{name} is in use: {detail}",
    ),
    Sentence(
        (vim.fault.Timedout, vmodl.fault.RequestCanceled),
        PlatformUnreachable,
        "The virtualization platform did not finish in time; it is tried again later.",
        "vCenter gave a task up: {detail} It is tried again later.",
    ),
)

RECOVERING = (
    Sentence(
        (vim.fault.DuplicateName,),
        RecoveryRefused,
        "There is something named {name} at this place already; choose another name.",
        "vCenter has something named {name} at this place already; choose another name.",
    ),
    Sentence(
        (vim.fault.InvalidName,),
        RecoveryRefused,
        "{name} cannot be a name at the virtualization platform; choose another.",
    ),
    Sentence(
        (vim.fault.InsufficientResourcesFault,),
        RecoveryRefused,
        "The place that was chosen has too few resources for the VM; choose another place or free some.",
        "The host or resource pool has too few resources ({detail}); choose another place or free some.",
    ),
    Sentence(
        (vim.fault.VirtualHardwareVersionNotSupported,),
        RecoveryRefused,
        "The host that was chosen is too old for this VM; choose another.",
        "The host knows no virtual hardware of version {version}; choose a newer host.",
    ),
    Sentence(
        (vim.fault.VAppConfigFault, vim.fault.VAppPropertyFault, vim.fault.OvfFault),
        RecoveryRefused,
        f"The vApp or VM could not be made as it was archived; {ASK}.",
        "vCenter could not make the vApp or VM from its description: {detail}",
    ),
    Sentence(
        (vim.fault.VmConfigFault,),
        RecoveryRefused,
        "The VM cannot be made with these settings at the place that was chosen; choose another place.",
        "The VM cannot be configured like this here: {detail}",
    ),
)

CONNECTIONS = (
    Sentence(
        (vmodl.fault.ManagedObjectNotFound,),
        NotFound,
        "This object is no longer in vCenter; refresh the inventory.",
    ),
    Sentence(
        (vmodl.fault.HostNotConnected,),
        PlatformUnreachable,
        "The VM's host is not connected at the moment; it is tried again later.",
        "The VM's host is not connected to vCenter; look at the host's state in vCenter.",
    ),
    Sentence(
        (vmodl.fault.HostCommunication, vim.fault.HostConnectFault),
        PlatformUnreachable,
        "The VM's host cannot be reached at the moment; it is tried again later.",
        "vCenter cannot reach the VM's host ({detail}); look at the host's state in vCenter.",
    ),
)

OTHERS = (
    Sentence(
        (vmodl.fault.NotSupported, vmodl.fault.NotImplemented, vmodl.fault.MethodNotFound),
        PlatformError,
        f"The virtualization platform does not support what was asked; {ASK}.",
        "This vCenter or VM does not support what was asked: {detail}",
    ),
    Sentence(
        (vim.fault.NotFound,),
        NotFound,
        "Something that this needs is no longer there; refresh the inventory.",
        "vCenter does not find what was asked for: {detail}",
    ),
    Sentence(
        (vmodl.fault.InvalidArgument, vmodl.fault.InvalidRequest),
        PlatformError,
        f"The virtualization platform did not accept what was asked; {ASK}.",
        "vCenter did not accept what was asked: {detail} Look at its tasks and events for more.",
    ),
)

SENTENCES = (
    *LOGIN_AND_RIGHTS,
    *QUIESCING,
    *SNAPSHOTS,
    *ROOM_AND_FILES,
    *STATES,
    *RECOVERING,
    *CONNECTIONS,
    *OTHERS,
)
"""The first that fits counts."""

UNKNOWN = Sentence(
    (Exception,),
    PlatformError,
    f"The virtualization platform refused; {ASK}.",
    "vCenter refused: {detail} Look at its tasks and events for more.",
)

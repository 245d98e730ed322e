"""The one tree of errors. Adapters translate into it once; tasks record it once; nothing else catches it.

`code` is stable and goes to the API; `str(error)` is a sentence fit for a tenant, so it holds no address, user name,
certificate or privilege of the provider's; `provider_message` is the one for the provider, who can look behind the
portal; `retryable` says whether the same work may succeed if it is simply tried again later.
"""

from typing import Self


class HotfirstError(Exception):
    """Expected trouble: shown to the user in its own words."""

    code = "error"
    retryable = False

    def __init__(self, message: str = "", *, provider: str = "") -> None:
        """`provider`: what the provider is told instead, where the two differ."""
        super().__init__(message)
        self._provider = provider

    @property
    def provider_message(self) -> str:
        return self._provider or str(self)

    def for_provider(self) -> Self:
        """The same error in the words for the provider, where nobody else listens."""
        twin = type(self).__new__(type(self), self.provider_message)
        twin._provider = ""
        return twin


class PlatformError(HotfirstError):
    """vSphere refused, or could not be reached."""

    code = "platform"


class PlatformUnreachable(PlatformError):
    code = "platform_unreachable"
    retryable = True


class CertificateMismatch(PlatformError):
    """The server shows another certificate than the one confirmed at enrolment. Nothing was sent to it."""

    code = "certificate_mismatch"


class LoginFailed(PlatformError):
    code = "login_failed"


class PermissionMissing(PlatformError):
    code = "permission_missing"


class NotFound(PlatformError):
    """A VM, vApp, snapshot or disk that no longer exists."""

    code = "not_found"


class SnapshotFailed(PlatformError):
    code = "snapshot_failed"
    retryable = True


class ChangeTrackingUnusable(PlatformError):
    """Changed areas cannot be had or trusted; the message is the reason, and everything must be read."""

    code = "change_tracking_unusable"


class DiskUnreadable(PlatformError):
    code = "disk_unreadable"
    retryable = True


class RecoveryRefused(PlatformError):
    """The target cannot take the recovered VM as asked."""

    code = "recovery_refused"


class ArchiveError(HotfirstError):
    """The repository could not keep or give back data."""

    code = "archive"


class RepositoryFull(ArchiveError):
    """Somebody has to make room first, so trying again at once is no use."""

    code = "repository_full"


class RepositoryUnavailable(ArchiveError):
    code = "repository_unavailable"
    retryable = True


class ArchiveDamaged(ArchiveError):
    """Stored bytes are not what was written."""

    code = "archive_damaged"


class ArchiveMissing(ArchiveError):
    code = "archive_missing"


class KeyUnavailable(ArchiveError):
    """The private key that opens this tenant's archives is not here."""

    code = "key_unavailable"


class InvalidRequest(HotfirstError):
    """The request cannot be carried out as written; the message says what to change."""

    code = "invalid_request"


class Conflict(HotfirstError):
    """Somebody else was faster, or the thing is in a state that does not allow it."""

    code = "conflict"


class Interrupted(HotfirstError):
    """The work was cancelled, drained, or taken over by another worker; it stopped where it was safe."""

    code = "interrupted"
    retryable = True

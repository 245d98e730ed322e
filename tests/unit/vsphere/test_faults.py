import ssl

import pytest
from pyVmomi import vim, vmodl

from backups import errors
from vsphere.disks.leases import LeaseLost
from vsphere.faults import translated, translating, unreachable
from vsphere.sentences import SENTENCES, UNKNOWN, Sentence


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        (vim.fault.InvalidLogin(), errors.LoginFailed, "user name or the password"),
        (vim.fault.NoPermission(privilegeId="VApp.Export"), errors.PermissionMissing, "VApp.Export"),
        (vmodl.fault.ManagedObjectNotFound(), errors.NotFound, "no longer in vCenter"),
        (vim.fault.DuplicateName(name="web"), errors.RecoveryRefused, "something named web"),
        (vim.fault.NoDiskSpace(datastore="ssd1"), errors.SnapshotFailed, "ssd1 is full"),
        (vim.fault.TooManySnapshotLevels(), errors.SnapshotFailed, "as many snapshots"),
        (vim.fault.SnapshotFault(), errors.SnapshotFailed, "(SnapshotFault)."),
        (vmodl.fault.HostNotConnected(), errors.PlatformUnreachable, "is not connected"),
        (vmodl.fault.HostCommunication(), errors.PlatformUnreachable, "cannot reach"),
        (vim.fault.FileNotFound(file="a.vmdk"), errors.NotFound, "a.vmdk"),
        (vim.fault.FileLocked(file="a.vmdk", msg="Locked"), errors.DiskUnreadable, "a.vmdk is locked"),
        (vmodl.fault.NotSupported(msg="No."), errors.PlatformError, "does not support"),
        (vmodl.fault.SystemError(reason="odd"), errors.PlatformError, "odd."),
        (vim.fault.InvalidPowerState(existingState="suspended"), errors.RecoveryRefused, "The VM is suspended"),
    ],
)
def test_every_fault_becomes_a_sentence(fault: Exception, error: type[Exception], told: str) -> None:
    said = translated(fault)
    assert type(said) is error
    assert told in said.provider_message
    assert said.provider_message.endswith(".")
    assert str(said).endswith(".")


def test_no_sentence_is_hidden_behind_a_broader_one() -> None:
    seen: list[type[Exception]] = []
    for sentence in SENTENCES:
        assert not [kind for kind in sentence.kinds if issubclass(kind, tuple(seen))]
        seen += sentence.kinds


@pytest.mark.parametrize("sentence", [*SENTENCES, UNKNOWN], ids=lambda each: each.kinds[0].__name__)
def test_tenants_get_none_of_vcenters_own_words(sentence: Sentence) -> None:
    for kind in sentence.kinds:
        fault = kind() if kind is Exception else kind(msg="esx7.corp:443 refused DOMAIN\\svc-backup")
        said = translated(fault)
        assert "esx7" not in str(said)
        assert str(said).endswith(".")
        assert said.provider_message.endswith(".") or "{" not in said.provider_message


def test_our_own_errors_pass_unchanged() -> None:
    ours = errors.SnapshotFailed("As it was.")
    assert translated(ours) is ours
    with pytest.raises(errors.SnapshotFailed, match="As it was"), translating():
        raise ours


def test_an_error_is_told_to_the_provider_in_his_words_and_stays_what_it_is() -> None:
    error = errors.SnapshotFailed("It failed.", provider="Look at esx7.")
    assert (str(error), error.provider_message) == ("It failed.", "Look at esx7.")
    told = error.for_provider()
    assert (type(told), str(told), told.retryable) == (errors.SnapshotFailed, "Look at esx7.", True)
    assert str(LeaseLost().for_provider()) == str(LeaseLost())
    assert errors.NotFound("Gone.").provider_message == "Gone."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionRefusedError(), "Nobody listens at vc:443"),
        (TimeoutError(), "did not answer in time"),
        (ssl.SSLError("wrong version number"), "does not speak TLS"),
        (ConnectionResetError("reset"), "broke (reset)"),
    ],
)
def test_errors_of_the_network_can_be_tried_again(error: Exception, told: str) -> None:
    said = unreachable(error, "vc:443")
    assert said.retryable
    assert told in said.provider_message
    assert "vc:443" not in str(said)


def test_a_wrong_certificate_is_not_tried_again() -> None:
    said = unreachable(ssl.SSLCertVerificationError(), "vc:443")
    assert isinstance(said, errors.CertificateMismatch)
    assert not said.retryable

"""What other servers than the lab answer."""

from typing import Any

import pytest
from pyVmomi import vim

from vsphere.inventory import plain_name, split_path
from vsphere.properties import Collector, refuse_dead_session
from vsphere.session import _versions


def missing(fault: Exception) -> list[Any]:
    return [Collector.MissingProperty(path="name", fault=fault)]


def test_a_dead_session_that_shows_as_a_missing_property_is_noticed() -> None:
    with pytest.raises(vim.fault.NotAuthenticated):
        refuse_dead_session(missing(vim.fault.NotAuthenticated()))


def test_a_property_that_may_not_be_seen_is_only_missing() -> None:
    refuse_dead_session(missing(vim.fault.NoPermission()))
    refuse_dead_session([])


def test_datastore_paths_are_split() -> None:
    assert split_path("[ssd 1] web/web_1.vmdk") == ("ssd 1", "web/web_1.vmdk")
    assert split_path("[ssd1]") == ("ssd1", "")
    assert split_path("odd") == ("", "odd")


def test_a_server_that_is_no_vcenter_offers_no_version() -> None:
    assert _versions(b"<html>Welcome") == set()


def test_names_are_shown_as_they_were_typed() -> None:
    assert plain_name("web%2fapp 100%25") == "web/app 100%"

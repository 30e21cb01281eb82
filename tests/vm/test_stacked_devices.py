"""Devices that this project's machine has not, and Debian's kernels have: VLAN, bond, tunnels, WireGuard."""

import pytest

from tests.support.queued import attached_devices, goes_through_queue, ip, require_queued
from tests.support.stacked import KINDS, download_over, upload_over
from tests.support.throttled import Scene


@pytest.mark.parametrize("kind", KINDS)
def test_a_download_is_queued_once(kind: str, stage: Scene) -> None:
    download_over(kind, stage)


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_is_charged_once(kind: str, stage: Scene) -> None:
    upload_over(kind, stage)


def test_a_bond_that_changes_its_port(stage: Scene) -> None:
    program = download_over("bond", stage)
    assert len(attached_devices(stage)) == 1
    ip(stage.here, "link", "set", "veth0", "down")
    require_queued(stage, program)
    assert goes_through_queue(stage, program) == 1

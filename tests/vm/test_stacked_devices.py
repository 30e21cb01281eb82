"""Devices that Debian's kernels have and this machine's has not; tests/kernel/test_queue_stacked.py has the others."""

import pytest

from tests.support.queued import attached_devices, goes_through_queue, ip, require_queued
from tests.support.stacked import ELSEWHERE, download_over, upload_over
from tests.support.throttled import Scene


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_download_is_queued_once(kind: str, stage: Scene) -> None:
    download_over(kind, stage)


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_an_upload_is_charged_once(kind: str, stage: Scene) -> None:
    upload_over(kind, stage)


def test_a_bond_that_changes_its_port(stage: Scene) -> None:
    program = download_over("bond", stage)
    assert len(attached_devices(stage)) == 1
    ip(stage.here, "link", "set", "veth0", "down")
    require_queued(stage, program)
    assert goes_through_queue(stage, program) == 1

"""Devices on devices, those that this kernel has; tests/vm has the others."""

import pytest

from tests.support.stacked import HERE, download_over, upload_over
from tests.support.throttled import Scene


@pytest.mark.parametrize("kind", HERE)
def test_a_download_is_queued_once(kind: str, stage: Scene) -> None:
    download_over(kind, stage)


@pytest.mark.parametrize("kind", HERE)
def test_an_upload_is_charged_once(kind: str, stage: Scene) -> None:
    upload_over(kind, stage)

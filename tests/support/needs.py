"""Skipping what an older kernel cannot do, and only that."""

import os
from typing import NoReturn

import pytest

from chadthrottle.bpf.features import FEATURES, supported
from chadthrottle.bpf.release import kernel_version, parse_release


def needs(feature: str) -> None:
    """Skip the test on a kernel without this one of FEATURES."""
    if not supported(feature):
        lacking(FEATURES[feature].what, FEATURES[feature].since)


def lacking(what: str, since: str) -> NoReturn:
    """Skip, because this kernel lacks what came with `since`. Fails where the version promises it."""
    text = f"{what}: since Linux {since}, this is {os.uname().release}"
    if kernel_version()[:2] >= parse_release(since)[:2]:
        pytest.fail(f"{text}, and lacks it")
    pytest.skip(text)

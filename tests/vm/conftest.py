"""Before anything is compared: some modules bring devices into every namespace when they are loaded, and stay."""

import subprocess

import pytest


@pytest.fixture(scope="session", autouse=True)
def default_devices() -> None:
    """bond0, gre0, tunl0 and the like."""
    far = ("remote", "192.0.2.1")
    for words in ("bond",), ("gre", *far), ("ipip", *far):
        subprocess.run(["unshare", "--net", "ip", "link", "add", "made", "type", *words], check=True)

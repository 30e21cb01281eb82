"""What only a reboot ends: the last of a guest's tests, by this file's name."""

import subprocess
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.doctor import diagnose
from tests.support.queued import require_limited
from tests.support.throttled import Scene

LOCKDOWN = Path("/sys/kernel/security/lockdown")


@pytest.fixture
def securityfs() -> None:
    if not LOCKDOWN.exists():
        subprocess.run(["mount", "-t", "securityfs", "securityfs", "/sys/kernel/security"], check=True)


@pytest.mark.usefixtures("securityfs")
@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_lockdown_keeps_nobody_from_a_limit(mode: str, chadthrottle: Command, stage: Scene) -> None:
    """And doctor says so."""
    LOCKDOWN.write_text(f"{mode}\n", encoding="ascii")
    found = diagnose(chadthrottle)
    found.is_well("CT-PERM-07")
    assert mode in found.text("CT-PERM-07")
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    require_limited(stage, program)

"""What only a reboot ends: the last of a guest's tests, by this file's name."""

import subprocess
from pathlib import Path

import pytest

from chadthrottle.errors import ChadthrottleError
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
def test_lockdown_for_integrity_is_no_cause(chadthrottle: Command, stage: Scene) -> None:
    LOCKDOWN.write_text("integrity\n", encoding="ascii")
    diagnose(chadthrottle).is_well("CT-PERM-07")
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    require_limited(stage, program)


@pytest.mark.usefixtures("securityfs")
def test_lockdown_for_confidentiality(chadthrottle: Command, stage: Scene) -> None:
    """What doctor says of it is so."""
    LOCKDOWN.write_text("confidentiality\n", encoding="ascii")
    diagnose(chadthrottle).names_only("CT-PERM-07", "confidentiality", "reboot", status=5)
    program = stage.start()
    with pytest.raises(ChadthrottleError, match="lockdown"):
        stage.throttle(program)
    assert not stage.base.exists()

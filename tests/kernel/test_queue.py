"""Downloads held by a queue: what goes through it, what does not, and that nothing of it stays."""

import subprocess
import time

import pytest

from chadthrottle.model import Engine
from tests.support.queued import tc
from tests.support.rates import gets_faster, rate
from tests.support.throttled import LIMIT, Scene


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_a_running_download_is_queued(ipv6: bool, stage: Scene) -> None:
    program = stage.start()
    program.busy_download(ipv6=ipv6)
    done = stage.throttle(program)
    assert done.notes == ()
    assert done.state.down is not None
    assert done.state.down.engine is Engine.QUEUE
    time.sleep(1)  # what was lost while it settled is sent again, and until then nothing reaches the program
    assert 0.8 * LIMIT < rate(program.received, 2) < 1.05 * LIMIT
    (rule,) = stage.listing().rules
    assert rule.down is not None
    assert rule.down.policed_share == 0
    stage.release(program)
    assert "chadthrottle" not in subprocess.check_output(["ip", "-n", stage.here.namespace, "link"], text=True)
    assert tc(stage.here, "filter", "show", "dev", stage.here.device, "ingress") == ""
    assert gets_faster(program.received, 4 * LIMIT, 1.1, seconds=1)

"""--foreground with a queue, which is pinned where the hooks are not: it goes with the command, however that ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.patience import patient
from tests.support.queued import DEVICE, goes_through_queue, ip, require_free, traffic_control
from tests.support.rates import within
from tests.support.throttled import LIMIT, PROJECT, Program, Scene

COMMAND = """if True:
    import sys
    from pathlib import Path
    from chadthrottle.limits.foreground import hold
    from chadthrottle.model import AttachPoint, ProcessIdentity, RuleSpec

    pid, ticks, at, base, rate = sys.argv[1:]
    process = ProcessIdentity(int(pid), int(ticks), "held")
    spec = RuleSpec(process=process, rate_up_bytes_per_s=None, rate_down_bytes_per_s=int(rate), at=AttachPoint(at))
    hold(spec, lambda done: print("limited", flush=True), Path(base))
"""


@contextmanager
def held(stage: Scene, program: Program) -> Iterator["subprocess.Popen[str]"]:
    ticks = stage.spec(program.pid).process.start_time_ticks
    words = [str(program.pid), str(ticks), str(stage.cgroup), str(stage.base), str(LIMIT)]
    command = [sys.executable, "-c", COMMAND, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "limited\n"
            yield process
        finally:
            process.kill()


def guard_of(process: "subprocess.Popen[str]") -> int:
    (pid,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split())
    return pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_ended_command_leaves_no_queue(number: signal.Signals, stage: Scene) -> None:
    nothing = traffic_control(stage.here)
    program = stage.start()
    program.busy_download()
    with held(stage, program) as process:
        assert goes_through_queue(stage, program) == 1
        process.send_signal(number)
        process.wait(patient(20))
        require_free(program)
        assert within(5, lambda: DEVICE not in ip(stage.here, "link"))  # it goes last
        assert traffic_control(stage.here) == nothing


def test_killed_with_its_guard_it_limits_nobody(stage: Scene) -> None:
    """And the next command removes what it left."""
    nothing = traffic_control(stage.here)
    program = stage.start()
    program.busy_download()
    with held(stage, program) as process:
        guard = guard_of(process)
        os.kill(guard, signal.SIGSTOP)
        process.kill()
        process.wait()
        os.kill(guard, signal.SIGKILL)
    require_free(program)
    assert stage.limited() == set()
    stage.release()
    assert traffic_control(stage.here) == nothing
    assert not stage.base.exists()

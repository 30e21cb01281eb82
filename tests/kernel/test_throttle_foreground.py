"""--foreground: a limit that goes with its command, however that goes, and takes nothing of others along."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chadthrottle.errors import UsageError
from chadthrottle.limits.foreground import hold
from chadthrottle.procs import read_stat
from tests.support.patience import patient
from tests.support.rates import gets_faster, rate, within
from tests.support.throttled import LIMIT, PROJECT, Program, Scene

UNLIMITED_PACING = 0xFFFFFFFF

COMMAND = """if True:
    import sys
    from pathlib import Path
    from chadthrottle.artifacts import object_path
    from chadthrottle.bpf import cgroup_link, iter_link, loader, parse, tracing_link
    from chadthrottle.limits.foreground import hold
    from chadthrottle.model import AttachPoint, ProcessIdentity, RuleSpec

    pid, ticks, at, base, method = sys.argv[1:]
    process = ProcessIdentity(int(pid), int(ticks), "held")
    rates = {"rate_up_bytes_per_s": 1_000_000, "rate_down_bytes_per_s": 1_000_000}
    spec = RuleSpec(process=process, **rates, at=AttachPoint(at), attach=method)
    print("ready", flush=True)
    sys.stdin.read(1)
    by_signal = hold(spec, lambda done: print("limited", flush=True), Path(base))
    print("signal" if by_signal else "ended", flush=True)
"""


class Holder:
    """A command with --foreground."""

    def __init__(self, stage: Scene, program: Program, method: str = "auto") -> None:
        spec = stage.spec(program.pid)
        words = [str(program.pid), str(spec.process.start_time_ticks), str(stage.cgroup), str(stage.base), method]
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
        )
        assert self.line() == "ready"

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("x")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def guard(self) -> int:
        """Its PID."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        (pid,) = map(int, children.split())
        return pid

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(patient(20))


@contextmanager
def holding(stage: Scene, program: Program, method: str = "auto") -> Iterator[Holder]:
    holder = Holder(stage, program, method)
    try:
        holder.begin()
        assert holder.line() == "limited"
        yield holder
    finally:
        holder.process.kill()
        holder.process.communicate()


@pytest.fixture
def program(stage: Scene) -> Program:
    made = stage.start()
    made.busy_upload()
    return made


def eventually(condition: Callable[[], object], seconds: float = 2) -> None:
    assert within(seconds, condition)


def pinned_links(stage: Scene) -> set[str]:
    """Of the hooks; a queue's are always pinned, and go with the last rule."""
    return {path.name for path in stage.base.glob("*/links/*") if not path.name.startswith("queue-")}


def is_over(stage: Scene, program: Program) -> bool:
    """Nothing of the limit is left, in the kernel or in the connection."""
    return not stage.base.exists() and program.pacing("up") == UNLIMITED_PACING


@pytest.mark.parametrize("method", ["link", "legacy"])
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_limit_goes_with_its_command(ending: signal.Signals, method: str, stage: Scene, program: Program) -> None:
    with holding(stage, program, method) as holder:
        (rule,) = stage.listing().rules
        assert (rule.process.pid, rule.held_by, rule.attached_by) == (program.pid, holder.process.pid, method)
        attached = {"egress", "ingress", "sockops", "sock_create"} if method == "legacy" else set()
        assert pinned_links(stage) == {"open_files", "connections"} | attached
        assert program.pacing("up") < 2 * LIMIT
        status = holder.end(ending)
        if ending == signal.SIGKILL:
            eventually(lambda: is_over(stage, program))
        else:
            assert (status, holder.line()) == (0, "signal")
            assert is_over(stage, program)
        assert gets_faster(program.sent, 5 * LIMIT, 2, seconds=0.1)


def test_killed_with_its_guard(stage: Scene, program: Program) -> None:
    """The limit is gone all the same; the connection's pacing goes with the next command."""
    with holding(stage, program) as holder:
        guard = holder.guard()
        os.kill(guard, signal.SIGKILL)
        holder.end(signal.SIGKILL)
    eventually(lambda: not stage.limited())
    assert any("was killed" in note for note in stage.listing().notes)
    stage.throttle(stage.start())
    assert program.pacing("up") == UNLIMITED_PACING
    assert program.pid not in stage.limited()


def test_killed_at_any_instant(stage: Scene, program: Program) -> None:
    dice = random.Random(4)
    for _ in range(8):
        holder = Holder(stage, program)
        holder.begin()
        time.sleep(dice.random() * 0.25)
        holder.process.kill()
        holder.process.communicate()
        eventually(lambda: is_over(stage, program))


@pytest.mark.parametrize("killed_guard", [False, True])
def test_a_limit_that_stays_keeps_the_hooks(killed_guard: bool, stage: Scene, program: Program) -> None:
    other = stage.start()
    with holding(stage, program) as holder:
        stage.throttle(other)
        assert "egress" in pinned_links(stage)
        assert stage.limited() == {program.pid, other.pid}
        if killed_guard:
            os.kill(holder.guard(), signal.SIGKILL)
        holder.end(signal.SIGKILL)
        eventually(lambda: stage.limited() == {other.pid})
        eventually(lambda: program.pacing("up") == UNLIMITED_PACING)
    other.busy_upload()
    time.sleep(0.3)
    assert 0 < rate(other.sent) < 1.6 * LIMIT


def test_two_of_them(stage: Scene, program: Program) -> None:
    """The second keeps the hooks that the first made."""
    other = stage.start()
    with holding(stage, program) as first, holding(stage, other) as second:
        first.end(signal.SIGTERM)
        assert stage.limited() == {other.pid}
        second.end(signal.SIGKILL)
        eventually(lambda: is_over(stage, program))


def test_beside_limits_that_stay(stage: Scene, program: Program) -> None:
    other = stage.start()
    stage.throttle(other)
    with holding(stage, program) as holder:
        holder.end(signal.SIGKILL)
        eventually(lambda: stage.limited() == {other.pid})
        eventually(lambda: program.pacing("up") == UNLIMITED_PACING)
    assert "egress" in pinned_links(stage)


def test_released_by_another_command(stage: Scene, program: Program) -> None:
    with holding(stage, program) as holder:
        stage.release(program)
        assert holder.line() == "ended"
        assert holder.process.wait(patient(10)) == 0
        assert is_over(stage, program)


def test_it_ends_with_the_program(stage: Scene, program: Program) -> None:
    with holding(stage, program) as holder:
        program.kill()
        assert holder.line() == "ended"
        assert holder.process.wait(patient(10)) == 0
    assert not stage.base.exists()


def test_a_limit_that_is_there_is_not_taken_over(stage: Scene, program: Program) -> None:
    stage.throttle(program)
    with pytest.raises(UsageError, match="has a limit already"):
        hold(stage.spec(program.pid), lambda _: None, stage.base)
    assert stage.limited() == {program.pid}
    stat = read_stat(os.getpid())
    assert stat is not None
    assert stage.listing().rules[0].held_by is None

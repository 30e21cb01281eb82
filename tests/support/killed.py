"""Commands that are killed, before a step of making or removing a queue or at some instant.

    python -m tests.support.killed

They run in children of this process (see forked.py). A command is done if it has fewer steps than that, or was
faster.
"""

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chadthrottle import limits
from chadthrottle.bpf.links import Link
from chadthrottle.enforce.queue import place, records
from chadthrottle.model import AttachPoint, Engine, ProcessIdentity, RuleSpec
from chadthrottle.netlink import Links, TrafficControl
from tests.support.forked import NEVER, order, serve
from tests.support.throttled import LIMIT, PROJECT, Program, Scene

__all__ = ["NEVER", "STEPS", "Killed", "Killer", "count_steps", "killer"]

STEPS: tuple[tuple[Any, str], ...] = (
    *((Links, name) for name in ("devices", "add_ifb", "set_up", "remove")),
    *(
        (TrafficControl, name)
        for name in ("make_htb", "has_htb", "set_class", "set_first_leaf", "set_bulk_leaf", "remove_class")
    ),
    *((TrafficControl, name) for name in ("clsacts", "add_clsact", "remove_clsact", "filters", "waiting_bytes")),
    *((TrafficControl, name) for name in ("add_filter", "remove_filter")),
    *((records, name) for name in ("write", "forget")),
    (place, "attach_tcx"),
    (Link, "pin"),
)


def count_steps(patch: Callable[[Any, str, Any], object], number: int, then: Callable[[str], None]) -> list[str]:
    """Calls `then` with its name before the step with this number. The result grows by each step's name."""
    calls: list[str] = []

    def counted(name: str, original: Any) -> Any:
        def step(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == number:
                then(name)
            return original(*arguments, **named)

        return step

    for owner, name in STEPS:
        patch(owner, name, counted(name, getattr(owner, name)))
    return calls


@dataclass(frozen=True, slots=True)
class Killed:
    """How a command ended; true if it was killed."""

    was_killed: bool
    ran_s: float

    def __bool__(self) -> bool:
        return self.was_killed


class Killer:
    """Runs commands for a scene, and kills them before their step with that number or after so long."""

    def __init__(self, process: "subprocess.Popen[str]", stage: Scene) -> None:
        self._process, self._stage = process, stage

    def throttle(
        self,
        program: Program,
        step: int = NEVER,
        engine: Engine = Engine.AUTO,
        *,
        attach: str = "auto",
        after_s: float = NEVER,
    ) -> Killed:
        ticks = self._stage.spec(program.pid).process.start_time_ticks
        spec = {"pid": program.pid, "ticks": ticks, "at": str(self._stage.cgroup), "engine": engine, "attach": attach}
        return self._order("throttle", step, after_s, spec)

    def release(self, step: int = NEVER, *, after_s: float = NEVER) -> Killed:
        """All."""
        return self._order("release", step, after_s, {})

    def _order(self, action: str, step: int, after_s: float, more: dict[str, object]) -> Killed:
        what = {"action": action, "base": str(self._stage.base), "step": step, "after_s": after_s, **more}
        ended = order(self._process, what)
        assert ended.status in (0, -signal.SIGKILL), ended
        return Killed(ended.status != 0, ended.ran_s)


_waiting: list["subprocess.Popen[str]"] = []
"""For the next test: they know nothing of the last one."""


@contextmanager
def killer(stage: Scene) -> Iterator[Killer]:
    process = _waiting.pop() if _waiting else _start()
    try:
        yield Killer(process, stage)
    except BaseException:  # it may be in the middle of an order
        process.kill()
        process.communicate()
        raise
    _waiting.append(process)


def _start() -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.support.killed"]
    return subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@atexit.register
def _end_those_that_wait() -> None:
    for process in _waiting:
        process.communicate()


def _run(asked: dict[str, Any]) -> None:
    count_steps(setattr, asked["step"], lambda _: os.kill(os.getpid(), signal.SIGKILL))
    base = Path(asked["base"])
    if asked["action"] == "release":
        limits.release(None, base=base)
        return
    process = ProcessIdentity(asked["pid"], asked["ticks"], "killed")
    spec = RuleSpec(
        process=process,
        rate_up_bytes_per_s=LIMIT,
        rate_down_bytes_per_s=LIMIT,
        at=AttachPoint(asked["at"]),
        engine=Engine(asked["engine"]),
        attach=asked["attach"],
    )
    limits.throttle(spec, base)


if __name__ == "__main__":
    serve(_run)

"""Commands that are killed before a step of making or removing a queue; run in children of one process.

    python -m tests.support.killed

A line of JSON on standard input (`Order`), a line on standard output: "killed", or "done" if the command has fewer
steps than that.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chadthrottle import limits
from chadthrottle.bpf.links import Link
from chadthrottle.enforce.queue import place, records
from chadthrottle.model import AttachPoint, Engine, ProcessIdentity, RuleSpec
from chadthrottle.netlink import Links, TrafficControl
from tests.support.throttled import LIMIT, PROJECT, Program, Scene

__all__ = ["STEPS", "Killer", "count_steps", "killer"]

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


class Killer:
    """Runs commands for a scene."""

    def __init__(self, process: "subprocess.Popen[str]", stage: Scene) -> None:
        self._process, self._stage = process, stage

    def throttle(self, program: Program, step: int, engine: Engine = Engine.AUTO) -> bool:
        """Whether it was killed."""
        ticks = self._stage.spec(program.pid).process.start_time_ticks
        order = {"pid": program.pid, "ticks": ticks, "at": str(self._stage.cgroup), "engine": engine.value}
        return self._order({"action": "throttle", "step": step, "base": str(self._stage.base), **order})

    def release(self, step: int) -> bool:
        return self._order({"action": "release", "step": step, "base": str(self._stage.base)})

    def _order(self, order: dict[str, object]) -> bool:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer in ("killed\n", "done\n"), answer
        return answer == "killed\n"


@contextmanager
def killer(stage: Scene) -> Iterator[Killer]:
    command = [sys.executable, "-m", "tests.support.killed"]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Killer(process, stage)
        finally:
            process.kill()


def _run(order: dict[str, Any]) -> None:
    count_steps(setattr, order["step"], lambda _: os.kill(os.getpid(), signal.SIGKILL))
    base = Path(order["base"])
    if order["action"] == "release":
        limits.release(None, base=base)
        return
    process = ProcessIdentity(order["pid"], order["ticks"], "killed")
    at, engine = AttachPoint(order["at"]), Engine(order["engine"])
    asked = RuleSpec(process=process, rate_up_bytes_per_s=LIMIT, rate_down_bytes_per_s=LIMIT, at=at, engine=engine)
    limits.throttle(asked, base)


def _main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _run(json.loads(line))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("killed" if killed else "done" if status == 0 else f"failed {status}", flush=True)


if __name__ == "__main__":
    _main()

"""How long the commands take, as processes, beside a bare interpreter and the import of click."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.cost.place import place
from tests.support.command import PROGRAM, Command, environment
from tests.support.throttled import SINK, Program

__all__ = ["Timings", "measure", "report"]

ROOT = Path(__file__).resolve().parents[2]
STOPWATCH = Path(__file__).with_name("stopwatch.py")
ROUNDS = 21
IMPORT_RUNS, IMPORT_ROWS = 7, 16

COLD, WARM, CHANGED, LIST, NOTHING = (
    "throttle, cold",
    "throttle, warm",
    "throttle, of a limited process",
    "list, 1 rule",
    "list, no hooks",
)
QUEUE_COLD, QUEUE_WARM, QUEUE_LIST = "throttle with a queue, cold", "throttle with a queue, warm", "list, 1 queued rule"
BARE, CLICK, IMPORTS = "python -c pass", "python -c 'import click'", "the imports of list"
TARGETS_MS = {COLD: 400, WARM: 150, LIST: 120, QUEUE_COLD: 650, QUEUE_WARM: 350, QUEUE_LIST: 300}
ROWS = (BARE, CLICK, IMPORTS, NOTHING, LIST, WARM, CHANGED, COLD, QUEUE_LIST, QUEUE_WARM, QUEUE_COLD)
IMPORTS_OF_LIST = "import chadthrottle.cli, chadthrottle.cli.list_rules, chadthrottle.limits.listing"

TRICKLE = """
def trickle():
    def loop():
        while True:
            sockets["up"].send(bytes(1000))
            time.sleep(0.005)
    threading.Thread(target=loop, daemon=True).start()
trickle()
"""
"""Sending when it is limited, as whoever is worth a limit, and light enough to leave the processors alone."""


class Timings(NamedTuple):
    """Milliseconds."""

    runs: dict[str, list[float]]
    imports: dict[str, float]
    """Module → its own import, the least of several."""


def measure() -> Timings:
    """All commands in turn."""
    with tempfile.TemporaryDirectory() as scratch, place() as (scene, bpffs):
        # Installed packages have their bytecode; so has the checkout here, away from the checkout.
        variables = environment({"PYTHONPYCACHEPREFIX": f"{scratch}/bytecode"})
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        limited, other = scene.start(), scene.start()
        for program in limited, other:
            program.connect("up", SINK)
            program.do(TRICKLE)
        inside = Command(bpffs).line()[: -len(PROGRAM)]
        asked = {"rounds": ROUNDS, "cases": _cases(scene.at.at, limited, other)}
        done = subprocess.run(
            [*inside, sys.executable, str(STOPWATCH)],
            cwd=ROOT, env=variables, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return Timings(json.loads(done.stdout), _imports(variables))


def _cases(at: str, limited: Program, other: Program) -> list[dict[str, object]]:
    release = [*PROGRAM, "release", "--all"]

    def throttle(program: Program, engine: str = "cgroup") -> list[str]:
        return [*PROGRAM, "throttle", str(program.pid), "10mbit", "--at", at, "--engine", engine]

    def case(name: str, command: list[str], *before: list[str]) -> dict[str, object]:
        return {"name": name, "command": command, "before": before}

    return [
        case(BARE, [sys.executable, "-c", "pass"]),
        case(CLICK, [sys.executable, "-c", "import click"]),
        case(IMPORTS, [sys.executable, "-c", IMPORTS_OF_LIST]),
        case(NOTHING, [*PROGRAM, "list"], release),
        case(COLD, throttle(limited)),
        case(LIST, [*PROGRAM, "list"]),
        case(WARM, throttle(other)),
        case(CHANGED, throttle(limited)),
        case(QUEUE_COLD, throttle(limited, "auto"), release),
        case(QUEUE_LIST, [*PROGRAM, "list"]),
        case(QUEUE_WARM, throttle(other, "auto")),
    ]


def _imports(variables: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for _ in range(IMPORT_RUNS):
        command = [sys.executable, "-X", "importtime", "-c", IMPORTS_OF_LIST]
        told = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True).stderr
        for line in told.splitlines()[1:]:
            alone, _, name = line.removeprefix("import time:").split("|")
            found[name.strip()] = min(int(alone) / 1e3, found.get(name.strip(), 1e9))
    return found


def report(timings: Timings) -> Iterator[str]:
    """The section of the page."""
    yield f"Whole processes, {ROUNDS} rounds, all commands in turn; milliseconds. `throttle` has armed the rule when"
    yield "it returns, so its time is the time until enforced. The limited process has one connection that is sending"
    yield "(without one, 20 ms less: `throttle` lets windows shrink before it arms). Cold: nothing of ours in the"
    yield "kernel, so the object is parsed, loaded, verified and attached. Hooks on a leaf cgroup, bytecode cached."
    yield "With a queue: of its milliseconds some 170 are the import of pyroute2."
    yield ""
    yield "| command | median | least | most | ÷ `import click` | target |"
    yield "|---|---|---|---|---|---|"
    click = timings.runs[CLICK]
    for name in ROWS:
        runs = timings.runs[name]
        target = TARGETS_MS.get(name)
        verdict = "" if target is None else f"{'met' if median(runs) <= target else '**not met**'} ({target})"
        beside = median(ours / theirs for ours, theirs in zip(runs, click, strict=True))
        yield f"| {name} | **{median(runs):.0f}** | {min(runs):.0f} | {max(runs):.0f} | {beside:.2f} | {verdict} |"
    yield ""
    yield f"What `list` imports, milliseconds by `-X importtime`, the least of {IMPORT_RUNS} (measuring adds to them):"
    for group in "chadthrottle", "click":
        total = sum(ms for name, ms in timings.imports.items() if name.partition(".")[0] == group)
        yield f"{group}'s own modules {total:.0f},"
    rest = sum(ms for name, ms in timings.imports.items() if name.partition(".")[0] not in ("chadthrottle", "click"))
    yield f"the standard library, Python's start included, {rest:.0f}. The dearest:"
    dearest = sorted(timings.imports.items(), key=lambda item: -item[1])[:IMPORT_ROWS]
    yield ", ".join(f"{name} {ms:.1f}" for name, ms in dearest) + "."

"""What `python -m chadthrottle.bpf check OBJ` costs, beside bpftool, and where the time goes.

    sudo python benchmarks/check_object.py [--repeat 25] [--output FILE]

Three questions: the whole process, wall clock and CPU, interleaved with bpftool's so that both meet the
same machine; the kernel's work inside it; the imports. Writes benchmarks/results/check_object.md.
Attaches nothing.
"""

import argparse
import datetime as dt
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only benchmarks/ itself is on the path

from chadthrottle.bpf.loader import load  # noqa: E402
from chadthrottle.bpf.parse import open_object  # noqa: E402
from tests.support.bpffs import mount_bpffs, unmount_bpffs  # noqa: E402
from tests.support.kernel_lock import kernel_lock  # noqa: E402
from tools import build_ebpf  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "check_object.md"
WHOLE_TARGET_MS, LOAD_TARGET_MS = 150, 10
IMPORT_RUNS, IMPORT_ROWS = 7, 14


class Run(NamedTuple):
    """One process: milliseconds."""

    wall: float
    cpu: float


class Imported(NamedTuple):
    """A module's import, in milliseconds: by itself, and with what it was the first to import."""

    alone: float
    with_others: float


def timed(run: Callable[[], None]) -> Run:
    """Run it and count what its child processes took."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall * 1e3, cpu * 1e3)


def python(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """This interpreter on the checkout."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)


def bpftool(obj: Path, pins: Path) -> None:
    """Load all and unpin: a bpftool without pins keeps nothing, and does not load all either."""
    target = pins / obj.name.split(".")[0]
    command = ["bpftool", "prog", "loadall", str(obj), str(target), "pinmaps", str(target)]
    subprocess.run(command, capture_output=True, check=True)
    for pin in target.iterdir():
        pin.unlink()
    target.rmdir()


def processes(objects: Sequence[Path], pins: Path, environment: Mapping[str, str], repeat: int) -> dict[str, list[Run]]:
    """All commands in turn, `repeat` times."""
    cases: dict[str, Callable[[], None]] = {
        "python -c pass": lambda: void(python(environment, "-c", "pass")),
        "imports alone": lambda: void(python(environment, "-c", "import chadthrottle.bpf.__main__")),
    }
    for obj in objects:
        name = obj.name.split(".")[0]
        cases[f"check {name}"] = lambda obj=obj: void(python(environment, "-m", "chadthrottle.bpf", "check", str(obj)))  # type: ignore[misc]
        cases[f"bpftool {name}"] = lambda obj=obj: bpftool(obj, pins)  # type: ignore[misc]
    for run in cases.values():
        run()  # once for the page cache and the bytecode
    results: dict[str, list[Run]] = {name: [] for name in cases}
    for _ in range(repeat):
        for name, run in cases.items():
            results[name].append(timed(run))
    return results


def void(_: object) -> None:
    """For a lambda whose result nobody wants."""


def loads(obj: Path, environment: Mapping[str, str], repeat: int) -> dict[str, list[float]]:
    """Milliseconds of the work inside: parsing, loading; and what check itself says, in fresh processes."""
    results: dict[str, list[float]] = {"parse": [], "load": [], "check's load_ms, summed": []}
    for _ in range(repeat):
        started = time.perf_counter()
        spec = open_object(obj)
        parsed = time.perf_counter()
        with load(spec):
            loaded = time.perf_counter()
        results["parse"].append((parsed - started) * 1e3)
        results["load"].append((loaded - parsed) * 1e3)
        answer = json.loads(python(environment, "-m", "chadthrottle.bpf", "check", "--json", str(obj)).stdout)
        results["check's load_ms, summed"].append(sum(p["load_ms"] for p in answer["programs"]))
    return results


def imports(environment: Mapping[str, str]) -> dict[str, Imported]:
    """Every module that the command imports; of several runs the least."""
    found: dict[str, Imported] = {}
    for _ in range(IMPORT_RUNS):
        told = python(environment, "-X", "importtime", "-c", "import chadthrottle.bpf.__main__").stderr
        for line in told.splitlines()[1:]:
            alone, with_others, name = line.removeprefix("import time:").split("|")
            now = Imported(int(alone) / 1e3, int(with_others) / 1e3)
            least = found.get(name.strip(), now)
            found[name.strip()] = Imported(*(min(pair) for pair in zip(now, least, strict=True)))
    return found


def spread(values: Sequence[float]) -> str:
    """Three cells of a table."""
    low, _, high = quantiles(values, n=4)
    return f"{min(values):.1f} | {median(values):.1f} | {low:.1f} to {high:.1f}"


def report(
    measured: Mapping[str, list[Run]], inside: Mapping[str, Mapping[str, list[float]]], found: Mapping[str, Imported]
) -> Iterable[str]:
    """The results as Markdown."""
    yield "# What `check` costs"
    yield ""
    yield f"`python benchmarks/check_object.py`, {dt.datetime.now(dt.UTC):%Y-%m-%d}: {machine()}."
    yield f"Milliseconds. Load average {os.getloadavg()[0]:.1f} at the end: what the machine did besides is in the"
    yield "medians; the least is what the command needs."
    yield ""
    yield f"## The whole process (target: {WHOLE_TARGET_MS})"
    yield ""
    yield "| process | wall, least | median | quartiles | CPU, least | median | quartiles |"
    yield "|---|---|---|---|---|---|---|"
    for name, runs in measured.items():
        yield f"| {name} | {spread([r.wall for r in runs])} | {spread([r.cpu for r in runs])} |"
    yield ""
    for name in inside:
        ours, theirs = ([r.wall for r in measured[f"{who} {name}"]] for who in ("check", "bpftool"))
        ratios = f"{min(ours) / min(theirs):.1f} by the least, {median(ours) / median(theirs):.1f} by the medians"
        met = "met" if median(ours) <= WHOLE_TARGET_MS else "not met by the median"
        met = "not met" if min(ours) > WHOLE_TARGET_MS else met
        yield f"- {name}: {ratios}, times bpftool's `loadall`; target {met}."
    yield ""
    yield f"## The work inside (target for the load: below {LOAD_TARGET_MS})"
    yield ""
    yield "| object | what | least | median | quartiles |"
    yield "|---|---|---|---|---|"
    for name, kinds in inside.items():
        for what, values in kinds.items():
            yield f"| {name} | {what} | {spread(values)} |"
    yield ""
    yield "## The imports"
    yield ""
    yield f"`-X importtime`, the least of {IMPORT_RUNS} runs; measuring adds to them."
    yield ""
    for group in ("chadthrottle", "elftools"):
        total = sum(one.alone for name, one in found.items() if name.partition(".")[0] == group)
        yield f"- {group}'s own modules: {total:.1f}"
    rest = sum(one.alone for name, one in found.items() if name.partition(".")[0] not in ("chadthrottle", "elftools"))
    yield f"- the standard library, Python's start included: {rest:.1f}"
    yield ""
    yield "| module | alone | with what it imports first |"
    yield "|---|---|---|"
    for name, one in sorted(found.items(), key=lambda item: -item[1].alone)[:IMPORT_ROWS]:
        yield f"| {name} | {one.alone:.1f} | {one.with_others:.1f} |"


def machine() -> str:
    """Where this was measured."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    version = subprocess.run(["bpftool", "version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return f"{os.cpu_count()} CPUs, {model}, Linux {platform.release()}, Python {platform.python_version()}, {version}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=25)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        # Installed packages have their bytecode; so has the checkout here, away from the checkout.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": f"{scratch}/bytecode", "PYTHONPATH": str(ROOT)}
        objects = [
            next(b.path for b in build_ebpf.build(sources, [build_ebpf.EBPF], Path(scratch, name), "debug")
                 if b.path.name == f"{name}.bpf.o")
            for sources, name in ((ROOT / "tests" / "objects", "minimal"), (build_ebpf.EBPF, "traffic"))
        ]  # fmt: skip
        pins = Path(scratch, "bpffs")
        pins.mkdir()
        with kernel_lock():
            mount_bpffs(pins)
            try:
                measured = processes(objects, pins, environment, arguments.repeat)
            finally:
                unmount_bpffs(pins)
            inside = {obj.name.split(".")[0]: loads(obj, environment, arguments.repeat) for obj in objects}
        text = "\n".join(report(measured, inside, imports(environment))) + "\n"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

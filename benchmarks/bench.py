"""chadthrottle beside what a user would pick instead: the same traffic, one after the other, the same meter.

    sudo python benchmarks/bench.py [--quick] [--cells REGEX] [--only NAME,…] [--seconds N] [--add] [--output DIR|-]
    sudo python benchmarks/bench.py --install      what is missing, from Debian's packages and PyPI
    python benchmarks/bench.py --render            page and picture again from the last run's numbers
    python benchmarks/bench.py --list              the cells and the limiters, and which are here

Writes docs/accuracy.md, docs/accuracy.svg and benchmarks/results/field.json; a part (--cells, --only) is only printed,
unless --output says where to. A limiter that is not here, or fails, has the reason in its row.
"""

import argparse
import datetime as dt
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only benchmarks/ itself is on the path

from benchmarks.accuracy.cells import Cell  # noqa: E402
from benchmarks.accuracy.machine import machine  # noqa: E402
from benchmarks.field import grid  # noqa: E402
from benchmarks.field.contenders import CONTENDERS, Contender, traffictoll  # noqa: E402
from benchmarks.field.measure import measure  # noqa: E402
from benchmarks.field.outcome import Outcome, title  # noqa: E402
from benchmarks.field.page import HEADER, Run, page, row  # noqa: E402
from benchmarks.field.picture import picture  # noqa: E402
from benchmarks.field.place import Unavailable  # noqa: E402
from benchmarks.field.store import read_run, write_run  # noqa: E402
from tests.support.kernel_lock import kernel_lock  # noqa: E402
from tests.support.leftovers import Machine  # noqa: E402

DOCS = ROOT / "docs"
NUMBERS = ROOT / "benchmarks" / "results" / "field.json"
PAGE, PICTURE = "accuracy.md", "accuracy.svg"
QUICK_S, FULL_S = 3, 8


def main() -> None:
    """Measure and write."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaving nothing behind then, too
    arguments = _arguments()
    if arguments.render:
        _write(read_run(NUMBERS), DOCS)
        return
    chosen = _contenders(arguments.only)
    cells = [
        cell for cell in (grid.quick if arguments.quick else grid.full)() if re.search(arguments.cells, title(cell))
    ]
    if not cells:
        raise SystemExit(f"no cell matches {arguments.cells!r}; --list shows them")
    if arguments.install:
        _install(chosen)
    if arguments.list:
        _list(cells, chosen)
        return
    part = bool(arguments.cells or arguments.only) and not arguments.add
    output = Path(arguments.output).resolve() if arguments.output else None if part else DOCS
    _bench(arguments, cells, chosen, None if arguments.output == "-" else output)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="six cells, five minutes; else every cell, an hour and a half"
    )
    parser.add_argument("--cells", metavar="REGEX", default="", help="only cells whose title matches")
    parser.add_argument("--only", metavar="NAME,…", default="", help="only these limiters")
    parser.add_argument("--seconds", type=int, help=f"of each measurement after the first ({QUICK_S}, or {FULL_S})")
    parser.add_argument("--install", action="store_true", help="first install the limiters that are not here")
    parser.add_argument("--list", action="store_true", help="show cells and limiters, and measure nothing")
    parser.add_argument("--render", action="store_true", help="write page and picture from the last run's numbers")
    parser.add_argument("--add", action="store_true", help="keep the last run's numbers of what is not measured")
    parser.add_argument("--output", metavar="DIR", help="where page and picture go; '-' writes none")
    return parser.parse_args()


def _contenders(only: str) -> Sequence[Contender]:
    wanted = [each for each in only.split(",") if each]
    known = {each.key: each for each in CONTENDERS}
    if unknown := [each for each in wanted if each not in known]:
        raise SystemExit(f"no limiter is called {unknown[0]!r}; there are {', '.join(known)}")
    return [each for each in CONTENDERS if each.key in wanted or not wanted]


def _bench(
    arguments: argparse.Namespace, cells: Sequence[Cell], chosen: Sequence[Contender], output: Path | None
) -> None:
    seconds = arguments.seconds or (QUICK_S if arguments.quick else FULL_S)
    compared = [(each.key, each.name, _version(each), each.about) for each in chosen]
    load = os.getloadavg()[0]
    outcomes: list[Outcome] = []
    before = read_run(NUMBERS) if arguments.add else None
    leftovers: list[str] = []
    for cell in cells:
        print(f"\n{title(cell)}", *HEADER, sep="\n", flush=True)
        with kernel_lock():  # for each cell: its rows are side by side, and others get their turn
            for contender in chosen:
                outcome, left = _measured(cell, contender, seconds)
                outcomes.append(outcome)
                leftovers += left
        run = Run(
            command=_command(arguments),
            date=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            machine=machine(),
            load=f"Load average {load:.1f} before and {os.getloadavg()[0]:.1f} after: other work is in these numbers.",
            seconds=seconds,
            compared=compared,
            outcomes=outcomes,
        )
        if before:
            run = before.with_added(run)
        if output:  # after each: what was measured is kept if the rest is not
            if output == DOCS:
                write_run(NUMBERS, run)
            _write(run, output)
    if leftovers:
        raise SystemExit("left behind:\n" + "\n".join(leftovers))


def _command(arguments: argparse.Namespace) -> str:
    """What makes this page again."""
    values = {name: getattr(arguments, name) for name in ("cells", "only", "seconds", "output")}
    given = [f"--{name} {shlex.quote(str(value))}" for name, value in values.items() if value]
    return " ".join(["invoke bench", *["--quick"] * arguments.quick, *given, *["--add"] * arguments.add])


def _measured(cell: Cell, contender: Contender, seconds: int) -> tuple[Outcome, list[str]]:
    before, begun = Machine.now(), time.monotonic()
    outcome = measure(cell, contender, seconds)
    left = [f"{contender.name}, {title(cell)}: {each}" for each in before.additions()]
    print(row(contender.name, outcome), f" ({time.monotonic() - begun:.1f} s)", *left, flush=True)
    return outcome, left


def _write(run: Run, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    shown = [title(cell) for cell in grid.quick()]
    (output / PICTURE).write_text(picture(run, shown), encoding="utf-8")
    (output / PAGE).write_text("\n".join(page(run, PICTURE)) + "\n", encoding="utf-8")


def _version(contender: Contender) -> str:
    try:
        return contender.version()
    except Unavailable as reason:
        return str(reason)


def _install(chosen: Sequence[Contender]) -> None:
    missing = [each for each in chosen if _version(each).startswith("not installed")]
    if packages := [package for each in missing for package in each.packages]:
        subprocess.run(["apt-get", "update"], check=True)
        subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", *packages], check=True)
    if traffictoll.TRAFFICTOLL in missing:
        traffictoll.install()


def _list(cells: Sequence[Cell], chosen: Sequence[Contender]) -> None:
    for contender in chosen:
        print(f"{contender.key:<14}{contender.name:<24}{_version(contender)}")
    print()
    for cell in cells:
        print(title(cell))


if __name__ == "__main__":
    main()

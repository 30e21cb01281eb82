"""What a limit costs: each packet, those beside it, and whoever waits for the command.

    sudo python benchmarks/throttle_cost.py [--only packets|others|downloads|timing] [--output FILE]

Real rules on real traffic over a veth between two private namespaces; the hooks sit on a leaf cgroup of their own and
are pinned in a private bpffs. Writes benchmarks/results/throttle_cost.md; with --only, that section of it.
"""

import argparse
import datetime as dt
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only benchmarks/ itself is on the path

from benchmarks.cost import downloads, others, packets, timing  # noqa: E402
from benchmarks.cost.page import merged  # noqa: E402
from tests.support.kernel_lock import kernel_lock  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "throttle_cost.md"
TITLE = "# What a limit costs"
HEADINGS = {
    "packets": "## Nanoseconds per packet",
    "others": "## The effect on others",
    "downloads": "## Downloads beside each other",
    "timing": "## The commands",
}
SECTIONS: dict[str, Callable[[], Iterable[str]]] = {
    "packets": lambda: packets.report(packets.measure()),
    "others": lambda: others.report(others.measure()),
    "downloads": lambda: downloads.report(downloads.measure()),
    "timing": lambda: timing.report(timing.measure()),
}


def main() -> None:
    """Measure and write, section by section: what was measured is kept if the rest fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=SECTIONS, action="append", help="may be repeated; default: all")
    parser.add_argument("--output", type=Path, default=RESULTS, help="'-' writes none")
    arguments = parser.parse_args()
    for name in arguments.only or SECTIONS:
        with kernel_lock():  # for each: others wait for it too
            lines = [HEADINGS[name], "", *SECTIONS[name](), "", *_when(name)]
        print("\n".join(lines) + "\n", flush=True)
        if str(arguments.output) != "-":
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            before = arguments.output.read_text(encoding="utf-8") if arguments.output.exists() else ""
            arguments.output.write_text(merged(before, lines, TITLE, HEADINGS.values()), encoding="utf-8")


def _when(name: str) -> Iterable[str]:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "?")
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "?"
    yield f"`python benchmarks/throttle_cost.py --only {name}`, {dt.datetime.now(dt.UTC):%Y-%m-%d}, commit {commit}:"
    yield f"{os.cpu_count()} CPUs, {model}, Linux {platform.release()}, Python {platform.python_version()}."
    yield f"Load average {os.getloadavg()[0]:.1f} at the end: other work on the machine is in these numbers."


if __name__ == "__main__":
    main()

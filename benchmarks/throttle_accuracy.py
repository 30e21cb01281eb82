"""How exactly a limit holds: achieved ÷ limit for TCP and UDP, both ways, many limits and numbers of flows.

    sudo python benchmarks/throttle_accuracy.py [--quick|--full] [--only REGEX] [--repeat N] [--output FILE]

Real rules on real traffic between two private namespaces, over a veth or a WAN with a round trip of 20 ms; the
hooks sit on a leaf cgroup of their own and are pinned in a private bpffs. Writes
benchmarks/results/throttle_accuracy.md.
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only benchmarks/ itself is on the path

from benchmarks.accuracy.cells import WAN_RTT_MS, Cell, full, quick  # noqa: E402
from benchmarks.accuracy.measure import measure, unlimited  # noqa: E402
from benchmarks.accuracy.report import HEADER, report, row  # noqa: E402
from tests.support.kernel_lock import kernel_lock  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "throttle_accuracy.md"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="a cell of each kind, about two minutes (default)")
    extent.add_argument("--full", action="store_true", help="every cell, about twenty minutes")
    parser.add_argument("--only", metavar="REGEX", default="", help="only cells whose 'traffic limit flows' match")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS, help="'-' writes none")
    arguments = parser.parse_args()
    cells = full() if arguments.full else quick()
    chosen = [cell for cell in cells if re.search(arguments.only, f"{cell.name} {cell.limit} {cell.flows}")]
    carried = _carried_by_the_wan() if any(cell.rtt_ms for cell in chosen) else ""
    print(carried, HEADER, sep="\n", flush=True)
    command = shlex.join(["python", "benchmarks/throttle_accuracy.py", *sys.argv[1:]])
    rows: list[str] = []
    for cell in chosen:
        for _ in range(arguments.repeat):
            with kernel_lock():  # for each: others wait for it too
                rows.append(row(measure(cell)))
            print(rows[-1], flush=True)
        # After each: what was measured is kept if the rest is not.
        if str(arguments.output) != "-":
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text("\n".join(report(rows, command, carried)) + "\n", encoding="utf-8")


def _carried_by_the_wan() -> str:
    with kernel_lock():
        carried = [unlimited(Cell(1, flows, rtt_ms=WAN_RTT_MS)).bits_per_s for flows in (1, 8, 64)]
    figures = " / ".join(f"{bits / 1e9:.1f}" for bits in carried)
    return f"Without a limit the WAN carried {figures} Gbit/s with 1 / 8 / 64 flows."


if __name__ == "__main__":
    main()

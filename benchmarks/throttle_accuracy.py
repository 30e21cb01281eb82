"""How exactly a limit holds: achieved ÷ limit for TCP and UDP, both ways, many limits and numbers of flows.

    sudo python benchmarks/throttle_accuracy.py [--quick|--full] [--only REGEX] [--repeat N] [--output FILE]

Real rules on real traffic over a veth between two private namespaces; the hooks sit on a leaf cgroup
of their own and are pinned in a private bpffs. Writes benchmarks/results/throttle_accuracy.md.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only benchmarks/ itself is on the path

from benchmarks.accuracy.cells import full, quick  # noqa: E402
from benchmarks.accuracy.measure import measure  # noqa: E402
from benchmarks.accuracy.report import HEADER, report, row  # noqa: E402
from tests.support.kernel_lock import kernel_lock  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "throttle_accuracy.md"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="ten cells, less than two minutes (default)")
    extent.add_argument("--full", action="store_true", help="every cell, about ten minutes")
    parser.add_argument("--only", metavar="REGEX", default="", help="only cells whose 'traffic limit flows' match")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS, help="'-' writes none")
    arguments = parser.parse_args()
    cells = full() if arguments.full else quick()
    chosen = [cell for cell in cells if re.search(arguments.only, f"{cell.name} {cell.limit} {cell.flows}")]
    print(HEADER, flush=True)
    command = "python benchmarks/throttle_accuracy.py " + ("--full" if arguments.full else "--quick")
    rows: list[str] = []
    for cell in chosen:
        for _ in range(arguments.repeat):
            with kernel_lock():  # for each: others wait for it too
                rows.append(row(measure(cell)))
            print(rows[-1], flush=True)
        # After each: what was measured is kept if the rest is not.
        if str(arguments.output) != "-":
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text("\n".join(report(rows, command)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

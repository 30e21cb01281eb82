"""How exact the WAN of the other benchmarks is: what it adds to the delay asked for, and what it carries.

    sudo python benchmarks/wan_accuracy.py [--output FILE]

The relay of benchmarks/wan between two private namespaces, without chadthrottle. Half a minute. Writes
benchmarks/results/wan_accuracy.md.
"""

import argparse
import datetime as dt
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import quantiles

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only benchmarks/ itself is on the path

from benchmarks.accuracy.cells import Cell  # noqa: E402
from benchmarks.accuracy.machine import machine  # noqa: E402
from benchmarks.accuracy.measure import unlimited  # noqa: E402
from benchmarks.wan import Carried, wan  # noqa: E402
from benchmarks.wan.ping import pings  # noqa: E402
from tests.support.kernel_lock import kernel_lock  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "wan_accuracy.md"
DELAYS_MS = (2, 10, 50)
PINGS, INTERVAL_S = 1000, 0.003


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="'-' writes none")
    arguments = parser.parse_args()
    lines = []
    for line in report():
        print(line, flush=True)
        lines.append(line)
    if str(arguments.output) != "-":
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def report() -> Iterator[str]:
    """The whole page, while it is measured."""
    yield "# How exact the WAN is"
    yield ""
    yield f"`python benchmarks/wan_accuracy.py`, {dt.datetime.now(dt.UTC):%Y-%m-%d}: {machine()}."
    yield ""
    yield f"Round trips of {PINGS} datagrams, {INTERVAL_S * 1e3:g} ms apart, between two sockets of a process."
    yield "In ms. *Late*: how long after it was due the relay delivered a packet, the worse direction's."
    yield ""
    yield "| asked | least | median | 99 % | most | lost | out of order | late, mean | late, most |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for delay_ms in DELAYS_MS:
        yield _delay(delay_ms)
    yield ""
    yield "TCP (cubic) over a round trip of 20 ms. *Offload*: buffers of up to 64 KiB cross in one piece, as the other"
    yield "benchmarks use it. Without it packets cross one by one."
    yield ""
    yield "| direction | flows | offload | carried, Gbit/s | retransmitted | dropped | late, mean | late, most |"
    yield "|---|---|---|---|---|---|---|---|"
    for cell in (Cell(1, flows, rtt_ms=20) for flows in (1, 8, 64)):
        yield _carries(cell, offload=True)
    yield _carries(Cell(1, rtt_ms=20), offload=False)
    yield ""
    yield f"Load average {os.getloadavg()[0]:.1f} at the end: other work on the machine is in these numbers."


def _delay(delay_ms: int) -> str:
    with kernel_lock(), wan(delay_ms / 1e3) as network:
        trips = pings(network, PINGS, INTERVAL_S)
        carried = network.end()
    took = sorted(trip.round_trip_s * 1e3 for trip in trips)
    parts = quantiles(took, n=100)
    out_of_order = sum(later.number < earlier.number for earlier, later in pairwise(trips))
    cells = [f"{each:.3f}" for each in (took[0], parts[49], parts[98], took[-1])]
    return _row(f"{2 * delay_ms}", *cells, PINGS - len(trips), out_of_order, *_late(carried))


def _carries(cell: Cell, *, offload: bool) -> str:
    with kernel_lock():
        result = unlimited(cell, offload=offload)
    dropped = sum(way.dropped for way in result.relay)
    figures = f"**{result.bits_per_s / 1e9:.2f}**", result.retransmitted, dropped
    return _row(cell.direction.value, cell.flows, "yes" if offload else "no", *figures, *_late(result.relay))


def _late(relay: tuple[Carried, Carried]) -> tuple[str, str]:
    # Of the worse direction: one carries buffers, the other ACKs.
    mean = max(way.late_mean_s for way in relay)
    return f"{mean * 1e3:.3f}", f"{max(way.late_max_s for way in relay) * 1e3:.3f}"


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()

"""The results as Markdown."""

import datetime as dt
import os
from collections.abc import Iterator, Sequence

from benchmarks.accuracy.machine import machine
from benchmarks.accuracy.measure import Result

__all__ = ["HEADER", "report", "row"]

HEADER = (
    "| traffic | limit | flows | achieved | in bounds | worst s | best s | first s | dropped "
    "| retransmitted (first s; 2nd half) | fairness | silent | died |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def row(result: Result) -> str:
    """One line of the table."""
    cell = result.cell
    cells = [
        cell.name,
        cell.limit,
        str(cell.flows),
        f"**{result.achieved:.3f}**",
        _verdict(result),
        f"{min(result.by_second):.2f}",
        f"{max(result.by_second):.2f}",
        f"{result.first:.2f}",
        _part(result.dropped, result.passed + result.dropped),
        f"{_part(result.retransmitted, result.passed)} ({result.retransmitted_first}; {result.retransmitted_late:.2%})",
        _fairness(result),
        str(result.silent or ""),
        ", ".join(sorted(set(result.died))),
    ]
    if cell.protocol == "udp":
        cells[9] = f"offered {result.offered:.2f} of twice the limit" if result.offered else ""
    return "| " + " | ".join(cells) + " |"


def _verdict(result: Result) -> str:
    bounds = result.cell.bounds
    if bounds is None:
        return "-"
    low, high = bounds
    return f"yes ({low}-{high})" if low <= result.achieved <= high else f"**no** ({low}-{high})"


def _fairness(result: Result) -> str:
    if result.fairness is None:
        return ""
    least = result.cell.least_fairness
    return f"{result.fairness:.3f}" if least is None or result.fairness >= least else f"**{result.fairness:.3f}**"


def _part(some: int, of: int) -> str:
    return f"{some}, {100 * some / of:.1f} %" if some and of else str(some)


def report(rows: Sequence[str], command: str, carried: str) -> Iterator[str]:
    """The whole page; `carried` says what the WAN carried without a limit, if it was used."""
    yield "# How exact a limit is"
    yield ""
    yield f"`{command}`, {dt.datetime.now(dt.UTC):%Y-%m-%d}: {machine()}."
    yield ""
    yield "Each row is a run of its own, one after the other: two namespaces, a veth without delay or, in rows with"
    yield "*wan*, the relay of benchmarks/wan with that round trip, and a process whose"
    yield "traffic runs unlimited at first and then gets the limit. Parts of the limit, in IP bytes on the wire"
    yield "past the limiter (downloads that are queued: link-level bytes, as the queue counts); *achieved* is"
    yield "everything after the first second. Dropped: packets, of those offered; a queue's own drops are not in it."
    yield "Retransmitted: segments after the first second, of those passed; in brackets those of the first, and what"
    yield "part it was in the second half, which no longer pays for what was on its way when the limit came. Fairness:"
    yield "Jain's, over payload acknowledged. Silent: flows that moved nothing after the first second. Bounds only"
    yield "where the project promises them; a fairness below its bound is **bold**."
    yield from ["", carried] if carried else []
    yield ""
    yield from HEADER.splitlines()
    yield from rows
    yield ""
    yield f"Load average {os.getloadavg()[0]:.1f} at the end: other work on the machine is in these numbers."

"""The results as Markdown: docs/accuracy.md."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.field.outcome import Delay, Outcome

__all__ = ["Run", "delay_text", "page", "part_text", "rate_text", "row"]

UNLIMITED = "none"
"""The key of the traffic without a limit, which has nothing to be compared with."""
NEAR = 0.03

HEADER = (
    "| limiter | achieved | worst s | best s | retransmitted | added delay, p50 | p99 | CPU s/GB | errors |",
    "|---|---|---|---|---|---|---|---|---|",
)

HOW = """
Each row is a run of its own, a cell's rows one right after the other: two network namespaces, a veth or, where
there is a round trip, the relay of benchmarks/wan with a line of ten times the limit (none where that is more than
3 Gbit/s) and a queue of one round trip; a program whose traffic runs unlimited and then gets the limit. Everything is
from the {seconds} seconds after the first. Of two commands above, the second measured its rows later.

- **Achieved**: IP bytes that reached the receiving sockets ÷ the limit, counted by a filter on those sockets, past
  every limiter and the same for all. Retransmissions that arrive count. A limiter that counts Ethernet headers is
  exact at 0.991 (full packets over a veth), one that counts payload at 1.036.
- **Worst and best second**: parts of the limit, too.
- **Retransmitted**: TCP segments sent again, and their part of the packets that passed.
- **Added delay**: the *same program* sends a request of 64 bytes every 20 to 100 ms over a connection of its own;
  what the answer takes beyond what it takes without bulk and limit, in ms. ≥: not answered when it ended.
- **CPU s/GB**: of both programs, the relay, the limiter and the kernel's work on packets; `-` where too little moved
  to tell it from the requests'.
- **Errors**: what the sending or receiving calls of the programs returned.
- UDP is offered at twice the limit, in datagrams of 1400 bytes.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benchmark."""

    command: str
    date: str
    machine: str
    load: str
    seconds: int
    compared: Sequence[tuple[str, str, str, str]]
    """Key, name, version or why it is not here, and what was set up."""
    outcomes: Sequence[Outcome]
    """Side by side: a cell's follow each other, in the order of `compared`."""

    def name(self, key: str) -> str:
        return next(name for each, name, _, _ in self.compared if each == key)

    def with_added(self, other: "Run") -> "Run":
        """A later run's outcomes in the place of these; the page names both commands."""
        later = {(each.cell, each.contender): each for each in other.outcomes}
        compared = {each[0]: each for each in (*self.compared, *other.compared)}
        outcomes = [later.pop((each.cell, each.contender), each) for each in self.outcomes]
        return replace(
            self,
            command=f"{self.command}`, then `{other.command}",
            compared=list(compared.values()),
            outcomes=[*outcomes, *later.values()],
        )

    def by_cell(self) -> dict[str, list[Outcome]]:
        """In the order in which they were measured."""
        cells: dict[str, list[Outcome]] = {}
        for each in self.outcomes:
            cells.setdefault(each.cell, []).append(each)
        return cells


def page(run: Run, picture: str) -> Iterator[str]:
    """All of it, line by line; `picture` is its file's name beside the page."""
    yield "# How exact a limit is, beside others"
    yield ""
    yield f"`{run.command}`, {run.date}: {run.machine}. {run.load}"
    yield ""
    yield f"![Achieved rate, retransmissions and added delay of each limiter]({picture})"
    yield ""
    yield from _how(run.seconds)
    yield ""
    yield "## Who was compared"
    yield ""
    yield "| limiter | version | what was set up |"
    yield "|---|---|---|"
    for _, name, version, about in run.compared:
        yield f"| {name} | {_cell(version)} | {_cell(about)} |"
    yield ""
    yield from _summary(run)
    for cell, outcomes in run.by_cell().items():
        yield ""
        yield f"## {cell[0].upper()}{cell[1:]} round trip"
        yield ""
        yield from HEADER
        for outcome in outcomes:
            yield row(run.name(outcome.contender), outcome)


def _how(seconds: int) -> Iterator[str]:
    yield from HOW.format(seconds=seconds).strip().splitlines()


def _summary(run: Run) -> Iterator[str]:
    yield "## In short"
    yield ""
    yield "Over all kinds of traffic below; *measured*: of those tried. The last three columns are their worst."
    yield ""
    yield "| limiter | measured | within 3 % | off by | retransmitted | added delay, p99 |"
    yield "|---|---|---|---|---|---|"
    for key, name, _, _ in run.compared:
        tried = [each for each in run.outcomes if each.contender == key]
        found = [each for each in tried if not each.why]
        if key == UNLIMITED or not tried:
            continue
        if not found:
            yield f"| {name} | 0 of {len(tried)} | | | | |"
            continue
        near = sum(abs(each.achieved - 1) <= NEAR for each in found)
        worst = max((each.achieved - 1 for each in found), key=abs)
        retransmitted = max(each.retransmitted_part for each in found)
        slowest = max((each.p99 for each in found if each.p99), key=lambda each: each.ms, default=None)
        worsts = f"{100 * worst:+.1f} % | {part_text(retransmitted)} | {delay_text(slowest)} ms"
        yield f"| {name} | {len(found)} of {len(tried)} | {near} of {len(found)} | {worsts} |"


def row(name: str, outcome: Outcome) -> str:
    """One line of a cell's table."""
    if outcome.why:
        return f"| {name} | *{_cell(outcome.why)}* | | | | | | | |"
    unlimited = outcome.contender == UNLIMITED
    rates = [rate_text(outcome.bits_per_s), "", ""]
    if not unlimited:
        rates = [f"**{outcome.achieved:.3f}**", f"{outcome.worst:.2f}", f"{outcome.best:.2f}"]
    cells = [
        *rates,
        _retransmitted(outcome),
        delay_text(outcome.p50),
        delay_text(outcome.p99),
        "-" if outcome.cpu_s_per_gb is None else f"{outcome.cpu_s_per_gb:.2f}",
        _cell(", ".join(outcome.died)),
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _retransmitted(outcome: Outcome) -> str:
    if " UDP " in outcome.cell:
        return "-"
    return f"{outcome.retransmitted}, {part_text(outcome.retransmitted_part)}" if outcome.retransmitted else "0"


def delay_text(delay: Delay | None) -> str:
    """In ms, in as many digits as mean something."""
    if delay is None:
        return "-"
    digits = f"{delay.ms:.1f}" if delay.ms < 100 else f"{delay.ms:.0f}"
    return f"≥ {digits}" if delay.at_least else digits


def part_text(part: float) -> str:
    """A percentage; what is there is never shown as nothing."""
    percent = 100 * part
    return "< 0.01 %" if 0 < percent < 0.01 else f"{percent:.2f} %" if percent < 1 else f"{percent:.1f} %"


def rate_text(bits_per_s: float) -> str:
    """In the largest unit of which there is one."""
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bits_per_s >= size:
            return f"{bits_per_s / size:.1f} {unit}"
    return f"{bits_per_s:.0f} bit/s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

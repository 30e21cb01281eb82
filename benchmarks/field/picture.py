"""The picture: for each cell of the quick run a panel, for each limiter a line, three scales beside each other.

    limiter    achieved ÷ asked      retransmitted      added delay (p50 to p99, logarithmic)

Standard library only: it is some lines, dots and words.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.field.outcome import Delay, Outcome
from benchmarks.field.page import Run, part_text

__all__ = ["Scale", "picture"]

WIDTH = 1000
MARGIN, NAMES = 24, 172
TOP, PANEL_HEAD, LINE, PANEL_FOOT = 92, 44, 21, 34
INK, SOFT, GRID, BAND, OURS, THEIRS, BAD = "#1f2933", "#66727f", "#e4e8ec", "#dff1e4", "#0b63c5", "#7b8794", "#c4314b"
FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
LEGEND = (
    "Rate: dot, and bar from worst to best second; green: within 3 %.  "
    "Delay in ms: dot, half of the requests; bar and number, 99 of 100.  > or ≥: or more."
)
OUR_KEYS = ("cgroup", "queue", "auto")
NEAR_ENOUGH = (0.97, 1.03)
NOT_SHOWN = ("none",)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places; what is beyond an end is shown at it."""

    left: float
    right: float
    least: float
    most: float
    ticks: Sequence[tuple[float, str]]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high, at = self.least, self.most, min(self.most, max(self.least, value))
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.left + (self.right - self.left) * (at - low) / (high - low)


_LEFT = MARGIN + NAMES
ACHIEVED = Scale(_LEFT, 480, 0.4, 1.6, [(0.5, "0.5"), (1, "1.0"), (1.5, "1.5")])
RETRANSMITTED = Scale(530, 640, 0, 1, [(0, "0"), (0.5, "50 %"), (1, "100 %")])
DELAYS = [(0.1, "≤ 0.1"), (1, "1"), (10, "10"), (100, "100"), (1000, "1000 ms")]
DELAY = Scale(720, WIDTH - MARGIN - 54, 0.1, 3000, DELAYS, logarithmic=True)


def picture(run: Run, cells: Sequence[str]) -> str:
    """An SVG of those of these cells that were measured."""
    measured = run.by_cell()
    shown = {
        cell: [each for each in measured[cell] if each.contender not in NOT_SHOWN] for cell in cells if cell in measured
    }
    height = TOP + sum(_panel_height(outcomes) for outcomes in shown.values()) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(MARGIN, 36, "How exact a limit is, and what it costs the limited program", size=19, weight=600),
        _text(MARGIN, 57, f"{run.date}, {run.machine}", colour=SOFT),
        _text(MARGIN, 75, LEGEND, colour=SOFT),
    ]
    at = TOP
    for cell, outcomes in shown.items():
        parts.extend(_panel(at, cell, outcomes, run))
        at += _panel_height(outcomes)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel_height(outcomes: Sequence[Outcome]) -> int:
    return PANEL_HEAD + LINE * len(outcomes) + PANEL_FOOT


def _panel(top: float, cell: str, outcomes: Sequence[Outcome], run: Run) -> Iterator[str]:
    first, last = top + PANEL_HEAD, top + PANEL_HEAD + LINE * len(outcomes)
    yield f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{top + 2}" y2="{top + 2}" stroke="{GRID}"/>'
    yield _text(MARGIN, top + 22, f"{cell[0].upper()}{cell[1:]} round trip", size=14, weight=600)
    headings = ((ACHIEVED, "achieved ÷ asked"), (RETRANSMITTED, "retransmitted"), (DELAY, "delay added to a request"))
    for scale, heading in headings:
        yield _text(scale.left, top + 38, heading, colour=SOFT, size=11)
        for value, label in scale.ticks:
            x = scale.place(value)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{first}" y2="{last}" stroke="{GRID}"/>'
            yield _text(x, last + 14, label, colour=SOFT, size=10, anchor="middle")
    low, high = map(ACHIEVED.place, NEAR_ENOUGH)
    yield f'<rect x="{low:.1f}" y="{first}" width="{high - low:.1f}" height="{last - first}" fill="{BAND}"/>'
    for number, outcome in enumerate(outcomes):
        yield from _line(first + LINE * (number + 0.5), run.name(outcome.contender), outcome)


def _line(y: float, name: str, outcome: Outcome) -> Iterator[str]:
    ours = outcome.contender in OUR_KEYS
    colour = OURS if ours else THEIRS
    yield _text(MARGIN, y + 4, name, colour=colour if ours else INK, weight=600 if ours else 400)
    if outcome.why:
        yield _text(ACHIEVED.left, y + 4, _shortened(outcome.why), colour=SOFT, size=11, style="italic")
        return
    yield _bar(ACHIEVED, y, outcome.worst, outcome.best, colour)
    yield _dot(ACHIEVED, y, outcome.achieved, colour)
    if outcome.achieved > ACHIEVED.most:
        yield _text(ACHIEVED.right + 7, y + 4, f"> {outcome.achieved:.3g}", colour=BAD, size=10)
    part = outcome.retransmitted_part
    words = "-" if " UDP " in outcome.cell else part_text(part) if part else "0"
    if part:
        yield _bar(RETRANSMITTED, y, 0, part, BAD, width=5)
    right = RETRANSMITTED.place(part) + 7 if part else RETRANSMITTED.left - 3
    yield _text(right, y + 4, words, colour=BAD if part else SOFT, size=10)
    if outcome.p50 and outcome.p99:
        yield _bar(DELAY, y, outcome.p50.ms, outcome.p99.ms, colour)
        yield _dot(DELAY, y, outcome.p50.ms, colour)
        yield _text(DELAY.place(outcome.p99.ms) + 8, y + 4, _most(outcome.p99), colour=colour, size=10)


def _most(delay: Delay) -> str:
    beyond = "≥ " if delay.at_least else "> " if delay.ms > DELAY.most else ""
    return beyond + (f"{delay.ms:.0f}" if delay.ms >= 10 else f"{delay.ms:.1f}")


def _bar(scale: Scale, y: float, start: float, end: float, colour: str, width: float = 3) -> str:
    x1, x2 = scale.place(start), scale.place(end)
    line = f'x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}"'
    return f'<line {line} stroke="{colour}" stroke-opacity="0.55" stroke-width="{width}" stroke-linecap="round"/>'


def _dot(scale: Scale, y: float, value: float, colour: str) -> str:
    return f'<circle cx="{scale.place(value):.1f}" cy="{y}" r="4.2" fill="{colour}"/>'


def _shortened(text: str, most: int = 112) -> str:
    plain = text.replace("`", "")
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def _text(
    x: float,
    y: float,
    words: str,
    *,
    colour: str = INK,
    size: int = 12,
    weight: int = 400,
    anchor: str = "start",
    style: str = "normal",
) -> str:
    attributes = (
        f'font-size="{size}" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}" font-style="{style}"'
    )
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(words)}</text>'

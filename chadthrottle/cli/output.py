"""Lines and JSON that several commands print."""

from collections.abc import Iterable, Iterator

import click

from chadthrottle.cli.settings import quiet
from chadthrottle.model import SCHEMA, Direction, DirectionState, RuleState, Scope, to_json
from chadthrottle.units import format_duration, format_measured_rate, format_rate

__all__ = ["FOR_PEOPLE", "WIDTH", "error_json", "fitted", "print_json", "rule_lines", "say", "show"]

WIDTH = 80
"""Columns that what people read fits into, whatever the terminal: it ends up in mails and tickets."""

FOR_PEOPLE = {Direction.UP: "upload", Direction.DOWN: "download"}


def fitted(text: str, indent: str = "") -> str:
    """`text` in lines of at most 80 columns; further lines of the same line begin with `indent`.

    Left alone: words that are longer, such as paths, and lines to copy into a shell, which begin with
    sudo or with a blank.
    """
    return "\n".join(_fitted(line, indent) for line in text.split("\n"))


def _fitted(line: str, indent: str) -> str:
    if len(line) <= WIDTH or line.startswith(("sudo ", " ") if not indent else "sudo "):
        return line
    import textwrap

    start = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(), WIDTH, initial_indent=start, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def say(text: str, indent: str = "") -> None:
    """Tell of success; not with --quiet."""
    if not quiet():
        click.echo(fitted(text, indent))


def show(text: str, indent: str = "") -> None:
    """Print what was asked for, --quiet or not."""
    click.echo(fitted(text, indent))


def rule_lines(rule: RuleState) -> Iterator[str]:
    """A rule in full: whose, where the hooks are, and both directions."""
    about = "" if rule.scope is Scope.ALL else f", {rule.scope.value} peers only"
    if rule.remaining_s is not None:
        about += f", {format_duration(rule.remaining_s)} left"
    if rule.held_by is not None:
        about += f", until PID {rule.held_by} ends"
    how = "" if rule.attached_by == "link" else f", attached by {rule.attached_by}"
    yield fitted(f"{rule.process.name} (PID {rule.process.pid}){about}; hooks at {rule.at}{how}", "  ")
    for direction in Direction:
        yield direction_line(direction, rule.direction(direction))


def direction_line(direction: Direction, state: DirectionState | None) -> str:
    """One direction of a rule: `download  1.25 MB/s = 10 Mbit/s, now …`."""
    label = f"  {FOR_PEOPLE[direction]:8}"
    if state is None:
        return f"{label}  not limited"
    parts = [f"{label}  {format_rate(state.asked_bytes_per_s)}"]
    if state.achieved_bytes_per_s is not None:
        parts.append(f"now {format_measured_rate(state.achieved_bytes_per_s)}")
    if state.dropped_packets:
        parts.append(f"{state.dropped_packets} packets dropped")
    if state.marked_packets:
        parts.append(f"{state.marked_packets} marked")
    if state.retransmitted_packets:
        parts.append(f"{state.retransmitted_packets} retransmitted")
    if state.policed_share is not None and round(state.policed_share, 2) > 0:
        parts.append(f"{state.policed_share:.0%} past the queue")
    return fitted(f"{', '.join(parts)} ({state.engine.value})", " " * 12)


def print_json(rules: Iterable[RuleState], notes: Iterable[str]) -> None:
    """The contract's `list --json`, in one line."""
    import json

    click.echo(json.dumps(to_json(rules, notes)))


def error_json(status: int, message: str, hint: str | None) -> str:
    """The contract's answer to a command with --json that failed."""
    import json

    return json.dumps({"schema": SCHEMA, "error": {"code": status, "message": message, "hint": hint}})

"""`chadthrottle verify [PID]`."""

from typing import TYPE_CHECKING

import click

from chadthrottle.cli.options import DURATION, PidCommand
from chadthrottle.cli.output import FOR_PEOPLE, say, show
from chadthrottle.cli.settings import common_options
from chadthrottle.errors import UsageError
from chadthrottle.model import SCHEMA
from chadthrottle.units import format_measured_rate, rate_in_bits

if TYPE_CHECKING:
    from chadthrottle.limits.verdict import Measured, Verified

__all__ = ["command"]

NOT_ACHIEVED = 6


@click.command("verify", cls=PidCommand)
@click.argument("pid", required=False)
@click.option(
    "--duration",
    "seconds",
    type=DURATION,
    metavar="TIME",
    default=5,
    show_default="5s",
    help="How long to measure live traffic: 5s, 10s, 1m …",
)
@click.option("--live", "only_live", is_flag=True, help="Measure the program's live traffic alone.")
@click.option("--own", "only_own", is_flag=True, help="Measure by an own transfer alone.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, schema 1.")
@common_options
def command(pid: str | None, seconds: int, only_live: bool, only_own: bool, as_json: bool) -> int:
    """Measure whether a limit holds; without PID, all limits.

    First on the program's live traffic. Where that uses too little for the limit to show, chadthrottle makes an
    own transfer under the same limit, between two private network namespaces; it shares the limit with the
    program for some seconds.

    Exit status 0: it holds. 6: it does not, or that could not be told. 4: there is no such limit.
    """
    from chadthrottle.limits.verdict import Verdict
    from chadthrottle.limits.verify import Traffic, verify
    from chadthrottle.procs import parse_pid

    if only_live and only_own:
        raise UsageError("--live and --own exclude each other", hint="Without either, both are used as needed.")
    traffic = Traffic.LIVE if only_live else Traffic.OWN if only_own else Traffic.LIVE_THEN_OWN
    found = []
    for rule in verify(None if pid is None else parse_pid(pid, "sudo chadthrottle verify {pid}"), seconds, traffic):
        found.append(rule)
        if not as_json:
            _tell(rule)
    if as_json:
        import json

        click.echo(json.dumps({"schema": SCHEMA, "rules": [rule.to_json() for rule in found]}))
    return 0 if all(rule.verdict is Verdict.HOLDS for rule in found) else NOT_ACHIEVED


def _tell(rule: "Verified") -> None:
    from chadthrottle.limits.verdict import HIGHEST, LOWEST, MeasuredBy, Verdict

    process = rule.process
    say(f"{process.name} (PID {process.pid}), measured over {rule.seconds:.1f} s:")
    for direction, measured in rule.directions.items():
        label = f"  {FOR_PEOPLE[direction]:8}"
        say(f"{label}  {'not limited' if measured is None else _told(measured)}", " " * 12)
    if any(measured.by is MeasuredBy.OWN_TRANSFER for measured in rule.measured):
        say(
            "Own transfer: chadthrottle's, under the same limit, between two private network namespaces. It shared "
            "the limit with the program."
        )
    if rule.note is not None:
        show(rule.note)
    margins = f"{LOWEST:.0%} to {HIGHEST:.0%} of the limit"
    match rule.verdict:
        case Verdict.HOLDS:
            say(f"The limit holds: {margins} count as achieved.")
        case Verdict.EXCEEDED | Verdict.NOT_ACHIEVED:
            show(f"The limit does not hold: {margins} count as achieved.")
        case _:
            show(f"This proves nothing: {_why_not(rule)} ({margins} count as achieved).")


def _told(measured: "Measured") -> str:
    from chadthrottle.limits.verdict import MeasuredBy, Verdict

    by = {MeasuredBy.LIVE: "live traffic", MeasuredBy.OWN_TRANSFER: "own transfer"}[measured.by]
    said = {
        Verdict.HOLDS: "holds",
        Verdict.EXCEEDED: "EXCEEDED",
        Verdict.NOT_ACHIEVED: "NOT ACHIEVED",
        Verdict.NOT_MEASURED: "not measured",
    }[measured.verdict]
    rates = f"{format_measured_rate(measured.achieved_bytes_per_s)} of {rate_in_bits(measured.asked_bytes_per_s)}"
    parts = [rates, f"{measured.ratio:.1%}"]
    if measured.carried_bytes_per_s is not None:
        parts.append(f"without the limit {format_measured_rate(measured.carried_bytes_per_s)}")
    return f"{said}, by {by} ({', '.join(parts)})"


def _why_not(rule: "Verified") -> str:
    """For a rule that was not measured."""
    if any(measured.carried_bytes_per_s is not None for measured in rule.measured):
        return "this machine carries too little for a limit so high to show"
    return "a limit shows only while there is more to send than it allows"

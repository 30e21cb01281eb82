"""`chadthrottle verify [PID]`."""

from typing import TYPE_CHECKING

import click

from chadthrottle.cli.options import DURATION, PidCommand
from chadthrottle.cli.output import FOR_PEOPLE, say, show
from chadthrottle.cli.settings import common_options
from chadthrottle.model import SCHEMA
from chadthrottle.units import format_measured_rate, rate_in_bits

if TYPE_CHECKING:
    from chadthrottle.limits.verify import Verified

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
    help="How long to measure: 5s, 10s, 1m …",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, schema 1.")
@common_options
def command(pid: str | None, seconds: int, as_json: bool) -> int:
    """Measure on a program's own traffic whether its limit holds; without PID, all limits.

    Exit status 0: it holds. 6: it does not, or the program uses too little for the limit to show. 4: there is
    no such limit.
    """
    from chadthrottle.limits.verify import Verdict, verify
    from chadthrottle.procs import parse_pid

    found = verify(None if pid is None else parse_pid(pid, "sudo chadthrottle verify {pid}"), seconds)
    if as_json:
        import json

        click.echo(json.dumps({"schema": SCHEMA, "traffic": "own", "rules": [rule.to_json() for rule in found]}))
    else:
        for rule in found:
            _tell(rule)
    return 0 if all(rule.verdict is Verdict.HOLDS for rule in found) else NOT_ACHIEVED


def _tell(rule: "Verified") -> None:
    from chadthrottle.limits.verify import HIGHEST, LOWEST, Verdict

    process = rule.process
    say(f"{process.name} (PID {process.pid}), its own traffic over {rule.seconds:.1f} s:")
    for direction, measured in rule.directions.items():
        label = f"  {FOR_PEOPLE[direction]:8}"
        if measured is None:
            say(f"{label}  not limited")
            continue
        rates = f"{format_measured_rate(measured.achieved_bytes_per_s)} of {rate_in_bits(measured.asked_bytes_per_s)}"
        said = {
            Verdict.HOLDS: "holds",
            Verdict.EXCEEDED: "EXCEEDED",
            Verdict.NOT_MEASURED: "not measured: too little traffic",
        }[measured.verdict]
        say(f"{label}  {said} ({rates}, {measured.ratio:.1%})", " " * 12)
    margins = f"{LOWEST:.0%} to {HIGHEST:.0%} of the limit"
    match rule.verdict:
        case Verdict.HOLDS:
            say(f"The limit holds: {margins} count as achieved.")
        case Verdict.EXCEEDED:
            show(f"The limit does not hold: {margins} count as achieved.")
        case _:
            show(
                f"This proves nothing: a limit shows only while the program wants more than it allows ({margins} "
                "count as achieved). Try again during a transfer, or for longer: --duration 30s."
            )

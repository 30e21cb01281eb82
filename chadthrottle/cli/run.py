"""`chadthrottle run [RATE] -- COMMAND [ARG…]`."""

import os
from typing import TYPE_CHECKING

import click

from chadthrottle.cli.options import RATE, attach_options, rates_asked
from chadthrottle.cli.output import direction_line
from chadthrottle.cli.settings import Settings, common_options, quiet
from chadthrottle.errors import UsageError
from chadthrottle.model import AttachMethod, AttachPoint, Direction, ProcessIdentity, RuleSpec

if TYPE_CHECKING:
    from chadthrottle.limits import Throttled

__all__ = ["command"]

FAILED = 125
"""When it is we who fail, as env(1), nice(1) and timeout(1): all other numbers are COMMAND's."""

_COMMAND = "chadthrottle.run.command"


class Run(click.Command):
    """What follows the first -- is COMMAND's, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(Settings).status_of_errors = FAILED
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[_COMMAND] = args[end + 1 :]
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- COMMAND [ARG…]"]


@click.command("run", cls=Run)
@click.argument("rate", type=RATE, required=False)
@click.option("--up", type=RATE, metavar="RATE", help="Limit uploads alone, or override RATE for them.")
@click.option("--down", type=RATE, metavar="RATE", help="Limit downloads alone, or override RATE for them.")
@click.option("--as-root", is_flag=True, help="Under sudo, keep root: otherwise COMMAND runs as who called sudo.")
@attach_options
@common_options
@click.pass_context
def command(
    context: click.Context,
    rate: int | None,
    up: int | None,
    down: int | None,
    as_root: bool,
    attach: AttachMethod,
    at: AttachPoint,
) -> int:
    """Run COMMAND limited to RATE from its first packet on.

    Signals are passed on, and the exit status is COMMAND's: 128 + n if signal n ended it, 127 if it was not
    found, 126 if it is no program, 125 if it is chadthrottle that failed.
    """
    words: list[str] = context.meta[_COMMAND]
    if not words:
        raise UsageError("no command given", hint="Write it after --: sudo chadthrottle run 10mbit -- curl -O URL")
    upload, download = rates_asked(rate, up, down)
    from chadthrottle.limits import throttle
    from chadthrottle.limits.run import CannotExecuteError, invoking_user, run
    from chadthrottle.procs import Identity

    def limit(process: Identity) -> "Throttled":
        name = os.path.basename(words[0])  # noqa: PTH119 # no path, but what comm will be
        spec = RuleSpec(
            process=ProcessIdentity(process.pid, process.start_ticks, name),
            rate_up_bytes_per_s=upload,
            rate_down_bytes_per_s=download,
            attach=attach,
            at=at,
        )
        return throttle(spec)

    try:
        return run(words, None if as_root else invoking_user(os.environ), limit, _tell)
    except CannotExecuteError as error:  # the two errors that have numbers of their own
        context.ensure_object(Settings).status_of_errors = error.exit_code
        raise


def _tell(done: "Throttled") -> None:
    """On standard error: standard output is COMMAND's."""
    if quiet():
        return
    process = done.state.process
    click.echo(f"{process.name} (PID {process.pid}) limited:", err=True)
    for direction in Direction:
        click.echo(direction_line(direction, done.state.direction(direction)), err=True)
    for note in done.notes:
        click.echo(note, err=True)

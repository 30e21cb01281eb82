"""`chadthrottle throttle PID [RATE]`."""

from typing import TYPE_CHECKING

import click

from chadthrottle.cli.options import DURATION, RATE, SCOPE, PidCommand, attach_options, engine_option, rates_asked
from chadthrottle.cli.output import direction_line, print_json, say, show
from chadthrottle.cli.settings import common_options
from chadthrottle.model import AttachMethod, AttachPoint, Direction, Engine, ProcessIdentity, RuleSpec, Scope

if TYPE_CHECKING:
    from chadthrottle.limits import Throttled

__all__ = ["command"]


@click.command("throttle", cls=PidCommand)
@click.argument("pid")
@click.argument("rate", type=RATE, required=False)
@click.option("--up", type=RATE, metavar="RATE", help="Limit uploads alone, or override RATE for them.")
@click.option("--down", type=RATE, metavar="RATE", help="Limit downloads alone, or override RATE for them.")
@click.option("--duration", "duration_s", type=DURATION, metavar="TIME", help="End by itself, after 90s, 5m, 2h …")
@click.option("--no-children", is_flag=True, help="Leave children alone: those there are, and those to come.")
@click.option("--scope", type=SCOPE, metavar="internet|local", help="Limit traffic with such peers alone.")
@click.option("--foreground", is_flag=True, help="Stay, and end the limit with this command, however it ends.")
@click.option("--force", is_flag=True, help="Also if the process is this shell, or above it.")
@engine_option
@attach_options
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, as `list --json`.")
@common_options
def command(
    pid: str,
    rate: int | None,
    up: int | None,
    down: int | None,
    duration_s: int | None,
    no_children: bool,
    scope: Scope | None,
    foreground: bool,
    force: bool,
    engine: Engine,
    attach: AttachMethod,
    at: AttachPoint,
    as_json: bool,
) -> None:
    """Limit a running process, its open connections and its children to RATE in each direction.

    RATE is 10mbit, 512kbit/s, 1.25MB/s, 300KB, 1MiB/s, …: bits with `bit`, bytes with `B`.
    """
    upload, download = rates_asked(rate, up, down)
    from chadthrottle.limits import throttle
    from chadthrottle.procs import resolve

    process = resolve(pid, allow_ancestors=force or foreground or duration_s is not None)
    spec = RuleSpec(
        process=ProcessIdentity(process.pid, process.identity.start_ticks, process.name),
        rate_up_bytes_per_s=upload,
        rate_down_bytes_per_s=download,
        children=not no_children,
        scope=scope,
        engine=engine,
        attach=attach,
        at=at,
        duration_s=duration_s,
    )
    if foreground:
        from chadthrottle.limits.foreground import hold

        if not hold(spec, lambda done: _tell(done, as_json, "End it: Ctrl-C")):
            say("The limit has ended.")
    else:
        _tell(throttle(spec), as_json, f"End it: sudo chadthrottle release {process.pid}")


def _tell(done: "Throttled", as_json: bool, how_to_end: str) -> None:
    if as_json:
        print_json([done.state], done.notes)
        return
    process = done.state.process
    children = f" and {done.processes - 1} more" if done.processes > 1 else ""
    say(f"{process.name} (PID {process.pid}){children} {'changed' if done.changed else 'limited'}:")
    for direction in Direction:
        say(direction_line(direction, done.state.direction(direction)))
    for note in done.notes:
        show(note)
    say(how_to_end)

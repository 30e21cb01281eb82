"""`chadthrottle release PID… | --all`."""

import click

from chadthrottle.cli.options import PidCommand
from chadthrottle.cli.output import say, show
from chadthrottle.cli.settings import common_options
from chadthrottle.errors import UsageError
from chadthrottle.model import Direction

__all__ = ["command"]


@click.command("release", cls=PidCommand)
@click.argument("pids", metavar="PID…", nargs=-1)
@click.option("--up", is_flag=True, help="End the limit of uploads only.")
@click.option("--down", is_flag=True, help="End the limit of downloads only.")
@click.option("--all", "everything", is_flag=True, help="End all limits and remove every hook.")
@common_options
def command(pids: tuple[str, ...], up: bool, down: bool, everything: bool) -> None:
    """End the limits of processes; with the last one, everything of ours leaves the kernel."""
    if bool(pids) == everything:
        raise UsageError("name the processes to release, or --all", hint="chadthrottle list shows them.")
    if everything and (up or down):
        raise UsageError("--all ends everything: it goes with neither --up nor --down")
    from chadthrottle.limits import release
    from chadthrottle.procs import parse_pid

    numbers = [parse_pid(pid, "sudo chadthrottle release {pid}") for pid in pids]
    directions = frozenset(d for d, asked in ((Direction.UP, up), (Direction.DOWN, down)) if asked)
    done = release(None if everything else numbers, directions or frozenset(Direction))
    for pid in done.pids:
        say(f"PID {pid} released")
    if done.hooks_removed:
        say("nothing is limited; all hooks are removed")
    for note in done.notes:
        show(note)

"""`chadthrottle watch`: the list, again and again."""

import sys
import time
from contextlib import suppress

import click

from chadthrottle.cli.options import Parsed
from chadthrottle.cli.output import print_json, rule_lines, show
from chadthrottle.cli.settings import common_options
from chadthrottle.units import parse_duration

__all__ = ["command"]

# ECMA-48: cursor home, erase below. Not erase first, which flickers.
HOME, ERASE_BELOW, ERASE_LINE = "\033[H", "\033[J", "\033[K"


@click.command("watch")
@click.option("--json", "as_json", is_flag=True, help="One object a line, each as `list --json`.")
@click.option(
    "--interval",
    "interval_s",
    type=Parsed("interval", parse_duration),
    metavar="TIME",
    default=1,
    show_default="1s",
    help="How often: 1s, 5s, 1m …",
)
@common_options
def command(as_json: bool, interval_s: int) -> None:
    """Show what is limited, asked and achieved, until Ctrl-C."""
    from chadthrottle.limits import Listing, listing

    def tell(found: Listing) -> None:
        if as_json:
            print_json(found.rules, found.notes)
            return
        on_terminal = sys.stdout.isatty()
        click.echo(f"{HOME if on_terminal else ''}{time.strftime('%H:%M:%S')}{ERASE_LINE if on_terminal else ''}")
        for rule in found.rules:
            for line in "\n".join(rule_lines(rule)).splitlines():
                click.echo(line + (ERASE_LINE if on_terminal else ""))
        for text in ("nothing is limited",) * (not found.rules) + found.notes:
            show(text + (ERASE_LINE if on_terminal else ""))
        click.echo(ERASE_BELOW if on_terminal else "", nl=not on_terminal)

    with suppress(KeyboardInterrupt):  # the way it ends
        due = time.monotonic()
        while True:
            tell(listing(repair=True))
            sys.stdout.flush()
            due = max(due + interval_s, time.monotonic())  # after a stop, no burst of what was missed
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0)

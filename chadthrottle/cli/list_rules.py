"""`chadthrottle list`."""

import click

from chadthrottle.cli.output import print_json, rule_lines, say, show
from chadthrottle.cli.settings import common_options

__all__ = ["command"]


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, schema 1.")
@common_options
def command(as_json: bool) -> None:
    """Show what is limited: asked, achieved, dropped, and by which means."""
    from chadthrottle.limits import listing

    found = listing()
    if as_json:
        print_json(found.rules, found.notes)
        return
    for rule in found.rules:
        for line in rule_lines(rule):
            click.echo(line)
    if not found.rules:
        say("nothing is limited")
    for note in found.notes:
        show(note)

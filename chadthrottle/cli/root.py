"""`chadthrottle` itself: the commands there are, and help when none is named."""

import importlib

import click

from chadthrottle.cli.settings import common_options

__all__ = ["root"]


class Commands(click.Group):
    """The commands, each in a file of its own that is imported when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return super().get_command(context, name)
        command = importlib.import_module(f"chadthrottle.cli.{COMMANDS[name]}").command
        assert isinstance(command, click.Command)
        return command


COMMANDS = {
    "throttle": "throttle",
    "run": "run",
    "release": "release",
    "list": "list_rules",
    "watch": "watch",
    "verify": "verify",
    "doctor": "doctor",
    "report": "report",
}
"""Command → the module of its file."""


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["--help", "-h"]})
@common_options
@click.pass_context
def root(context: click.Context) -> None:
    """Limit the bandwidth of programs that are already running."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)

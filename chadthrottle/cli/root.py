"""`chadthrottle` itself: the options every command has, and help when no command is named."""

from dataclasses import dataclass

import click

from chadthrottle import __version__

__all__ = ["Settings", "root"]


@dataclass(slots=True)
class Settings:
    """What the options before the command say; the context's `obj`."""

    debug: bool = False


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from chadthrottle.artifacts import flavour

        click.echo(f"chadthrottle {__version__} (objects: {flavour()})")
        context.exit()


def _set_debug(context: click.Context, _: click.Parameter, asked: bool) -> None:
    context.ensure_object(Settings).debug = asked


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["--help", "-h"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and how the BPF objects were built, and exit.",
)
@click.option(
    "--debug",
    is_flag=True,
    is_eager=True,  # so that it holds for whatever is wrong with the rest of the line
    expose_value=False,
    callback=_set_debug,
    help="Show where an error comes from.",
)
@click.pass_context
def root(context: click.Context) -> None:
    """Limit the bandwidth of programs that are already running."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)

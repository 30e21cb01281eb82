"""The command line: `main` runs it, and turns whatever goes wrong into a message and a status."""

import click

from chadthrottle.cli.root import Settings, root
from chadthrottle.errors import ChadthrottleError

__all__ = ["main"]

PROGRAM = "chadthrottle"

# As a shell reports a program that Ctrl-C ended: 128 and the signal's number.
INTERRUPTED = 130

REPORT = "This is a bug: please report it, with what the same command prints with --debug."


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the arguments default to the program's own. Returns the exit status."""
    settings = Settings()
    try:
        result = root.main(arguments, prog_name=PROGRAM, standalone_mode=False, obj=settings)
    except ChadthrottleError as error:
        return _failed(settings, error.message, error.hint, error.exit_code)
    except click.Abort:
        return _failed(settings, "interrupted", None, INTERRUPTED)
    except click.ClickException as error:
        return _failed(settings, error.format_message(), _usage_hint(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 # a bug, and the user gets no traceback unasked
        return _failed(settings, _in_one_line(error), REPORT, 1)
    # Click gives back the status of an early exit (--help, --version), else what the command returned.
    return result if isinstance(result, int) else 0


def _failed(settings: Settings, message: str, hint: str | None, status: int) -> int:
    """Say what failed. To be called in the exception's handler: --debug shows where it came from."""
    if settings.debug:
        # Imported here: most commands have nothing to trace.
        import traceback

        click.echo(traceback.format_exc(), err=True, nl=False)
    click.echo(f"error: {message}", err=True)
    if hint is not None:
        click.echo(hint, err=True)
    return status


def _usage_hint(error: click.ClickException) -> str | None:
    if not isinstance(error, click.UsageError):
        return None
    # Click's own parser does not always say which command it was parsing for.
    return f"Try: {error.ctx.command_path if error.ctx else PROGRAM} --help"


def _in_one_line(error: Exception) -> str:
    return " ".join(f"unexpected {type(error).__name__}: {error}".split())

"""The command line: `main` runs it, and turns whatever goes wrong into a message and a status."""

import errno
import os
import sys
from itertools import takewhile

import click

from chadthrottle.cli.output import error_json, fitted
from chadthrottle.cli.root import root
from chadthrottle.cli.settings import Settings
from chadthrottle.errors import ChadthrottleError, NotPermittedError

__all__ = ["main"]

PROGRAM = "chadthrottle"

# As a shell reports a program that Ctrl-C ended: 128 and the signal's number.
INTERRUPTED = 130

REPORT = "This is a bug: please report it, with what the same command prints with --debug."


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the arguments default to the program's own. Returns the exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    settings = Settings()
    failed = _Failure(settings, as_json="--json" in takewhile(lambda word: word != "--", arguments))
    try:
        settings.start_log_if_the_environment_says()
        result = root.main(arguments, prog_name=PROGRAM, standalone_mode=False, obj=settings)
    except ChadthrottleError as error:
        return failed(error.message, error.hint, error.exit_code)
    except click.Abort:
        return failed("interrupted", None, INTERRUPTED)
    except click.ClickException as error:
        return failed(error.format_message(), _usage_hint(error), error.exit_code)
    except PermissionError as error:
        return failed(*_not_permitted(error), NotPermittedError.exit_code)
    except OSError as error:
        return failed(*_of_the_surroundings(error), 1)
    except Exception as error:  # noqa: BLE001 # a bug, and the user gets no traceback unasked
        return failed(_in_one_line(error), REPORT, 1)
    finally:
        settings.end_log()
    # Click gives back the status of an early exit (--help, --version), else what the command returned.
    return result if isinstance(result, int) else 0


class _Failure:
    """Says what failed: for people on standard error, for programs that asked with --json on standard output."""

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self.settings = settings
        self.as_json = as_json

    def __call__(self, message: str, hint: str | None, status: int) -> int:
        """To be called in the exception's handler: --debug shows where it came from."""
        if self.settings.debug:
            # Imported here: most commands have nothing to trace.
            import traceback

            print(traceback.format_exc(), end="", file=self.settings.log or sys.stderr, flush=True)
        if self.settings.status_of_errors is not None and status != INTERRUPTED:
            status = self.settings.status_of_errors
        if not (self.as_json and _could_write(error_json(status, message, hint))):
            said = fitted(f"error: {message}") + ("" if hint is None else f"\n{fitted(hint)}")
            _could_write(said, on_standard_error=True)  # if not, the status alone tells
        return status


def _could_write(text: str, *, on_standard_error: bool = False) -> bool:
    """Whether somebody may have read it: the disk may be full."""
    try:
        click.echo(text, err=on_standard_error)
    except OSError:
        return False
    return True


def _usage_hint(error: click.ClickException) -> str | None:
    if not isinstance(error, click.UsageError):
        return None
    # Click's own parser does not always say which command it was parsing for.
    return f"Try: {error.ctx.command_path if error.ctx else PROGRAM} --help"


def _not_permitted(error: PermissionError) -> tuple[str, str]:
    """Whichever step it was: nothing of a command is left half done."""
    from chadthrottle.procs.capabilities import missing

    where = f": {error.filename}" if error.filename else ""
    lacks = ", ".join(missing())
    hint = f"This process lacks {lacks}: run it with sudo, outside of a container." if lacks else "Run it with sudo."
    return f"not permitted: {error.strerror}{where}", hint


def _of_the_surroundings(error: OSError) -> tuple[str, str]:
    """What is wrong and what to do, where it is neither ours nor the user's; else it is a bug."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return os.strerror(error.errno), "Allow more: ulimit -n 1024, or sysctl fs.file-max for the whole machine."
    # Writing to a descriptor names no file, and nothing else of ours writes.
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) and error.filename is None:
        return (
            f"the answer could not be written: {error.strerror}",
            "What was asked may have been done all the same: chadthrottle list shows what is limited.",
        )
    return _in_one_line(error), REPORT


def _in_one_line(error: Exception) -> str:
    return " ".join(f"unexpected {type(error).__name__}: {error}".split())

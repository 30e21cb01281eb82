"""What every command takes: --version, --quiet, --debug, --log; and the variable CHADTHROTTLE_LOG."""

import os
import sys
from collections.abc import Callable
from typing import TextIO, TypeVar

import click

from chadthrottle import __version__
from chadthrottle.errors import ChadthrottleError, NotPermittedError, UsageError

__all__ = ["Settings", "common_options", "quiet"]

LOG_VARIABLE = "CHADTHROTTLE_LOG"

_Command = TypeVar("_Command", bound=Callable[..., object])


class Settings:
    """What was asked of this run as a whole; the context's `obj`."""

    def __init__(self) -> None:
        self.debug = False
        """Calls are logged, and errors show where they come from."""
        self.quiet = False
        """Nothing is said of success."""
        self.log: TextIO | None = None
        """Where what --debug shows goes; None: standard error."""
        self.status_of_errors: int | None = None
        """The exit status of every error, instead of the error's own: `run` has 125."""

    def start_log(self) -> None:
        """From now on each bpf(2) call is a line."""
        self.debug = True
        # Only here: most commands log nothing, and need no more than click until they know what to do.
        from chadthrottle.bpf import syscall

        syscall.trace = self.write_log

    def end_log(self) -> None:
        """The last thing: whoever calls `main` from Python goes on without."""
        if self.debug:
            from chadthrottle.bpf import syscall

            syscall.trace = None
        if self.log is not None:
            self.log.close()

    def write_log(self, line: str) -> None:
        """One line, at once: whoever reads the log wants to know what came last."""
        import time

        now_ns = time.time_ns()
        clock = time.strftime("%H:%M:%S", time.localtime(now_ns // 1_000_000_000))
        print(f"{clock}.{now_ns // 1000 % 1_000_000:06} {line}", file=self.log or sys.stderr, flush=True)

    def start_log_if_the_environment_says(self) -> None:
        """Raises UsageError for a value that means nothing. A variable that is empty counts as unset."""
        value = os.environ.get(LOG_VARIABLE, "")
        if value not in ("", "debug"):
            raise UsageError(f"{LOG_VARIABLE} is {value!r}, which means nothing", hint="Set it to debug, or unset it.")
        if value:
            self.start_log()


def common_options(command: _Command) -> _Command:
    """Adds the options that stand before a command or behind it, with the same meaning."""
    for option in _OPTIONS:
        command = option(command)
    return command


def quiet() -> bool:
    """Whether this run says nothing of success."""
    return _settings(click.get_current_context()).quiet


def _settings(context: click.Context) -> Settings:
    return context.ensure_object(Settings)


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from chadthrottle.artifacts import flavour

        click.echo(f"chadthrottle {__version__} (objects: {flavour()})")
        context.exit()


def _set_quiet(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        _settings(context).quiet = True


def _set_debug(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        _settings(context).start_log()


def _set_log(context: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    settings = _settings(context)
    try:
        # Appended to: a second command keeps the first's log. Open until `end_log`.
        settings.log = open(path, "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise _no_log(path, error) from error
    settings.start_log()


def _no_log(path: str, error: OSError) -> ChadthrottleError:
    message = f"--log {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return NotPermittedError(message, hint="Name a file that this user may write.")
    return UsageError(message, hint="Name a file that can be written; it is made if missing, and appended to.")


# All are eager, so that they hold for whatever is wrong with the rest of the line.
_OPTIONS = (
    click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and how the BPF objects were built, and exit.",
    ),
    click.option(
        "--log",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_set_log,
        help="Append what --debug shows to FILE.",
    ),
    click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_debug,
        help=f"Log each bpf(2) call, and where errors come from; or {LOG_VARIABLE}=debug.",
    ),
    click.option(
        "--quiet",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_quiet,
        help="Say nothing of success.",
    ),
)

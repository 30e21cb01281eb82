"""Arguments and options that several commands have: their types, and the environment behind them."""

import os
import re
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, TypeVar, get_args

import click
from click.core import ParameterSource

from chadthrottle.errors import UsageError
from chadthrottle.model import AttachMethod, AttachPoint, Engine, Scope
from chadthrottle.units import parse_duration, parse_rate

__all__ = [
    "AT",
    "ATTACH",
    "DURATION",
    "RATE",
    "ROOT_VARIABLE",
    "SCOPE",
    "Parsed",
    "PidCommand",
    "attach_options",
    "engine_option",
    "rates_asked",
]

METHOD_VARIABLE = "CHADTHROTTLE_BPF_ATTACH_METHOD"
ROOT_VARIABLE = "CHADTHROTTLE_TEST_ROOT_CGROUP"

Command = TypeVar("Command", bound=Callable[..., object])

# Generic only for type checkers: click before 8.4 cannot be subscripted at run time.
if TYPE_CHECKING:
    ParamType = click.ParamType[object]
else:
    ParamType = click.ParamType


class Parsed(ParamType):
    """What a function of ours parses; its UsageError is told with the option's name before it."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        if not isinstance(value, str):  # a default, which click converts too
            return value
        try:
            return self.parse(value)
        except UsageError as error:
            raise UsageError(f"{_label(param, ctx)}{error.message}", hint=error.hint) from error


def _label(param: click.Parameter | None, context: click.Context | None) -> str:
    """Where the value came from: RATE, --up, or the environment variable."""
    if param is None:
        return ""
    if context and param.name and context.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT:
        return f"{param.envvar} "
    return f"{param.opts[0] if isinstance(param, click.Option) else param.human_readable_name} "


def _shown(text: str) -> str:
    return text if text.strip() and text.isprintable() else ascii(text)


def _parse_attach(text: str) -> str:
    methods = get_args(AttachMethod)
    if text not in methods:
        raise UsageError(f"{_shown(text)} is no way to attach", hint=f"Write one of {', '.join(methods)}.")
    return text


def _parse_scope(text: str) -> Scope:
    if text not in (Scope.INTERNET, Scope.LOCAL):
        raise UsageError(f"{_shown(text)} is no scope", hint="Write internet or local; without --scope it is both.")
    return Scope(text)


def _parse_engine(text: str) -> Engine:
    if text not in list(Engine):
        raise UsageError(f"{_shown(text)} is no engine", hint=f"Write one of {', '.join(Engine)}.")
    return Engine(text)


def _parse_at(text: str) -> AttachPoint:
    try:
        return AttachPoint(text)
    except ValueError:
        raise UsageError(
            f"{_shown(text)} is neither root, leaf nor an absolute path",
            hint="Write root, leaf, or a cgroup2 directory: /sys/fs/cgroup/system.slice",
        ) from None


RATE = Parsed("rate", parse_rate)
"""Gives bytes per second, an int."""

DURATION = Parsed("duration", parse_duration)
"""Gives seconds, an int."""

ATTACH = Parsed("attach", _parse_attach)
"""Gives an AttachMethod."""

AT = Parsed("at", _parse_at)
"""Gives an AttachPoint."""


SCOPE = Parsed("scope", _parse_scope)
"""Gives a Scope."""


class PidCommand(click.Command):
    """One with PIDs: -5 is a wrong PID, not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with_values = {name for option in self.params for name in option.opts if not getattr(option, "is_flag", False)}
        for before, word in zip(["", *args], takewhile(lambda word: word != "--", args), strict=False):
            if re.fullmatch("-[0-9]+", word) and before not in with_values:
                from chadthrottle.procs import parse_pid

                parse_pid(word)  # raises
        return super().parse_args(ctx, args)


def rates_asked(rate: int | None, up: int | None, down: int | None) -> tuple[int | None, int | None]:
    """Upload and download in bytes per second, None where there is no limit, from RATE, --up and --down.

    Raises UsageError when none of the three is there.
    """
    if rate is None and up is None and down is None:
        raise UsageError(
            "no rate given", hint="Write one for both directions, 10mbit, or --up 10mbit, or --down 10mbit."
        )
    return (rate if up is None else up), (rate if down is None else down)


def engine_option(command: Command) -> Command:
    """Adds --engine (`engine`, an Engine)."""
    return click.option(
        "--engine",
        type=Parsed("engine", _parse_engine),
        metavar="|".join(Engine),
        default=Engine.AUTO,
        show_default=True,
        help="The means by which the limit holds.",
    )(command)


def attach_options(command: Command) -> Command:
    """Adds --attach (`attach`, an AttachMethod) and --at (`at`, an AttachPoint), and reads their variables.

    An empty variable counts as unset. A flag wins over its variable, except that CHADTHROTTLE_TEST_ROOT_CGROUP
    beside another --at is an error: a test that means to cover the root would otherwise silently not.
    """
    attach = click.option(
        "--attach",
        type=ATTACH,
        metavar="|".join(get_args(AttachMethod)),
        default="auto",
        show_default=True,
        envvar=METHOD_VARIABLE,
        show_envvar=True,
        help="How programs are attached.",
    )
    at = click.option(
        "--at",
        type=AT,
        metavar="root|leaf|PATH",
        default=AttachPoint.ROOT,
        show_default=True,
        callback=_root_if_the_environment_says,
        help="Where in the cgroup2 tree; this never changes who is limited.",
    )
    return attach(at(command))


def _root_if_the_environment_says(_context: click.Context, _option: click.Parameter, at: AttachPoint) -> AttachPoint:
    """The callback of --at. Without a flag it is the root anyway, so there is only a contradiction to find."""
    value = os.environ.get(ROOT_VARIABLE, "")
    if not value:
        return at
    if value != "1":
        raise UsageError(f"{ROOT_VARIABLE} is {value!r}, which means nothing", hint="Set it to 1, or unset it.")
    if at != AttachPoint.ROOT:
        raise UsageError(f"--at {at} contradicts {ROOT_VARIABLE}=1", hint=f"Write --at root, or unset {ROOT_VARIABLE}.")
    return at

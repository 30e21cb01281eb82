"""The processes of a name: for whoever types one where a PID belongs.

A limit is never put on a name: there may be several, and tomorrow others. psutil pays here, and only
here: names longer than comm's 15 bytes, user names, times.
"""

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import PurePath

import psutil

from chadthrottle.procs.errors import ProcessNameError
from chadthrottle.procs.stat import ancestors, printable, read_stat

__all__ = ["name_instead_of_pid"]

SHOWN = 12
"""Commands in the message: with what stands around them it fits one screen of 24 lines."""
NAME_WIDTH = 20
ASKED_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Match:
    pid: int
    ppid: int
    name: str
    user: str
    started: float
    is_own_session: bool
    """An ancestor of this command: the command to copy would be refused without --duration or --force."""


def name_instead_of_pid(name: str, command: str) -> ProcessNameError:
    """The error for `name`, with a line to copy for each process that has it; `command` holds {pid}."""
    asked = printable(name if len(name) <= ASKED_WIDTH else name[: ASKED_WIDTH - 1] + "…")
    found = _matching(name)
    if not found:
        return ProcessNameError(
            f"“{asked}” is no PID, and no running process has that name",
            [],
            hint="`pgrep -af NAME` searches whole command lines, `ss -tunp` shows who has connections.",
        )
    lines = [_line(match, command) for match in found[:SHOWN]]
    if len(found) > SHOWN:
        more = f"pgrep -a {shlex.quote(asked)}"
        lines.append(f"… and {len(found) - SHOWN} more, the children of others last: `{more}` shows all.")
    number = "1 process has" if len(found) == 1 else f"{len(found)} processes have"
    return ProcessNameError(
        f"“{asked}” is a name, not a PID; {number} it. A limit includes a process's children:",
        [match.pid for match in found],
        hint="\n".join(lines),
    )


def _matching(name: str) -> list[Match]:
    """Those called exactly so, whatever the case; if none, those whose name contains it."""
    wanted = name.casefold()
    above = {each.pid for each in ancestors()}
    exact: list[Match] = []
    partial: list[Match] = []
    for process in psutil.process_iter(["pid", "ppid", "name", "exe", "cmdline", "username", "create_time"]):
        about = process.info
        names = {each.casefold() for each in _names(about)}
        if wanted in names:
            exact.append(_match(about, above))
        elif any(wanted in each for each in names):
            partial.append(_match(about, above))
    found = [match for match in exact or partial if _may_be_meant(match.pid)]
    pids = {match.pid for match in found}
    # The top of a tree first: it is what most people mean, and its limit includes the rest. Our own shell last.
    return sorted(found, key=lambda match: (match.is_own_session, match.ppid in pids, match.pid))


def _names(about: dict[str, object]) -> set[str]:
    """comm or what psutil makes of it, the program file's name, and the name it was called by."""
    candidates = [about["name"], about["exe"], *list(about["cmdline"] or [])[:1]]  # type: ignore[call-overload] # psutil's info is untyped
    return {PurePath(str(each)).name for each in candidates if each}


def _match(about: dict[str, object], above: set[int]) -> Match:
    return Match(
        pid=int(str(about["pid"])),
        ppid=int(str(about["ppid"] or 0)),
        name=printable(str(about["name"] or "?")),
        user=printable(str(about["username"] or "?")),
        started=float(str(about["create_time"] or 0)),
        is_own_session=about["pid"] in above,
    )


def _may_be_meant(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and pid not in (1, os.getpid()) and not stat.is_kernel_thread and not stat.is_dead


def _line(match: Match, command: str) -> str:
    name = match.name if len(match.name) <= NAME_WIDTH else match.name[: NAME_WIDTH - 1] + "…"
    note = ", this session" if match.is_own_session else ""
    return f"{command.format(pid=match.pid)}  # {name}, started {_when(match.started)}, user {match.user}{note}"


def _when(started: float) -> str:
    then, now = time.localtime(started), time.localtime()
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%Y-%m-%d", then)

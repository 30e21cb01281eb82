"""Runs all checks, in an order in which causes come before what follows from them."""

import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from chadthrottle.doctor.catalogue import CHECKS
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.finding import Finding, Group, Outcome, Report, failed, unknown
from chadthrottle.doctor.summary import what_works
from chadthrottle.errors import NotPermittedError
from chadthrottle.pins import default_base

__all__ = ["BUG", "examine"]

BUG = "CT-DOCTOR-01"
_WHAT = "the checks themselves"
_CURE = ("Please report it: chadthrottle report FILE collects what is needed.",)


def examine(
    pid: int | None = None,
    *,
    base: Path | None = None,
    only_root: bool = False,
    fix: bool = False,
    checks: Sequence[Check] = CHECKS,
) -> Report:
    """Look at everything; nothing is left behind. With `fix`, leftovers of chadthrottle's own are removed.

    `pid` is the program asked about, as this PID namespace shows it.
    """
    bugs: list[str] = []
    context = Context(base=base or _base(), stack=ExitStack(), pid=pid, only_root=only_root, fix=fix)
    try:
        for check in checks:
            context.findings.append(Finding(check.id, check.group, check.what, _outcome(check, context, bugs)))
        works = what_works(context)
    finally:
        try:
            context.stack.close()
        except Exception:  # noqa: BLE001 # as for a check
            bugs.append(traceback.format_exc())
    if bugs:
        context.findings.append(Finding(BUG, Group.DOCTOR, _WHAT, _bug(bugs)))
    order = list(Group)
    findings = sorted(context.findings, key=lambda each: (order.index(each.group), each.id))
    return Report(tuple(findings), works)


def _base() -> Path:
    """Without root nobody can say whether pid 1 sees another /sys/fs/bpf, and nothing is done there either."""
    try:
        return default_base()
    except NotPermittedError:
        return Path("/sys/fs/bpf/chadthrottle")


def _outcome(check: Check, context: Context, bugs: list[str]) -> Outcome:
    blocking = context.because_of(check.needs)
    if blocking is not None:
        return unknown("not tried", because=blocking.id)
    try:
        return check.run(context)
    except Exception as error:  # noqa: BLE001 # the other checks go on; exit status 1 says that there is one
        bugs.append(f"{check.id}: {traceback.format_exc()}")
        return unknown(f"the check itself failed: {' '.join(repr(error).split())}", because=BUG)


def _bug(bugs: list[str]) -> Outcome:
    lines = tuple(line for bug in bugs for line in bug.rstrip().split("\n"))
    return failed(
        f"{len(bugs)} of the checks failed in a way nobody thought of",
        tried="every check",
        came_back=lines[-1],
        means="a bug in chadthrottle doctor: what else it says may be right all the same",
        cure=_CURE,
        details=lines,
    )

"""The family leftovers: what of chadthrottle's own is there and serves nobody; `--fix` removes it, and nothing else.

Pins of rules that limit somebody are no leftovers. Each kind is found by looking; what cannot be looked at is
could-not-tell.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.bpf.errors import BpfError, errno_name
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown, warning
from chadthrottle.doctor.our_pins import Current, Pinned, forget, remove_current, told
from chadthrottle.enforce import hooks as hooks_module
from chadthrottle.enforce import rules
from chadthrottle.errors import ChadthrottleError, NotPermittedError
from chadthrottle.pins import Pins

__all__ = ["CHECKS"]

_FIX = "sudo chadthrottle doctor --fix"
_RELEASE = "sudo chadthrottle release --all"
_OUR_CGROUP = re.compile(r"chadthrottle-(?:doctor|demo)-([0-9]+)(?:-.*)?")


def _half_made(context: Context, pinned: Pinned) -> Outcome:
    if not pinned.unfinished:
        return ok("no pins are half made or half removed")
    names = ", ".join(str(context.base / f"v{each}-part") for each in pinned.unfinished)
    return _fix_or_warn(
        context,
        f"a command was killed at work and left {names}",
        tried=f"list {context.base}",
        came_back=names,
        means="No limit hangs on it, but programs, maps and attachments may be in the kernel for nothing.",
        fix=lambda pins: pins.sweep(),
    )


def _other_versions(context: Context, pinned: Pinned) -> Outcome:
    if not pinned.others:
        return ok("nothing of another version of chadthrottle is pinned")
    names = ", ".join(f"{context.base / f'v{each}'} ({count} limits)" for each, count in pinned.others.items())

    def fix(pins: Pins) -> None:
        for version in pinned.others:
            hooks_module.disarm(pins, version)
            pins.remove(version)

    return _fix_or_warn(
        context,
        f"another version of chadthrottle has left pins: {names}",
        tried=f"list {context.base}",
        came_back=names,
        means="Its limits, if there are any, go on, but this version can neither show nor change them: its next "
        "throttle would remove them, and so does --fix.",
        fix=fix,
    )


def _unusable(context: Context, pinned: Pinned) -> Outcome:
    if pinned.current is Current.INCOMPLETE:
        what = f"{context.base} lacks {', '.join(pinned.missing)}: somebody removed that by hand"
        means = "No command can use the rest: limits can neither be set nor shown."
    elif pinned.current is Current.UNHELD:
        what = "a --foreground command was killed, and what it had pinned is still there"
        means = "Its limit is gone with it; maps and iterators are left."
    else:
        return ok("what is pinned can be used" if pinned.current is not Current.NONE else "nothing is pinned")
    return _fix_or_warn(
        context, what, tried=f"list {context.base}", came_back=what, means=means, fix=remove_current, cure=_RELEASE
    )


def _nowhere(context: Context, pinned: Pinned) -> Outcome:
    if pinned.current is not Current.NOWHERE:
        return ok("hooks that are pinned are attached")
    if pinned.missing:
        what = f"somebody detached {', '.join(pinned.missing)}, and the pins are still there"
        tried = "ask the cgroup which programs it has (BPF_PROG_QUERY)"
    else:
        what = f"the cgroup that hooks were attached to ({pinned.attached_by}) was removed"
        tried = f"look for the cgroup with id {pinned.cgroup_id}"
    limited = ", ".join(f"{rule.name} (PID {rule.leader.pid})" for rule in pinned.limited)
    return _fix_or_warn(
        context,
        what,
        tried=tried,
        came_back="not there",
        means=f"The limits of {limited} hold nothing: set them again afterwards."
        if limited
        else "They do nothing any more.",
        fix=remove_current,
        cure=_RELEASE,
    )


def _idle(context: Context, pinned: Pinned) -> Outcome:
    if pinned.current is not Current.IDLE:
        return ok("no hooks without a limit")

    def fix(pins: Pins) -> None:
        with hooks_module.open_pinned(pins) as hooks:
            rules.sweep(hooks)
            if any(rules.all_rules(hooks)):  # somebody limited a program since
                return
        remove_current(pins)

    return _fix_or_warn(
        context,
        f"hooks are in place (by {pinned.attached_by}), but nothing is limited",
        tried="read the map of limits",
        came_back=f"{len(pinned.ended)} ended limits" if pinned.ended else "no entry",
        means="The last limit ended by itself. Every packet passes, at a small cost.",
        fix=fix,
        cure=_RELEASE,
    )


def _unpinned_programs(context: Context) -> Outcome:
    from chadthrottle.doctor.orphans import attachments, detach

    try:
        found = attachments()
    except (ChadthrottleError, OSError) as error:
        return _cannot_look("ask the kernel for all programs, and each cgroup for its own", error)
    if not found:
        return ok("no program of ours is attached that no pin tells of")
    names = tuple(map(str, found))
    limits = sum({each.program_id: each.limits for each in found}.values())
    means = "Somebody removed the pins, and such an attachment outlives everything but a restart. "
    means += (
        "It still limits: no command can release that. Connections that were paced stay so until they end."
        if limits
        else "Every packet passes it, for nothing."
    )

    def fix(_: object) -> None:
        for each in found:
            detach(each)

    return _fix_or_warn(
        context,
        f"attached without a pin: {_short(names)}",
        tried="BPF_PROG_QUERY on each cgroup",
        came_back="; ".join(names),
        means=means,
        fix=fix,
        locked=False,
        details=names,
    )


def _queues(context: Context, pinned: Pinned) -> Outcome:
    from chadthrottle.doctor.strays import remove, strays

    try:
        found = strays(pinned.queues)
    except (ChadthrottleError, OSError) as error:
        return _cannot_look("list devices and filters of each network namespace", error)
    names = tuple(map(str, found)) + tuple(f"pin links/{name}" for name in pinned.stray_links)
    if not names:
        return ok("no IFB device, filter or tcx link of ours without a queue")
    keeper = _keeper_of_records(pinned)
    if keeper:
        return unknown(f"whether they are in use is not to be told: {_short(names)}", because=keeper)

    def fix(pins: Pins) -> None:
        remove(found)
        for name in pinned.stray_links:
            pins.unpin("links", name)

    return _fix_or_warn(
        context,
        f"left of a queue: {_short(names)}",
        tried="list devices and filters of each network namespace, and compare with what is recorded",
        came_back="; ".join(names),
        means="Nobody's packets are held there any more; a filter that leads to a device that is gone loses them.",
        fix=fix,
        # Without pins there is no lock to take: nothing of ours is at work either.
        locked=pinned.current is not Current.NONE,
        details=names,
    )


def _keeper_of_records(pinned: Pinned) -> str:
    """The id of the finding about pins that say whose a queue is, and that cannot be read; they take it with them."""
    if pinned.others:
        return "CT-LEFT-02"
    if pinned.unfinished:
        return "CT-LEFT-01"
    return "CT-LEFT-03" if pinned.current in (Current.INCOMPLETE, Current.UNHELD) else ""


def _cgroups(context: Context) -> Outcome:
    try:
        top = cgroup.root()
        found = [path for path in sorted(top.glob("chadthrottle-*")) if _is_ours_and_dead(path)]
    except (ChadthrottleError, OSError) as error:
        return _cannot_look("list the root cgroup", error)
    if not found:
        return ok("no empty cgroup of a trial or a demo")

    def fix(_: object) -> None:
        for path in found:
            for below in sorted((each for each in path.rglob("*") if each.is_dir()), reverse=True):
                below.rmdir()
            path.rmdir()

    names = tuple(map(str, found))
    return _fix_or_warn(
        context,
        f"empty cgroups of trials that were killed: {_short(names)}",
        tried=f"list {top}",
        came_back=", ".join(names),
        means="They do nothing.",
        fix=fix,
        locked=False,
        cure=f"sudo rmdir {' '.join(names[:3])}" if len(names) <= 3 else _FIX,
    )


def _foreign(context: Context, pinned: Pinned) -> Outcome:
    if not pinned.strange:
        return ok("nothing of others lies between our pins")
    names = ", ".join(pinned.strange[:5])
    return warning(
        f"{context.base} holds what chadthrottle did not make: {names}",
        tried=f"list {context.base}",
        came_back=names,
        means="`chadthrottle release --all` removes nothing then, so as not to remove what is somebody's.",
        cure=(
            f"sudo ls -laR {context.base}",
            "If nobody needs it, remove it with rm; --fix does not touch it.",
        ),
    )


def _fix_or_warn(
    context: Context,
    what: str,
    *,
    tried: str,
    came_back: str,
    means: str,
    fix: Callable[[Pins], object],
    cure: str = _FIX,
    locked: bool = True,
    details: Sequence[str] = (),
) -> Outcome:
    """A warning; with --fix it is removed, under the lock of all commands, and said."""
    cures = (_FIX,) if cure == _FIX else (_FIX, "Or, which ends every limit there is:", cure)
    if cure.startswith("sudo rmdir"):
        cures = (_FIX, "Or by hand:", cure)
    if not context.fix:
        return warning(what, tried=tried, came_back=came_back, means=means, cure=cures, details=tuple(details))
    pins = hooks_module.pins_of_this_version(context.base)
    try:
        if locked:
            with pins.lock(create=False):
                fix(pins)
        else:
            fix(pins)
    except (ChadthrottleError, OSError) as error:
        message = error.message if isinstance(error, ChadthrottleError) else str(error)
        return failed(
            f"could not be removed: {what}",
            tried="remove it, as --fix asks for",
            came_back=message,
            means=means,
            cure=(
                (isinstance(error, ChadthrottleError) and error.hint) or "Try again, and please report it if it stays.",
            ),
            permission=isinstance(error, NotPermittedError),
        )
    finally:
        forget(context)
    return ok(f"removed, as --fix asked for: {what}", details=tuple(details))


def _hint(error: Exception) -> str:
    hint = error.hint if isinstance(error, ChadthrottleError) else None
    return hint or "Try again, and please report it if it stays: sudo chadthrottle report FILE"


def _cannot_look(tried: str, error: Exception) -> Outcome:
    if isinstance(error, BpfError):
        answer = errno_name(error.errno)
    elif isinstance(error, ChadthrottleError):
        answer = error.message
    else:
        answer = str(error)
    return unknown("it cannot be looked at", tried=tried, came_back=answer)


def _is_ours_and_dead(path: Path) -> bool:
    """Nobody is in it, and whoever made it has ended."""
    match = _OUR_CGROUP.fullmatch(path.name)
    if match is None or match[1] == str(os.getpid()) or Path(f"/proc/{match[1]}").exists():
        return False
    try:
        return "populated 0" in (path / "cgroup.events").read_text(encoding="ascii")
    except FileNotFoundError:
        return False


def _short(names: Sequence[str]) -> str:
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


_PINNED = frozenset({Need.BPF, Need.BPFFS})

CHECKS: tuple[Check, ...] = (
    Check("CT-LEFT-01", Group.LEFTOVERS, "half-made pins", told(_half_made), _PINNED),
    Check("CT-LEFT-02", Group.LEFTOVERS, "pins of another version", told(_other_versions), _PINNED),
    Check("CT-LEFT-03", Group.LEFTOVERS, "pins nobody can use", told(_unusable), _PINNED),
    Check("CT-LEFT-04", Group.LEFTOVERS, "pinned hooks", told(_nowhere), _PINNED),
    Check("CT-LEFT-05", Group.LEFTOVERS, "idle hooks", told(_idle), _PINNED),
    Check(
        "CT-LEFT-06",
        Group.LEFTOVERS,
        "programs without pins",
        _unpinned_programs,
        frozenset({Need.BPF, Need.CGROUP2}),
    ),
    Check("CT-LEFT-07", Group.LEFTOVERS, "devices and filters", told(_queues), _PINNED),
    Check("CT-LEFT-08", Group.LEFTOVERS, "cgroups", _cgroups, frozenset({Need.CGROUP2})),
    Check("CT-LEFT-09", Group.LEFTOVERS, "what others put there", told(_foreign), _PINNED),
)

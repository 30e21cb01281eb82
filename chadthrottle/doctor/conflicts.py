"""The family conflicts: programs of others on the cgroups from the target to the root.

What keeps a program off the root keeps all limits off, for that is where they are attached. What sits below it is only
in the way of --at: a program at the root runs for all below, whatever they have (compute_effective_progs() of
kernel/bpf/cgroup.c). Hence failed for the root, and a warning for the rest.
"""

import shlex
from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.bpf.constants import AttachFlag, AttachType
from chadthrottle.bpf.query import MAX_CGROUP_PROGRAMS
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import ATTACHING
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, warning
from chadthrottle.doctor.programs_on import OURS, HookOn, detach_command, hook_name, survey, target_cgroup, way_up

__all__ = ["CHECKS", "TARGET_REFUSED"]

TARGET_REFUSED = "conflicts.target"
"""In Context.shared: the id of the finding that says why nothing should be attached to the target's cgroup."""

_SURVEY = "conflicts.survey"
_MULTI, _OVERRIDE = AttachFlag.BPF_F_ALLOW_MULTI, AttachFlag.BPF_F_ALLOW_OVERRIDE
_TRIED = "BPF_PROG_QUERY on"
_AT_ROOT = "A limit is attached to the root unless --at says otherwise, and it holds there all the same."
_NEARLY = MAX_CGROUP_PROGRAMS - 4


def _programs(context: Context) -> Outcome:
    target, way, found = _surveyed(context)
    where = "the root cgroup" if target is None else f"{target} and {len(way) - 1} above"
    if not found:
        return ok(f"none on {where}")
    count = sum(len(each.programs) for each in found)
    lines = tuple(line for each in found for line in each.lines())
    return ok(f"{count} on {where}; --verbose lists them", details=lines)


def _exclusive(context: Context) -> Outcome:
    _, way, found = _surveyed(context)
    blocking = _refusing(way, found)
    if not blocking:
        return ok("none that tolerates no other", details=_looked_at(way))
    first = blocking[0]
    at_root = any(each.path == way[-1] for each in blocking)
    told = "; ".join(_named(each, "exclusive" if not each.flags else "override") for each in blocking)
    means = (
        "it was attached without BPF_F_ALLOW_MULTI: "
        + ("beside it or below it" if not first.flags else "beside it")
        + " the kernel attaches nothing for its hook and answers EPERM, to root, too"
    )
    cure = (
        *(() if at_root else (f"{_AT_ROOT} So leave it, and leave out --at.",)),
        "Or have its owner attach it with BPF_F_ALLOW_MULTI. If nobody needs it any more:",
        *(detach_command(each, one) for each in blocking for one in each.programs),
    )
    return _judged(context, "CT-CONFLICT-02", told, blocking, means, cure, at_root=at_root)


def _override(context: Context) -> Outcome:
    _, way, found = _surveyed(context)
    overridden = _silenced(way, found)
    if not overridden:
        return ok("none that a program below would put out of action", details=_looked_at(way))
    means = (
        "it was attached with BPF_F_ALLOW_OVERRIDE: where something is attached below it, it runs no more. A limit "
        "with --at leaf would silence it for that cgroup, so doctor tried nothing there"
    )
    cure = (
        f"{_AT_ROOT} So leave it, and leave out --at.",
        "Or have its owner attach it with BPF_F_ALLOW_MULTI. If nobody needs it any more:",
        *(detach_command(each, one) for each in overridden for one in each.programs),
    )
    told = "; ".join(_named(each, "override") for each in overridden)
    return _judged(context, "CT-CONFLICT-03", told, overridden, means, cure, at_root=False)


def _room(context: Context) -> Outcome:
    target, way, found = _surveyed(context)
    ours = [each for each in found if each.hook in OURS and each.path in (target, way[-1])]
    most = max((len(each.programs) for each in ours), default=0)
    full = [each for each in ours if len(each.programs) >= MAX_CGROUP_PROGRAMS]
    if not full:
        nearly = ": few are left" if most >= _NEARLY else ""
        return ok(f"at most {most} of {MAX_CGROUP_PROGRAMS} on a hook are taken{nearly}")
    at_root = any(each.path == way[-1] for each in full)
    told = "; ".join(f"{len(each.programs)} programs on {each.path} for {hook_name(each.hook)}" for each in full)
    means = f"the kernel attaches no more than {MAX_CGROUP_PROGRAMS} to one hook of a cgroup and answers E2BIG"
    cure = (
        *(() if at_root else (f"{_AT_ROOT} So leave out --at.",)),
        "See whose they are, and have that stopped; the last of them, to detach it if nobody needs it:",
        *(f"  sudo bpftool cgroup show {shlex.quote(str(path))}" for path in dict.fromkeys(each.path for each in full)),
        *(detach_command(each, each.programs[-1]) for each in full),
    )
    blocks = frozenset({Need.ROOT_CGROUP})
    return _judged(context, "CT-CONFLICT-04", told, full, means, cure, at_root=at_root, blocks=blocks)


def _judged(
    context: Context,
    check_id: str,
    told: str,
    found: list[HookOn],
    means: str,
    cure: tuple[str, ...],
    *,
    at_root: bool,
    blocks: frozenset[Need] = ATTACHING,
) -> Outcome:
    tried = f"{_TRIED} {found[0].path}"
    came_back = f"attach flags {', '.join(dict.fromkeys(str(each.flags.name or '0') for each in found))}"
    details = tuple(line for each in found for line in each.lines())
    if at_root:
        return failed(told, tried=tried, came_back=came_back, means=means, cure=cure, blocks=blocks, details=details)
    context.shared.setdefault(TARGET_REFUSED, check_id)
    return warning(told, tried=tried, came_back=came_back, means=means, cure=cure, details=details)


def _refusing(way: list[Path], found: list[HookOn]) -> list[HookOn]:
    """What refuses others on the first of these cgroups, or on the last: as hierarchy_allows_attach() of
    kernel/bpf/cgroup.c does (Linux 4.15 to 6.18), see bpf.cgroup_errors.find_blocker().
    """
    refusing = []
    for hook in OURS:
        own, above, at_root = _placed(hook, way, found)
        refusing += [each for each in (own, at_root) if each is not None and not each.flags & _MULTI]
        if above is not None and not above.flags:
            refusing.append(above)
    return [each for number, each in enumerate(refusing) if each not in refusing[:number]]


def _silenced(way: list[Path], found: list[HookOn]) -> list[HookOn]:
    """What runs for the first of these cgroups only as long as nothing is attached there. The root's is told before."""
    silenced = []
    for hook in OURS:
        own, above, at_root = _placed(hook, way, found)
        if own is None and above is not None and above is not at_root and above.flags & _OVERRIDE:
            silenced.append(above)
    return silenced


def _placed(
    hook: AttachType, way: list[Path], found: list[HookOn]
) -> tuple[HookOn | None, HookOn | None, HookOn | None]:
    """Of a hook: the first cgroup's own, the nearest above that has programs, the root's."""
    there = {each.path: each for each in found if each.hook is hook}
    above = next((there[path] for path in way[1:] if path in there), None)
    return there.get(way[0]), above, there.get(way[-1])


def _named(each: HookOn, kind: str) -> str:
    """'exclusive program "fw" (id 7) on PATH (cgroup_inet_egress)'."""
    names = ", ".join(str(one) for one in each.programs)
    return f"{kind} program {names} on {each.path} ({hook_name(each.hook)})"


def _looked_at(way: list[Path]) -> tuple[str, ...]:
    return tuple(f"looked at {each}" for each in way)


def _surveyed(context: Context) -> tuple[Path | None, list[Path], list[HookOn]]:
    """The target's cgroup, the way from there (or from the root alone), and the hooks with programs on it."""
    if _SURVEY not in context.shared:
        target = target_cgroup(context)
        way = way_up(target) if target is not None else [cgroup.root()]
        context.shared[_SURVEY] = target, way, survey(way)
    found: tuple[Path | None, list[Path], list[HookOn]] = context.shared[_SURVEY]
    return found


_NEEDS = frozenset({Need.BPF, Need.CGROUP2})

CHECKS: tuple[Check, ...] = (
    Check("CT-CONFLICT-01", Group.CONFLICTS, "BPF programs on the way to the root", _programs, _NEEDS),
    Check("CT-CONFLICT-02", Group.CONFLICTS, "exclusive programs", _exclusive, _NEEDS),
    Check("CT-CONFLICT-03", Group.CONFLICTS, "override programs above", _override, _NEEDS),
    Check("CT-CONFLICT-04", Group.CONFLICTS, "room for programs", _room, _NEEDS),
)

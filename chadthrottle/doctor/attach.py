"""The family attach: the three-way trial of a program on a cgroup of our own, on the root, on the target's.

    own cgroup ── minimal ── ours ─┬─ root                each by a link, and each again without one
                                   └─ target's cgroup     (CHADTHROTTLE_TEST_ROOT_CGROUP=1: the root alone)

Minimal works and ours does not: our program. The root works and another does not: what is told of that cgroup. Nothing
works: the kernel, or what keeps this process from it.
"""

from pathlib import Path

from chadthrottle import cgroup
from chadthrottle.bpf.cgroup_link import has_links
from chadthrottle.bpf.errors import BpfError
from chadthrottle.doctor import wrong_ways
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.conflicts import TARGET_REFUSED
from chadthrottle.doctor.finding import Finding, Group, Need, Outcome, Status, ok, unknown, warning
from chadthrottle.doctor.programs_on import target_cgroup, way_up
from chadthrottle.doctor.trial import Bench
from chadthrottle.doctor.trial_guard import sweep
from chadthrottle.doctor.trial_place import Place, bench_of, own, place
from chadthrottle.doctor.trial_steps import Method, StepError
from chadthrottle.doctor.trial_verdict import as_warning, verdict

__all__ = ["CHECKS"]

_MINIMAL, _OURS, _FLAGS, _LEGACY = "CT-ATTACH-01", "CT-ATTACH-02", "CT-ATTACH-03", "CT-ATTACH-04"
_TARGET, _TARGET_LEGACY = "CT-ATTACH-05", "CT-ATTACH-06"
_ROOT, _ROOT_LEGACY = "CT-ATTACH-07", "CT-ATTACH-08"
_VALUES, _HOOK = "CT-ATTACH-09", "CT-ATTACH-10"
_NO_LINKS = "attach.no_links"
_NOBODY_ASKED = "none was asked about: chadthrottle doctor PID tries it"
_ROOT_ONLY = "not tried: CHADTHROTTLE_TEST_ROOT_CGROUP=1 limits the trial to the root"


def _minimal(context: Context) -> Outcome:
    if not has_links():
        context.shared[_NO_LINKS] = True
        return warning(
            "this kernel has no BPF links",
            tried="BPF_LINK_CREATE",
            came_back="EINVAL",
            means="they came with Linux 5.7; limits are attached with BPF_PROG_ATTACH here, which the trials below use",
            cure=("Nothing has to be done; a newer kernel has them.",),
        )
    try:
        removed = sweep(cgroup.root(), [path for path in (target_cgroup(context),) if path is not None])
        made = bench_of(context)
    except StepError as error:
        raised = error  # a name that lasts beyond this block

        def refused() -> list[str]:
            raise raised

        return verdict(refused, own(cgroup.root()), "link")
    details = tuple(f"left by a doctor that was killed, and removed now: {each}" for each in removed)
    where = _first(made, context)
    outcome = verdict(lambda: made.try_minimal(where.path, "link"), where, "link", details=details)
    if outcome.status is Status.FAILED and made.leaf is not None:
        return outcome._replace(means=f"{outcome.means}. {_compared(made)}")
    return outcome


def _compared(made: Bench) -> str:
    """Minimal programs let everything pass, so they may be tried at the root whatever came before."""
    try:
        made.try_minimal(made.root, "link")
    except (StepError, BpfError):
        return "At the root it is refused as well: it is the kernel, or what keeps this process from it"
    return "At the root it works: so it is about this part of the cgroup tree"


def _ours(context: Context) -> Outcome:
    made = bench_of(context)
    if made.leaf is None:
        return unknown(_ROOT_ONLY)
    where = own(made.leaf)
    outcome = verdict(lambda: made.try_ours(where.path, _method(context)), where, _method(context))
    if outcome.status is Status.FAILED and where.path.exists():
        return outcome._replace(means=f"{outcome.means}. A minimal program works there: so it is our program")
    return outcome


def _legacy(context: Context) -> Outcome:
    made = bench_of(context)
    if made.leaf is None:
        return unknown(_ROOT_ONLY)
    return _without_link(context, made, own(made.leaf), _OURS)


def _at_root(context: Context) -> Outcome:
    # Nothing that can drop a packet goes to the root before it has behaved in a cgroup of our own.
    if not context.only_root and context.status_of(_OURS) is not Status.OK:
        return _unknown_as(context, _OURS)
    made = bench_of(context)
    return _tried(made, place(context, made.root), _method(context))


def _at_root_legacy(context: Context) -> Outcome:
    made = bench_of(context)
    return _without_link(context, made, place(context, made.root), _ROOT)


def _at_target(context: Context) -> Outcome:
    where = _target_place(context)
    if isinstance(where, Outcome):
        return where
    outcome = _tried(bench_of(context), where, _method(context), context.pid)
    if context.status_of(_ROOT) is Status.OK:
        return as_warning(outcome, "At the root it works, where limits are attached unless --at says otherwise")
    return outcome


def _at_target_legacy(context: Context) -> Outcome:
    linked = _finding(context, _TARGET)
    if linked.is_cause or linked.outcome.because:
        return _unknown_as(context, _TARGET)
    where = _target_place(context)
    if isinstance(where, Outcome):
        return where
    return _without_link(context, bench_of(context), where, _TARGET)


def _target_place(context: Context) -> Place | Outcome:
    """The target's cgroup, or why it is not tried."""
    if context.pid is None:
        return ok(_NOBODY_ASKED)
    if context.only_root:
        return unknown(_ROOT_ONLY)
    if context.status_of(_OURS) is not Status.OK:
        return _unknown_as(context, _OURS)
    if TARGET_REFUSED in context.shared:
        return unknown("not tried", because=context.shared[TARGET_REFUSED])
    path = target_cgroup(context)
    if path is None:
        return unknown(f"process {context.pid} has ended, or its cgroup is not to be seen from here")
    if path == cgroup.root():
        return _as(context, _ROOT, "it is the root")
    if _is_frozen(path):
        # So would be the process of ours that has to send something there.
        return unknown(f"not tried: {path} is frozen", means="nothing in it runs, and so nothing sends or receives")
    return place(context, path)


def _is_frozen(path: Path) -> bool:
    """By cgroup.freeze, its own or one above (Linux 5.2)."""
    files = (each / "cgroup.freeze" for each in way_up(path))
    return any(file.read_text(encoding="ascii").strip() == "1" for file in files if file.exists())


def _without_link(context: Context, made: Bench, where: Place, linked: str) -> Outcome:
    """Nobody needs it where links work, so refused it is a warning. `linked` is the check that tried the link."""
    if _NO_LINKS in context.shared:
        return unknown("tried above already: there are no links", because=_MINIMAL)
    if context.status_of(linked) is not Status.OK:
        return _unknown_as(context, linked)
    outcome = _tried(made, where, "legacy", context.pid)
    return as_warning(
        outcome,
        "Links work, and limits use them unless --attach legacy asks for this",
        "Leave out --attach legacy, and unset CHADTHROTTLE_BPF_ATTACH_METHOD.",
    )


def _tried(made: Bench, where: Place, method: Method, pid: int | None = None) -> Outcome:
    """Minimal, then ours."""
    return verdict(
        lambda: made.try_minimal(where.path, method) + made.try_ours(where.path, method), where, method, pid=pid
    )


def _probe(run: "wrong_ways.Probe") -> "wrong_ways.Probe":
    """A known wrong way: it tells something only where the right one works."""

    def probed(context: Context) -> Outcome:
        if context.status_of(_MINIMAL) is not Status.OK:
            return _unknown_as(context, _MINIMAL)
        return run(context)

    return probed


def _method(context: Context) -> Method:
    return "legacy" if _NO_LINKS in context.shared else "link"


def _first(made: Bench, context: Context) -> Place:
    return place(context, made.root) if made.leaf is None else own(made.leaf)


def _as(context: Context, check_id: str, why: str) -> Outcome:
    """What another check found, which is the same thing."""
    if context.status_of(check_id) is Status.OK:
        return ok(f"works: {why}")
    return _unknown_as(context, check_id)


def _unknown_as(context: Context, check_id: str) -> Outcome:
    """Not tried, because another check did not end well: it is the cause, or names it."""
    other = _finding(context, check_id)
    return unknown("not tried", because=check_id if other.is_cause else other.outcome.because)


def _finding(context: Context, check_id: str) -> Finding:
    return next(each for each in context.findings if each.id == check_id)


_NEEDS = frozenset({Need.BPF, Need.CGROUP2})
_OWN = frozenset({Need.CGROUP_MAKING, Need.LEAF})
_PACKETS = frozenset({Need.NETWORK, Need.OUR_OBJECTS})
_AT_TARGET = _NEEDS | _OWN | _PACKETS | {Need.TARGET, Need.TARGET_CGROUP}
_AT_ROOT = _NEEDS | _PACKETS | {Need.ROOT_CGROUP}

CHECKS: tuple[Check, ...] = (
    Check(_MINIMAL, Group.ATTACH, "a minimal program on a cgroup of our own", _minimal, _NEEDS | _OWN),
    Check(_OURS, Group.ATTACH, "our program there", _ours, _NEEDS | _OWN | _PACKETS),
    Check(_FLAGS, Group.ATTACH, "link_create with flags 2", _probe(wrong_ways.flags_of_links), _NEEDS | _OWN),
    Check(_LEGACY, Group.ATTACH, "both without a link", _legacy, _NEEDS | _OWN | _PACKETS),
    Check(_VALUES, Group.ATTACH, "wrong return values", wrong_ways.return_values, _NEEDS),
    Check(_HOOK, Group.ATTACH, "the wrong hook", _probe(wrong_ways.wrong_hook), _NEEDS | _OWN),
    # The root first: what is refused elsewhere is judged by it.
    Check(_ROOT, Group.ATTACH, "both on the root cgroup", _at_root, _AT_ROOT),
    Check(_ROOT_LEGACY, Group.ATTACH, "that without a link", _at_root_legacy, _AT_ROOT),
    Check(_TARGET, Group.ATTACH, "both on the target's cgroup", _at_target, _AT_TARGET),
    Check(_TARGET_LEGACY, Group.ATTACH, "that without a link", _at_target_legacy, _AT_TARGET),
)

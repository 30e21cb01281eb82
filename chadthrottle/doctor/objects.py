"""The family objects: our own BPF objects, from the file to the verifier."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from chadthrottle.artifacts import (
    OBJECTS,
    REBUILD,
    MissingObjectError,
    StaleObjectError,
    check_fresh,
    flavour,
    in_checkout,
    object_path,
)
from chadthrottle.bpf.errors import BpfError, VerifierError, errno_name
from chadthrottle.bpf.features import supported
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.finding import Group, Need, Outcome, Status, failed, ok, unknown, warning
from chadthrottle.doctor.trial import load_minimal, trial_knobs
from chadthrottle.doctor.trial_guard import HOOKS
from chadthrottle.errors import ChadthrottleError

if TYPE_CHECKING:
    from chadthrottle.bpf.spec import ObjectSpec

__all__ = ["CHECKS"]

_NAMES = {
    "throttle": "every limit",
    "queue": "queued downloads and uploads; limits go without, and drop",
    "trial": "doctor's trials",
    "traffic": "counting traffic, which no limit needs",
}
"""Our objects, and what each is for."""
_SPECS = "objects.specs"
_PRESENT, _READABLE, _FRESH = "CT-OBJ-01", "CT-OBJ-02", "CT-OBJ-03"
_OURS = frozenset({Need.OUR_OBJECTS, Need.QUEUE})
_REINSTALL = "Install chadthrottle again: the file is damaged, or from another version."


def _present(context: Context) -> Outcome:
    del context
    missing = []
    for name in _NAMES:
        try:
            object_path(name)
        except MissingObjectError as error:
            missing.append((name, error))
    if not missing:
        return ok(", ".join(f"{name}.bpf.o" for name in _NAMES))
    return failed(
        f"missing: {', '.join(f'{name}.bpf.o' for name, _ in missing)}",
        tried=f"look for them in {OBJECTS}",
        came_back="ENOENT",
        means=f"without it there is no: {'; '.join(_NAMES[name] for name, _ in missing)}",
        cure=_rebuilding(missing[0][1].hint),
        blocks=_OURS,
    )


def _readable(context: Context) -> Outcome:
    # Only here: importing pyelftools takes longer than parsing all of them.
    from chadthrottle.bpf.parse import open_object

    specs: dict[str, ObjectSpec] = {}
    broken: list[tuple[str, str]] = []
    for name in _there():
        try:
            specs[name] = open_object(object_path(name))
        except ChadthrottleError as error:
            broken.append((name, error.message))
    context.shared[_SPECS] = specs
    if not broken:
        programs = sum(len(spec.programs) for spec in specs.values())
        return ok(f"{programs} programs in {len(specs)} objects")
    paths = [str(object_path(name)) for name, _ in broken]
    return failed(
        f"{', '.join(f'{name}.bpf.o' for name, _ in broken)} is damaged",
        tried=f"parse {', '.join(paths)}",
        came_back=broken[0][1],
        means=f"what is in it cannot be loaded, and it is for {'; '.join(_NAMES[name] for name, _ in broken)}",
        # An object is made again when its sources have changed, or when it is not there.
        cure=(f"sudo rm {' '.join(paths)}", *_rebuilding(REBUILD)) if in_checkout() else (_REINSTALL,),
        blocks=_OURS,
        details=tuple(message for _, message in broken),
    )


def _fresh(context: Context) -> Outcome:
    if not in_checkout():
        return ok(f"{flavour()}, as installed")
    if context.status_of(_READABLE) is not Status.OK:
        return unknown("not looked at", because=_READABLE)
    stale = []
    for name in _there():
        try:
            check_fresh(name)
        except StaleObjectError as error:
            stale.append((name, error))
    if not stale:
        return ok(f"{flavour()}, built from the sources as they are")
    first = stale[0][1]
    return failed(
        f"{', '.join(f'{name}.bpf.o' for name, _ in stale)} was not built from the sources as they are now",
        tried="compare the hash in the object with the sources' own",
        came_back=first.message,
        means="every command refuses it: program and command would not speak of the same maps",
        cure=_rebuilding(first.hint),
        blocks=_OURS,
        details=tuple(each.message for _, each in stale),
    )


def _loads(name: str) -> Callable[[Context], Outcome]:
    """Whether the verifier takes every program of this object that a limit would load."""

    def run(context: Context) -> Outcome:
        from chadthrottle.bpf.loader import load
        from chadthrottle.enforce.hooks import chosen_programs

        spec = context.shared[_SPECS][name]
        try:
            programs = chosen_programs(spec) if name == "throttle" else list(spec.programs)
            load(spec.with_constants(_knobs(name)), programs=programs).close()
        except (ChadthrottleError, KeyError) as error:
            lacking = next((each for each in context.findings if _lacks_feature(each.group, each.outcome)), None)
            if lacking is not None:
                return unknown("refused", because=lacking.id)
            return _refused(name, error)
        return ok(f"all {len(programs)} programs", details=tuple(programs))

    return run


def _knobs(name: str) -> dict[str, int]:
    """An object's constants as in use: the verifier looks at no branch that they keep from being taken."""
    if name == "trial":
        return trial_knobs(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    if name == "queue":
        return {"queue_device": 2, "queue_segment": 1 << 16, "queue_by_action": not supported("tcx")}
    return {}


def _lacks_feature(group: Group, outcome: Outcome) -> bool:
    return group is Group.FEATURES and outcome.status is Status.FAILED


def _refused(name: str, error: ChadthrottleError | KeyError) -> Outcome:
    path = object_path(name)
    log: tuple[str, ...] = ()
    hint = None
    if isinstance(error, VerifierError):
        log = tuple(line for line in error.log.splitlines() if line.strip())
        telling = [line for line in log if not line.startswith(("processed ", "verification time", "stack depth"))]
        came_back = f"{errno_name(error.errno)}: {telling[-1].strip() if telling else 'an empty log'}"
        summary = f"the verifier refuses {error.program}"
    elif isinstance(error, ChadthrottleError):
        came_back, hint = error.message, error.hint
        if isinstance(error, BpfError):
            came_back = f"{errno_name(error.errno)} ({error.message})"
        summary = "the kernel refuses it"
    else:
        came_back, summary = f"no program {error}", "it lacks a program"
    permission = isinstance(error, ChadthrottleError) and error.exit_code == 3
    means = f"{_compared()}. It is for {_NAMES[name]}"
    cure = (
        *((hint,) if hint else ()),
        "If somebody changed or replaced it, have it made again:",
        *((f"sudo rm {path}", *_rebuilding(REBUILD)) if in_checkout() else (_REINSTALL,)),
        "Else please report it: the file that `sudo chadthrottle report FILE` makes holds the verifier's whole log.",
    )
    tried = f"BPF_PROG_LOAD of the programs of {path}"
    if name == "traffic":
        return warning(summary, tried=tried, came_back=came_back, means=means, cure=cure, details=log)
    return failed(
        summary,
        tried=tried,
        came_back=came_back,
        means=means,
        cure=cure,
        blocks=frozenset({Need.QUEUE} if name == "queue" else {Need.OUR_OBJECTS}),
        permission=permission,
        details=log,
    )


def _compared() -> str:
    try:
        load_minimal(HOOKS[0]).close()
    except BpfError as error:
        return f"a minimal program of two instructions is refused as well ({errno_name(error.errno)}): it is the kernel"
    return "a minimal program of two instructions loads: so it is our program, or this kernel's verifier"


def _there() -> list[str]:
    """Those that are not missing."""
    found = []
    for name in _NAMES:
        try:
            object_path(name)
        except MissingObjectError:
            continue
        found.append(name)
    return found


def _rebuilding(hint: str | None) -> tuple[str, ...]:
    if not in_checkout():
        return (hint or _REINSTALL,)
    return (hint or REBUILD,)


_LOADING = frozenset({Need.BPF, Need.OUR_OBJECTS})

CHECKS: tuple[Check, ...] = (
    Check(_PRESENT, Group.OBJECTS, "there", _present),
    Check(_READABLE, Group.OBJECTS, "readable", _readable),
    Check(_FRESH, Group.OBJECTS, "fresh", _fresh),
    Check("CT-OBJ-04", Group.OBJECTS, "throttle.bpf.o loads", _loads("throttle"), _LOADING),
    Check("CT-OBJ-05", Group.OBJECTS, "queue.bpf.o loads", _loads("queue"), _LOADING),
    Check("CT-OBJ-06", Group.OBJECTS, "traffic.bpf.o loads", _loads("traffic"), _LOADING),
    Check("CT-OBJ-07", Group.OBJECTS, "trial.bpf.o loads", _loads("trial"), _LOADING),
)

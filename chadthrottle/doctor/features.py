"""What this kernel's BPF can do, as far as limits need it; each by trying (chadthrottle.bpf.features)."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from chadthrottle.bpf.errors import errno_name
from chadthrottle.bpf.features import FEATURES, Support, TrialResult, probe
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import ATTACHING, WITHOUT_BPF
from chadthrottle.doctor.finding import Group, Need, Outcome, failed, ok, unknown, warning
from chadthrottle.doctor.kernel_config import NO_BTF, about
from chadthrottle.doctor.security import security_modules

__all__ = ["CHECKS"]

_OBJECTS = frozenset({Need.OUR_OBJECTS})


class _Ability(NamedTuple):
    """Features that stand and fall together for a user."""

    number: str
    what: str
    features: tuple[str, ...]
    lost: str
    """What nobody has without them."""
    blocks: frozenset[Need] = _OBJECTS
    fallback: str = ""
    """What is used instead. Then it is a warning, and nothing is blocked."""
    equal: bool = False
    """The fallback is as good: nothing to warn of."""
    option: str = ""
    """What the kernel is built with to have them."""
    by_btf: bool = False
    """They hang on the kernel's own BTF."""


_ABILITIES = (
    _Ability("01", "bpf(2)", ("bpf",), "nothing of chadthrottle works", WITHOUT_BPF, option="CONFIG_BPF_SYSCALL"),
    _Ability(
        "02",
        "maps, and programs with global data",
        ("btf", "global_data", "ktime_get_boot_ns", "atomics", "core_relos"),
        "our programs cannot be loaded",
    ),
    _Ability(
        "03",
        "programs that see a cgroup's packets (cgroup_skb)",
        ("cgroup_skb", "expected_attach_type", "egress_congestion"),
        "no packet can be counted, let alone held back",
        _OBJECTS | ATTACHING,
        option="CONFIG_CGROUP_BPF",
    ),
    _Ability(
        "04",
        "programs that see a cgroup's sockets (cgroup/sock, sock_ops)",
        ("cgroup_sock", "sock_ops"),
        "new sockets are not recognised, and uploads not paced",
        option="CONFIG_CGROUP_BPF",
    ),
    _Ability(
        "05",
        "links on cgroups",
        ("cgroup_link",),
        "programs cannot be attached by link",
        fallback="the legacy BPF_PROG_ATTACH, which stays attached if a command is killed, until chadthrottle looks "
        "after it again",
    ),
    _Ability(
        "06", "asking what is attached", ("prog_query",), "what was attached cannot be read back", _OBJECTS | ATTACHING
    ),
    _Ability(
        "07",
        "tags on sockets (socket storage)",
        ("sk_storage", "sk_storage_clone", "sk_storage_tp_btf"),
        "packets cannot be told apart by program",
        by_btf=True,
    ),
    _Ability(
        "08",
        "tracepoints (forks, exits, connections)",
        ("tp_btf",),
        "children of a limited program cannot be followed",
        option="CONFIG_DEBUG_INFO_BTF",
        by_btf=True,
    ),
    _Ability(
        "09",
        "iterating over connections",
        ("iter", "iter_tcp", "iter_tcp_setsockopt"),
        "connections that are open already cannot be paced",
        option="CONFIG_DEBUG_INFO_BTF",
        by_btf=True,
    ),
    _Ability(
        "10",
        "iterating over open files",
        ("iter_task_file", "sock_from_file", "sk_storage_iter"),
        "open sockets cannot be found in one walk",
        fallback="pidfd_getfd(2), a socket at a time: slower, and no use where a main thread has ended",
        by_btf=True,
    ),
    _Ability(
        "11",
        "marking instead of dropping (ECN)",
        ("skb_ecn_set_ce",),
        "packets of connections that negotiated ECN cannot be marked",
    ),
    _Ability(
        "12",
        "programs on devices (tcx)",
        ("tcx",),
        "queues cannot use tcx",
        fallback="clsact filters, at the same rate",
        equal=True,
    ),
    _Ability(
        "13",
        "names, flags and batches",
        ("prog_name", "map_name", "map_batch", "prog_query_flags"),
        "what is said of programs and maps is less, and read one by one",
        fallback="what the kernel has",
        equal=True,
    ),
)


def _look(ability: _Ability, context: Context) -> Outcome:
    if ability.by_btf and (broken := _without_btf(context)):
        return unknown("not tried", because=broken)
    results = {name: probe(name) for name in ability.features}
    for wanted in Support.INCONCLUSIVE, Support.UNSUPPORTED:
        hit = {name: result for name, result in results.items() if result.support is wanted}
        if hit and wanted is Support.INCONCLUSIVE:
            return _refused(ability, hit)
        if hit:
            return _lacking(ability, hit)
    return ok("as limits need them", details=_details(results))


def _lacking(ability: _Ability, lacking: dict[str, TrialResult]) -> Outcome:
    summary = f"this kernel has not got {_named(lacking)}"
    if ability.fallback and ability.equal:
        return ok(f"{summary}; instead there is {ability.fallback}", details=_details(lacking))
    tried, came_back = f"{_tried(lacking)} (each loaded or called for real)", _answers(lacking)
    if ability.fallback:
        return warning(
            summary,
            tried=tried,
            came_back=came_back,
            means=f"{ability.lost}; instead there is {ability.fallback}",
            cure=(f"{_newer(lacking)}.",),
        )
    return failed(
        summary,
        tried=tried,
        came_back=came_back,
        means=ability.lost,
        cure=(f"It takes another kernel: {_newer(lacking)}.", *((about(ability.option),) if ability.option else ())),
        blocks=ability.blocks,
    )


def _without_btf(context: Context) -> str:
    return next((each.id for each in context.findings if each.id == NO_BTF and each.is_cause), "")


def _refused(ability: _Ability, refused: dict[str, TrialResult]) -> Outcome:
    """EPERM to a process that lacks nothing and that no filter holds: it is a policy's. Else memory, or descriptors."""
    numbers = {result.errno for result in refused.values()}
    modules = ", ".join(security_modules()) or "unknown: /sys/kernel/security/lsm cannot be read"
    by_policy = bool(numbers & {1, 13})
    return failed(
        f"trying {_named(refused)} was refused",
        tried=_tried(refused),
        came_back=_answers(refused),
        means=f"a security module or a BPF program of the machine's own forbids it ({modules})"
        if by_policy
        else f"the kernel could not try it; then {ability.lost}",
        cure=(
            ("See who it was:", "sudo journalctl -k -g 'avc|apparmor|denied|lockdown' -n 20")
            if by_policy
            else ("See what it lacked, and try again:", "sudo dmesg | tail -n 20")
        ),
        blocks=ability.blocks if not ability.fallback else frozenset(),
        permission=by_policy,
    )


def _named(names: Iterable[str]) -> str:
    return ", ".join(FEATURES[name].what for name in names)


def _tried(names: Iterable[str]) -> str:
    return ", ".join(names)


def _answers(results: dict[str, TrialResult]) -> str:
    told = {name: errno_name(result.errno) if result.errno else "not in its BTF" for name, result in results.items()}
    values = set(told.values())
    return values.pop() if len(values) == 1 else ", ".join(f"{name}: {value}" for name, value in told.items())


def _newer(names: Iterable[str]) -> str:
    newest = max((FEATURES[name].since for name in names), key=lambda each: tuple(map(int, each.split("."))))
    return f"Linux {newest} and later have it"


def _details(results: dict[str, TrialResult]) -> tuple[str, ...]:
    return tuple(
        f"{FEATURES[name].what}, since Linux {FEATURES[name].since}: {result.support.value}"
        for name, result in results.items()
    )


CHECKS: tuple[Check, ...] = tuple(
    Check(f"CT-BPF-{each.number}", Group.FEATURES, each.what, partial(_look, each), frozenset({Need.BPF}))
    for each in _ABILITIES
)

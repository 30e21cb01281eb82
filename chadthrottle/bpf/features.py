"""What this kernel's BPF can do, found out by trying; the version is only for the message.

Distributions carry features back to older kernels and leave others out of newer ones, so a version
number decides nothing. `since` is the mainline release in which the named commit first appeared.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chadthrottle.bpf import attr, trials
from chadthrottle.bpf.constants import AttachType, BpfCmd, BtfKind, MapFlag, MapType, ProgType
from chadthrottle.bpf.errors import NotSupportedError
from chadthrottle.bpf.syscall import bpf_errno, failure
from chadthrottle.bpf.trials import BAD_FD, Attempt, Support, TrialResult

__all__ = ["FEATURES", "Feature", "Support", "TrialResult", "probe", "require", "supported"]


@dataclass(frozen=True, slots=True)
class Feature:
    """Something a kernel may lack."""

    what: str
    """For the sentence "this kernel does not support …"."""
    since: str
    """The Linux version that brought it."""
    trial: trials.Trial


def probe(name: str) -> TrialResult:
    """Try a feature of FEATURES. Conclusive answers are kept for the life of the process."""
    if name not in _known:
        result = FEATURES[name].trial()
        if result.support is Support.INCONCLUSIVE:
            return result
        _known[name] = result
    return _known[name]


def supported(name: str) -> bool:
    """Whether the kernel has the feature. Raises BpfError when that cannot be told (EPERM, ENOMEM, …)."""
    result = probe(name)
    if result.support is Support.INCONCLUSIVE:
        raise failure("bpf(2)", result.errno, f"while trying {FEATURES[name].what}")
    return result.support is Support.SUPPORTED


def require(name: str) -> None:
    """Raises NotSupportedError when the kernel lacks the feature, BpfError when that cannot be told."""
    if not supported(name):
        raise NotSupportedError(FEATURES[name].what, FEATURES[name].since)


_known: dict[str, TrialResult] = {}

_PASS = Attempt(ProgType.BPF_PROG_TYPE_SCHED_CLS, trials.returns(0))
_SOCKET_FILTER = ProgType.BPF_PROG_TYPE_SOCKET_FILTER
_TRACING = ProgType.BPF_PROG_TYPE_TRACING
_EGRESS = AttachType.BPF_CGROUP_INET_EGRESS
_ITER = AttachType.BPF_TRACE_ITER
_TASK_FILE = (BtfKind.BTF_KIND_FUNC, "bpf_iter_task_file")
_TCP = (BtfKind.BTF_KIND_FUNC, "bpf_iter_tcp")
_FORK = (BtfKind.BTF_KIND_TYPEDEF, "btf_trace_sched_process_fork")

# *(u64 *)(r10 - 8) = 0; r0 = 0; r1 = 0; r0 = cmpxchg(r10 - 8, r0, r1); r0 = 0; exit
_COMPARE_EXCHANGE = (
    trials.insn(0x7A, dst=10, off=-8)
    + trials.insn(0xB7)
    + trials.insn(0xB7, dst=1)
    + trials.insn(0xDB, dst=10, src=1, off=-8, imm=0xF1)
    + trials.returns(0)
)


def _link(attach_type: AttachType, target: int, number_of: int) -> int:
    request = attr.LinkCreate(prog_fd=number_of, target_fd=target, attach_type=attach_type)
    return bpf_errno(BpfCmd.BPF_LINK_CREATE, request)[1]


def _run_with_context(fd: int) -> int:
    packet, context = attr.buffer_from(bytes(64)), attr.buffer_from(bytes(64))
    request = attr.ProgTestRun(
        prog_fd=fd,
        data_in=attr.address(packet),
        data_size_in=64,
        ctx_in=attr.address(context),
        ctx_size_in=64,
        repeat=1,
    )
    return bpf_errno(BpfCmd.BPF_PROG_TEST_RUN, request)[1]


FEATURES: Mapping[str, Feature] = MappingProxyType(
    {
        # The system call and its commands
        "bpf": Feature(
            "bpf(2)", "3.18", trials.command(BpfCmd.BPF_MAP_LOOKUP_ELEM, attr.MapElem(map_fd=BAD_FD))
        ),  # 99c55f7d47c0
        "map_freeze": Feature(
            "freezing maps", "5.2", trials.command(BpfCmd.BPF_MAP_FREEZE, attr.MapElem(map_fd=BAD_FD))
        ),  # 87df15de441b
        "map_batch": Feature(
            "batch operations on maps",
            "5.6",
            trials.command(BpfCmd.BPF_MAP_LOOKUP_BATCH, attr.MapBatch(map_fd=BAD_FD)),
        ),  # cb4d03ab499d
        "raw_tracepoint": Feature(
            "raw tracepoints",
            "4.17",
            trials.command(BpfCmd.BPF_RAW_TRACEPOINT_OPEN, attr.RawTracepointOpen(prog_fd=BAD_FD)),
        ),  # c4f6699dfcb8
        "cgroup_link": Feature(
            "BPF links on cgroups",
            "5.7",
            trials.with_program(
                Attempt(ProgType.BPF_PROG_TYPE_CGROUP_SKB, trials.returns(1), _EGRESS),
                lambda fd: _link(_EGRESS, BAD_FD, fd),
                errno.EBADF,
            ),
        ),  # af6eea57437a
        "tcx": Feature(
            "tcx links on network interfaces",
            "6.6",
            trials.with_program(_PASS, lambda fd: _link(AttachType.BPF_TCX_INGRESS, 0x7FFFFFFF, fd), errno.ENODEV),
        ),  # e420bed02507
        "iter": Feature(
            "BPF iterators", "5.8", trials.command(BpfCmd.BPF_ITER_CREATE, attr.LinkFd(link_fd=BAD_FD))
        ),  # ac51d99bf81c
        "prog_query": Feature(
            "BPF_PROG_QUERY",
            "4.15",
            trials.command(BpfCmd.BPF_PROG_QUERY, attr.ProgQuery(target_fd=BAD_FD, attach_type=_EGRESS)),
        ),  # 468e2f64d220
        "prog_query_flags": Feature(
            "attach flags of each program in BPF_PROG_QUERY",
            "6.0",
            trials.command(
                BpfCmd.BPF_PROG_QUERY,
                attr.ProgQuery(target_fd=BAD_FD, attach_type=_EGRESS, prog_attach_flags=1),
            ),
        ),  # b79c9fc9551b
        "test_run_ctx": Feature(
            "BPF_PROG_TEST_RUN with a struct __sk_buff", "5.2", trials.with_program(_PASS, _run_with_context)
        ),  # b0b9395d865e
        # Loading programs
        "prog_name": Feature(
            "program names", "4.15", trials.program(Attempt(_SOCKET_FILTER, trials.returns(0), name=b"probe"))
        ),  # cb4d2b3f03d8
        "expected_attach_type": Feature(
            "expected_attach_type",
            "4.17",
            trials.program(
                Attempt(
                    ProgType.BPF_PROG_TYPE_CGROUP_SOCK,
                    trials.returns(1),
                    AttachType.BPF_CGROUP_INET_SOCK_CREATE,
                )
            ),
        ),  # 5e43f899b03a; CGROUP_SOCK, because its one older attach type is number 2 and not 0
        "core_relos": Feature(
            "CO-RE relocations done by the kernel",
            "5.17",
            trials.program(Attempt(_SOCKET_FILTER, trials.returns(0), core_relo_rec_size=16)),
        ),  # fbd94c7afcf9; the field alone: an older kernel insists that it is zero
        "global_data": Feature("global variables", "5.2", trials.map_value),  # d8eca5bbb2be
        "atomics": Feature(
            "atomic operations that fetch, and compare-and-exchange",
            "5.12",
            trials.program(Attempt(_SOCKET_FILTER, _COMPARE_EXCHANGE)),
        ),  # 5ffa25502b5a
        "memcg_accounting": Feature(
            "charging BPF memory to cgroups instead of RLIMIT_MEMLOCK",
            "5.11",
            trials.helper(160, _SOCKET_FILTER),
        ),  # 97306be45fbe; seen by bpf_ktime_get_coarse_ns, of the same release, as nothing shows it itself
        # Program types and where they attach
        "cgroup_skb": Feature(
            "cgroup_skb programs",
            "4.10",
            trials.program(Attempt(ProgType.BPF_PROG_TYPE_CGROUP_SKB, trials.returns(1))),
        ),  # 0e33661de493
        "egress_congestion": Feature(
            "cgroup_skb/egress programs that return 2 or 3",
            "5.3",
            trials.program(Attempt(ProgType.BPF_PROG_TYPE_CGROUP_SKB, trials.returns(2), _EGRESS)),
        ),  # 5cf1e9145630
        "cgroup_sock": Feature(
            "cgroup/sock programs",
            "4.10",
            trials.program(Attempt(ProgType.BPF_PROG_TYPE_CGROUP_SOCK, trials.returns(1))),
        ),  # 610236587600
        "sock_ops": Feature(
            "sock_ops programs",
            "4.13",
            trials.program(Attempt(ProgType.BPF_PROG_TYPE_SOCK_OPS, trials.returns(1))),
        ),  # 40304b2a1567
        "tp_btf": Feature(
            "tracepoints with BTF",
            "5.5",
            trials.program(
                Attempt(_TRACING, trials.returns(0), AttachType.BPF_TRACE_RAW_TP, _FORK),
            ),
        ),  # f1b9509c2fb0
        "iter_task_file": Feature(
            "the BPF iterator task_file",
            "5.8",
            trials.program(Attempt(_TRACING, trials.returns(0), _ITER, _TASK_FILE)),
        ),  # eaaacd23910f
        "iter_tcp": Feature(
            "the BPF iterator tcp", "5.9", trials.program(Attempt(_TRACING, trials.returns(0), _ITER, _TCP))
        ),
        # Helpers, by number in include/uapi/linux/bpf.h
        "iter_tcp_setsockopt": Feature(
            "bpf_setsockopt in the BPF iterator tcp", "5.15", trials.helper(49, _TRACING, _ITER, _TCP)
        ),  # 3cee6fb8e69e
        "sock_from_file": Feature(
            "bpf_sock_from_file", "5.11", trials.helper(162, _TRACING, _ITER, _TASK_FILE)
        ),  # 4f19cab76136
        "sk_storage_iter": Feature(
            "bpf_sk_storage_get in BPF iterators", "5.11", trials.helper(107, _TRACING, _ITER, _TASK_FILE)
        ),  # a50a85e40c59
        "sk_storage_tp_btf": Feature(
            "bpf_sk_storage_get in tracepoints with BTF",
            "5.11",
            trials.helper(107, _TRACING, AttachType.BPF_TRACE_RAW_TP, _FORK),
        ),  # 8e4597c627fb
        "bpf_loop": Feature("bpf_loop", "5.17", trials.helper(181, ProgType.BPF_PROG_TYPE_SCHED_CLS)),  # e6f2dd0f8067
        "bpf_cookie": Feature(
            "bpf_get_attach_cookie", "5.15", trials.helper(174, ProgType.BPF_PROG_TYPE_TRACEPOINT)
        ),  # 7adfc6c9b315
        "skb_ecn_set_ce": Feature(
            "bpf_skb_ecn_set_ce", "5.1", trials.helper(97, ProgType.BPF_PROG_TYPE_CGROUP_SKB)
        ),  # f7c917ba11a6
        "ktime_get_boot_ns": Feature(
            "bpf_ktime_get_boot_ns", "5.8", trials.helper(125, _SOCKET_FILTER)
        ),  # 71d19214776e
        # Maps
        "map_name": Feature(
            "map names", "4.15", trials.map_type(MapType.BPF_MAP_TYPE_ARRAY, 4, 4, 1, name=b"probe")
        ),  # ad5b177bd73f
        "mmapable_array": Feature(
            "arrays in user memory",
            "5.5",
            trials.map_type(MapType.BPF_MAP_TYPE_ARRAY, 4, 8, 1, MapFlag.BPF_F_MMAPABLE),
        ),  # fc9702273e2e
        "ringbuf": Feature(
            "ring buffers",
            "5.8",
            trials.map_type(MapType.BPF_MAP_TYPE_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE")),
        ),  # 457f44363a88
        "sk_storage": Feature(
            "socket storage",
            "5.2",
            trials.typed_map(MapType.BPF_MAP_TYPE_SK_STORAGE, MapFlag.BPF_F_NO_PREALLOC),
        ),  # 6ac99e8f23d4
        "sk_storage_clone": Feature(
            "socket storage that accepted sockets inherit",
            "5.4",
            trials.typed_map(MapType.BPF_MAP_TYPE_SK_STORAGE, MapFlag.BPF_F_NO_PREALLOC | MapFlag.BPF_F_CLONE),
        ),  # 8f51dfc73bf1
        # BTF
        "btf": Feature("BTF", "4.18", trials.btf()),  # 69b693f0aefa
        "btf_func": Feature(
            "functions in BTF",
            "5.0",
            trials.btf(
                trials.btf_type(BtfKind.BTF_KIND_FUNC_PROTO, 1, 1, 1, 1, name=0),
                trials.btf_type(BtfKind.BTF_KIND_FUNC, 0, 2),
            ),
        ),  # 2667a2626f4d
        "btf_func_global": Feature(
            "global functions in BTF",
            "5.6",
            trials.btf(
                trials.btf_type(BtfKind.BTF_KIND_FUNC_PROTO, 1, 1, 1, 1, name=0),
                trials.btf_type(BtfKind.BTF_KIND_FUNC, 1, 2),
            ),
        ),  # 51c39bb1d5d1
        "btf_datasec": Feature(
            "variables and sections in BTF",
            "5.2",
            trials.btf(
                trials.btf_type(BtfKind.BTF_KIND_VAR, 0, 1, 0),
                trials.btf_type(BtfKind.BTF_KIND_DATASEC, 1, 4, 2, 0, 4),
            ),
        ),  # 1dc92851849c
        "btf_float": Feature(
            "floating-point types in BTF", "5.13", trials.btf(trials.btf_type(BtfKind.BTF_KIND_FLOAT, 0, 4))
        ),  # b1828f0b0482
        "btf_decl_tag": Feature(
            "declaration tags in BTF",
            "5.16",
            trials.btf(
                trials.btf_type(BtfKind.BTF_KIND_VAR, 0, 1, 0),
                trials.btf_type(BtfKind.BTF_KIND_DECL_TAG, 0, 2, 0xFFFFFFFF),
            ),
        ),  # b5ea834dde6b
        "btf_type_tag": Feature(
            "type tags in BTF",
            "5.17",
            trials.btf(
                trials.btf_type(BtfKind.BTF_KIND_TYPE_TAG, 0, 1),
                trials.btf_type(BtfKind.BTF_KIND_PTR, 0, 2, name=0),
            ),
        ),  # 8c42d2fa4eea
        "btf_enum64": Feature(
            "64-bit enumerations in BTF", "6.0", trials.btf(trials.btf_type(BtfKind.BTF_KIND_ENUM64, 0, 8))
        ),  # 6089fb325cf7
    }
)

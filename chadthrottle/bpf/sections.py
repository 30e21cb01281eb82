"""Section names: what kind of program a `SEC("…")` declares.

The vocabulary is the one libbpf documents (docs.kernel.org/bpf/libbpf/program_types.html), so that
an object written for it means the same here.
"""

from typing import NamedTuple

from chadthrottle.bpf.constants import AttachType as A
from chadthrottle.bpf.constants import ProgFlag, ProgType

__all__ = ["Section", "parse_section"]


class Section(NamedTuple):
    """A parsed program section name."""

    type: ProgType
    expected_attach_type: A | None
    attach_to: str
    flags: int
    autoload: bool


_SLEEPABLE = int(ProgFlag.BPF_F_SLEEPABLE)
_FRAGS = int(ProgFlag.BPF_F_XDP_HAS_FRAGS)
_P = ProgType

# Names that stand alone.
_EXACT: dict[str, tuple[ProgType, A | None, int]] = {
    "socket": (_P.BPF_PROG_TYPE_SOCKET_FILTER, None, 0),
    "sk_reuseport": (_P.BPF_PROG_TYPE_SK_REUSEPORT, A.BPF_SK_REUSEPORT_SELECT, 0),
    "sk_reuseport/migrate": (
        _P.BPF_PROG_TYPE_SK_REUSEPORT,
        A.BPF_SK_REUSEPORT_SELECT_OR_MIGRATE,
        0,
    ),
    "tc": (_P.BPF_PROG_TYPE_SCHED_CLS, None, 0),
    "classifier": (_P.BPF_PROG_TYPE_SCHED_CLS, None, 0),
    "action": (_P.BPF_PROG_TYPE_SCHED_ACT, None, 0),
    "tc/ingress": (_P.BPF_PROG_TYPE_SCHED_CLS, A.BPF_TCX_INGRESS, 0),
    "tc/egress": (_P.BPF_PROG_TYPE_SCHED_CLS, A.BPF_TCX_EGRESS, 0),
    "tcx/ingress": (_P.BPF_PROG_TYPE_SCHED_CLS, A.BPF_TCX_INGRESS, 0),
    "tcx/egress": (_P.BPF_PROG_TYPE_SCHED_CLS, A.BPF_TCX_EGRESS, 0),
    "netkit/primary": (_P.BPF_PROG_TYPE_SCHED_CLS, A.BPF_NETKIT_PRIMARY, 0),
    "netkit/peer": (_P.BPF_PROG_TYPE_SCHED_CLS, A.BPF_NETKIT_PEER, 0),
    "syscall": (_P.BPF_PROG_TYPE_SYSCALL, None, _SLEEPABLE),
    "xdp": (_P.BPF_PROG_TYPE_XDP, A.BPF_XDP, 0),
    "xdp/devmap": (_P.BPF_PROG_TYPE_XDP, A.BPF_XDP_DEVMAP, 0),
    "xdp/cpumap": (_P.BPF_PROG_TYPE_XDP, A.BPF_XDP_CPUMAP, 0),
    "xdp.frags": (_P.BPF_PROG_TYPE_XDP, A.BPF_XDP, _FRAGS),
    "xdp.frags/devmap": (_P.BPF_PROG_TYPE_XDP, A.BPF_XDP_DEVMAP, _FRAGS),
    "xdp.frags/cpumap": (_P.BPF_PROG_TYPE_XDP, A.BPF_XDP_CPUMAP, _FRAGS),
    "perf_event": (_P.BPF_PROG_TYPE_PERF_EVENT, None, 0),
    "lwt_in": (_P.BPF_PROG_TYPE_LWT_IN, None, 0),
    "lwt_out": (_P.BPF_PROG_TYPE_LWT_OUT, None, 0),
    "lwt_xmit": (_P.BPF_PROG_TYPE_LWT_XMIT, None, 0),
    "lwt_seg6local": (_P.BPF_PROG_TYPE_LWT_SEG6LOCAL, None, 0),
    "sockops": (_P.BPF_PROG_TYPE_SOCK_OPS, A.BPF_CGROUP_SOCK_OPS, 0),
    "sk_skb": (_P.BPF_PROG_TYPE_SK_SKB, None, 0),
    "sk_skb/stream_parser": (_P.BPF_PROG_TYPE_SK_SKB, A.BPF_SK_SKB_STREAM_PARSER, 0),
    "sk_skb/stream_verdict": (_P.BPF_PROG_TYPE_SK_SKB, A.BPF_SK_SKB_STREAM_VERDICT, 0),
    "sk_skb/verdict": (_P.BPF_PROG_TYPE_SK_SKB, A.BPF_SK_SKB_VERDICT, 0),
    "sk_msg": (_P.BPF_PROG_TYPE_SK_MSG, A.BPF_SK_MSG_VERDICT, 0),
    "lirc_mode2": (_P.BPF_PROG_TYPE_LIRC_MODE2, A.BPF_LIRC_MODE2, 0),
    "flow_dissector": (_P.BPF_PROG_TYPE_FLOW_DISSECTOR, A.BPF_FLOW_DISSECTOR, 0),
    "sk_lookup": (_P.BPF_PROG_TYPE_SK_LOOKUP, A.BPF_SK_LOOKUP, 0),
    "netfilter": (_P.BPF_PROG_TYPE_NETFILTER, A.BPF_NETFILTER, 0),
    "cgroup_skb/ingress": (_P.BPF_PROG_TYPE_CGROUP_SKB, A.BPF_CGROUP_INET_INGRESS, 0),
    "cgroup_skb/egress": (_P.BPF_PROG_TYPE_CGROUP_SKB, A.BPF_CGROUP_INET_EGRESS, 0),
    "cgroup/skb": (_P.BPF_PROG_TYPE_CGROUP_SKB, None, 0),
    "cgroup/sock": (_P.BPF_PROG_TYPE_CGROUP_SOCK, A.BPF_CGROUP_INET_SOCK_CREATE, 0),
    "cgroup/sock_create": (_P.BPF_PROG_TYPE_CGROUP_SOCK, A.BPF_CGROUP_INET_SOCK_CREATE, 0),
    "cgroup/sock_release": (_P.BPF_PROG_TYPE_CGROUP_SOCK, A.BPF_CGROUP_INET_SOCK_RELEASE, 0),
    "cgroup/post_bind4": (_P.BPF_PROG_TYPE_CGROUP_SOCK, A.BPF_CGROUP_INET4_POST_BIND, 0),
    "cgroup/post_bind6": (_P.BPF_PROG_TYPE_CGROUP_SOCK, A.BPF_CGROUP_INET6_POST_BIND, 0),
    "cgroup/sysctl": (_P.BPF_PROG_TYPE_CGROUP_SYSCTL, A.BPF_CGROUP_SYSCTL, 0),
    "cgroup/getsockopt": (_P.BPF_PROG_TYPE_CGROUP_SOCKOPT, A.BPF_CGROUP_GETSOCKOPT, 0),
    "cgroup/setsockopt": (_P.BPF_PROG_TYPE_CGROUP_SOCKOPT, A.BPF_CGROUP_SETSOCKOPT, 0),
    "cgroup/dev": (_P.BPF_PROG_TYPE_CGROUP_DEVICE, A.BPF_CGROUP_DEVICE, 0),
}

# The cgroup address hooks come per family; the attach type's name follows from both.
for _hook, _pattern in {
    "bind": "BPF_CGROUP_INET{}_BIND",
    "connect": "BPF_CGROUP_INET{}_CONNECT",
    "sendmsg": "BPF_CGROUP_UDP{}_SENDMSG",
    "recvmsg": "BPF_CGROUP_UDP{}_RECVMSG",
    "getpeername": "BPF_CGROUP_INET{}_GETPEERNAME",
    "getsockname": "BPF_CGROUP_INET{}_GETSOCKNAME",
}.items():
    for _family in ("4", "6"):
        _attach = A[_pattern.format(_family)]
        _EXACT[f"cgroup/{_hook}{_family}"] = (_P.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, _attach, 0)
    if _hook != "bind":
        _attach = A[f"BPF_CGROUP_UNIX_{_hook.upper()}"]
        _EXACT[f"cgroup/{_hook}_unix"] = (_P.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, _attach, 0)

# Names followed by `/target`, or alone. A trailing `.s` makes the program sleepable, where the
# third column allows it.
_WITH_TARGET: dict[str, tuple[ProgType, A | None, bool]] = {
    "kprobe": (_P.BPF_PROG_TYPE_KPROBE, None, False),
    "kretprobe": (_P.BPF_PROG_TYPE_KPROBE, None, False),
    "uprobe": (_P.BPF_PROG_TYPE_KPROBE, None, True),
    "uretprobe": (_P.BPF_PROG_TYPE_KPROBE, None, True),
    "kprobe.multi": (_P.BPF_PROG_TYPE_KPROBE, A.BPF_TRACE_KPROBE_MULTI, False),
    "kretprobe.multi": (_P.BPF_PROG_TYPE_KPROBE, A.BPF_TRACE_KPROBE_MULTI, False),
    "kprobe.session": (_P.BPF_PROG_TYPE_KPROBE, A.BPF_TRACE_KPROBE_SESSION, False),
    "uprobe.multi": (_P.BPF_PROG_TYPE_KPROBE, A.BPF_TRACE_UPROBE_MULTI, True),
    "uretprobe.multi": (_P.BPF_PROG_TYPE_KPROBE, A.BPF_TRACE_UPROBE_MULTI, True),
    "uprobe.session": (_P.BPF_PROG_TYPE_KPROBE, A.BPF_TRACE_UPROBE_SESSION, True),
    "ksyscall": (_P.BPF_PROG_TYPE_KPROBE, None, False),
    "kretsyscall": (_P.BPF_PROG_TYPE_KPROBE, None, False),
    "usdt": (_P.BPF_PROG_TYPE_KPROBE, None, True),
    "tracepoint": (_P.BPF_PROG_TYPE_TRACEPOINT, None, True),
    "tp": (_P.BPF_PROG_TYPE_TRACEPOINT, None, True),
    "raw_tracepoint": (_P.BPF_PROG_TYPE_RAW_TRACEPOINT, None, True),
    "raw_tp": (_P.BPF_PROG_TYPE_RAW_TRACEPOINT, None, True),
    "raw_tracepoint.w": (_P.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, None, False),
    "raw_tp.w": (_P.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, None, False),
    "tp_btf": (_P.BPF_PROG_TYPE_TRACING, A.BPF_TRACE_RAW_TP, True),
    "fentry": (_P.BPF_PROG_TYPE_TRACING, A.BPF_TRACE_FENTRY, True),
    "fexit": (_P.BPF_PROG_TYPE_TRACING, A.BPF_TRACE_FEXIT, True),
    "fmod_ret": (_P.BPF_PROG_TYPE_TRACING, A.BPF_MODIFY_RETURN, True),
    "fsession": (_P.BPF_PROG_TYPE_TRACING, A.BPF_TRACE_FSESSION, True),
    "freplace": (_P.BPF_PROG_TYPE_EXT, None, False),
    "lsm": (_P.BPF_PROG_TYPE_LSM, A.BPF_LSM_MAC, True),
    "lsm_cgroup": (_P.BPF_PROG_TYPE_LSM, A.BPF_LSM_CGROUP, False),
    "iter": (_P.BPF_PROG_TYPE_TRACING, A.BPF_TRACE_ITER, True),
    "struct_ops": (_P.BPF_PROG_TYPE_STRUCT_OPS, None, True),
}


def parse_section(name: str) -> Section | None:
    """The program kind a section name declares; None for a name this vocabulary lacks."""
    autoload = not name.startswith("?")
    bare = name.removeprefix("?")
    exact = _EXACT.get(bare)
    if exact is not None:
        prog_type, attach, flags = exact
        return Section(prog_type, attach, "", flags, autoload)
    head, _, target = bare.partition("/")
    entry = _WITH_TARGET.get(head)
    if entry is not None:
        return Section(entry[0], entry[1], target, 0, autoload)
    entry = _WITH_TARGET.get(head.removesuffix(".s"))
    if entry is not None and head.endswith(".s") and entry[2]:
        return Section(entry[0], entry[1], target, _SLEEPABLE, autoload)
    return None

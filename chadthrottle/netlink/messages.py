"""rtnetlink messages for traffic control that pyroute2 lacks, or computes with floating point: declared, not encoded.

Layouts and names: include/uapi/linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

from pyroute2.netlink import (  # type: ignore[import-untyped]  # pyroute2 has no types
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    nla,
    nlmsg,
)
from pyroute2.netlink.rtnl import (  # type: ignore[import-untyped]
    RTM_DELQDISC,
    RTM_DELTCLASS,
    RTM_DELTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTCLASS,
    RTM_NEWTFILTER,
    TC_H_ROOT,
)

__all__ = [
    "CLSACT",
    "CLSACT_EGRESS",
    "CLSACT_INGRESS",
    "CLSACT_PARENT",
    "TC_H_ROOT",
    "Message",
    "add_clsact",
    "bpf_filter",
    "delete_class",
    "delete_filter",
    "delete_qdisc",
    "htb_class",
    "htb_root",
    "queue_of_the_newest",
    "splitting_queue",
]

CLSACT = 0xFFFF_0000
"""TC_H_CLSACT: the handle of every clsact, and of the older ingress qdisc."""
CLSACT_INGRESS, CLSACT_EGRESS = CLSACT | 0xFFF2, CLSACT | 0xFFF3
CLSACT_PARENT = 0xFFFF_FFF1

_REPLACE = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
_CREATE = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_DELETE = NLM_F_REQUEST | NLM_F_ACK

_ETH_P_ALL_BE = 0x0300  # htons(ETH_P_ALL), linux/if_ether.h
_TC_LINKLAYER_ETHERNET = 1  # said outright, the kernel asks for no rate tables
_TICK_NS = 64  # PSCHED_SHIFT of include/net/pkt_sched.h
_MOST_32 = 0xFFFF_FFFF

# struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate; tc_htb_opt: two of them, buffer, cbuffer,
# quantum, level, prio; tc_tbf_qopt: two of them, limit, buffer, mtu; tc_htb_glob; tc_fifo_qopt: limit; tc_gact: index,
# capab, action, refcnt, bindcnt; tc_mirred: the same, eaction, ifindex.
_RATESPEC = struct.Struct("=BBHhHI")
_HTB_OPT = struct.Struct("=5I")
_TBF_QOPT = struct.Struct("=3I")
_HTB_GLOB = struct.Struct("=5I")
_FIFO_QOPT = struct.Struct("=I")
_GACT = struct.Struct("=IIiii")
_MIRRED = struct.Struct("=IIiiiiI")

_TC_ACT_PIPE, _TC_ACT_STOLEN = 3, 4
_TCA_EGRESS_REDIR = 1


def _ratespec(bytes_per_s: int) -> bytes:
    return _RATESPEC.pack(0, _TC_LINKLAYER_ETHERNET, 0, 0, 0, min(bytes_per_s, _MOST_32))


# Messages in the making, and what pyroute2 decoded: it has no types.
Message: TypeAlias = Any


# Not a subclass of pyroute2's tcmsg: what that class has found out about its attributes, subclasses inherit.
class _Request(nlmsg):  # type: ignore[misc]
    prefix = "TCA_"
    fields = (
        ("family", "B"),
        ("pad1", "B"),
        ("pad2", "H"),
        ("index", "i"),
        ("handle", "I"),
        ("parent", "I"),
        ("info", "I"),
    )
    nla_map = (("TCA_UNSPEC", "none"), ("TCA_KIND", "asciiz"), ("TCA_OPTIONS", "options"))


class _Plain(_Request):
    class options(nla):  # type: ignore[misc]  # noqa: N801 # pyroute2 looks it up by that name
        pass


class _Fifo(_Request):
    nla_map = (("TCA_UNSPEC", "none"), ("TCA_KIND", "asciiz"), ("TCA_OPTIONS", "cdata"))


class _Htb(_Request):
    class options(nla):  # type: ignore[misc]   # noqa: N801
        nla_map = (
            ("TCA_HTB_UNSPEC", "none"),
            ("TCA_HTB_PARMS", "cdata"),
            ("TCA_HTB_INIT", "cdata"),
            ("TCA_HTB_CTAB", "hex"),
            ("TCA_HTB_RTAB", "hex"),
            ("TCA_HTB_DIRECT_QLEN", "uint32"),
            ("TCA_HTB_RATE64", "uint64"),
            ("TCA_HTB_CEIL64", "uint64"),
        )


class _Tbf(_Request):
    class options(nla):  # type: ignore[misc]  # noqa: N801
        nla_map = (
            ("TCA_TBF_UNSPEC", "none"),
            ("TCA_TBF_PARMS", "cdata"),
            ("TCA_TBF_RTAB", "hex"),
            ("TCA_TBF_PTAB", "hex"),
            ("TCA_TBF_RATE64", "uint64"),
            ("TCA_TBF_PRATE64", "uint64"),
            ("TCA_TBF_BURST", "uint32"),
        )


class _Bpf(_Request):
    class options(nla):  # type: ignore[misc]  # noqa: N801
        nla_map = (
            ("TCA_BPF_UNSPEC", "none"),
            ("TCA_BPF_ACT", "actions"),
            ("TCA_BPF_POLICE", "hex"),
            ("TCA_BPF_CLASSID", "uint32"),
            ("TCA_BPF_OPS_LEN", "uint16"),
            ("TCA_BPF_OPS", "hex"),
            ("TCA_BPF_FD", "uint32"),
            ("TCA_BPF_NAME", "asciiz"),
            ("TCA_BPF_FLAGS", "uint32"),
        )

        class actions(nla):  # type: ignore[misc]  # noqa: N801
            nla_map = (("TCA_ACT_PRIO_0", "none"), ("TCA_ACT_PRIO_1", "action"), ("TCA_ACT_PRIO_2", "action"))

            class action(nla):  # type: ignore[misc]  # noqa: N801
                nla_map = (
                    ("TCA_ACT_UNSPEC", "none"),
                    ("TCA_ACT_KIND", "asciiz"),
                    ("TCA_ACT_OPTIONS", "of_action"),
                )

                class of_action(nla):  # type: ignore[misc]  # noqa: N801
                    # As TCA_MIRRED_… and TCA_GACT_… have them.
                    nla_map = (("TCA_ACT_UNSPEC", "none"), ("TCA_ACT_TM", "hex"), ("TCA_ACT_PARMS", "cdata"))


def htb_root(ifindex: int, handle: int) -> Message:
    """An HTB, in place of whatever root qdisc the device has; what no class takes passes at once."""
    start = _HTB_GLOB.pack(3, 10, 0, 0, 0)  # version, rate2quantum, defcls, debug, direct_pkts
    return _message(_Htb, RTM_NEWQDISC, _REPLACE, ifindex, handle, TC_H_ROOT, "htb", [("TCA_HTB_INIT", start)])


def htb_class(
    ifindex: int,
    parent: int,
    handle: int,
    *,
    rate_bytes_per_s: int,
    ceil_bytes_per_s: int,
    burst_bytes: int,
    quantum_bytes: int,
    priority: int = 0,
) -> Message:
    """A class of an HTB, or its new rates. What it may send at once is `burst_bytes`."""
    buffers = (_ticks(burst_bytes, rate_bytes_per_s), _ticks(burst_bytes, ceil_bytes_per_s))
    parameters = _ratespec(rate_bytes_per_s) + _ratespec(ceil_bytes_per_s)
    parameters += _HTB_OPT.pack(*buffers, quantum_bytes, 0, priority)
    options = [
        ("TCA_HTB_PARMS", parameters),
        ("TCA_HTB_RATE64", rate_bytes_per_s),
        ("TCA_HTB_CEIL64", ceil_bytes_per_s),
    ]
    return _message(_Htb, RTM_NEWTCLASS, _REPLACE, ifindex, handle, parent, "htb", options)


def splitting_queue(ifindex: int, parent: int, handle: int, *, limit_bytes: int, segment_bytes: int) -> Message:
    """A tbf that holds nothing back: it takes GSO buffers apart, into segments of at most so many bytes, and drops
    what its limit has no room for. A packet that is longer by itself is dropped.
    """
    parameters = _ratespec(_MOST_32) + bytes(_RATESPEC.size) + _TBF_QOPT.pack(limit_bytes, 0, 0)
    # A rate at which no packet costs a nanosecond or two: tbf_dequeue() never waits.
    options = [("TCA_TBF_PARMS", parameters), ("TCA_TBF_RATE64", 1 << 40), ("TCA_TBF_BURST", segment_bytes)]
    return _message(_Tbf, RTM_NEWQDISC, _REPLACE, ifindex, handle, parent, "tbf", options)


def queue_of_the_newest(ifindex: int, parent: int, handle: int, *, limit_packets: int) -> Message:
    """A pfifo_head_drop: the oldest packet is dropped where there is no room for another."""
    options = _FIFO_QOPT.pack(limit_packets)
    return _message(_Fifo, RTM_NEWQDISC, _REPLACE, ifindex, handle, parent, "pfifo_head_drop", options)


def add_clsact(ifindex: int) -> Message:
    """The qdisc that filters of ingress and egress hang on. EEXIST if there is one."""
    return _message(_Plain, RTM_NEWQDISC, _CREATE, ifindex, CLSACT, CLSACT_PARENT, "clsact", None)


def bpf_filter(
    ifindex: int, parent: int, preference: int, handle: int, *, program_fd: int, name: str, redirect_to: int = 0
) -> Message:
    """A program as a filter for all protocols. With `redirect_to`, what it matches goes to that device's egress;
    without, it says itself what becomes of a packet. EEXIST if that place is taken.

    From ingress a copy goes, without the socket of a sender on this machine; from egress mirred sends one anyway.
    """
    options: list[tuple[str, object]] = [("TCA_BPF_FD", program_fd), ("TCA_BPF_NAME", name)]
    if redirect_to:
        copied = parent == CLSACT_INGRESS
        after = _TC_ACT_PIPE if copied else _TC_ACT_STOLEN
        actions = [_action("mirred", _MIRRED.pack(0, 0, after, 0, 0, _TCA_EGRESS_REDIR, redirect_to))]
        if copied:
            actions.append(_action("gact", _GACT.pack(0, 0, _TC_ACT_STOLEN, 0, 0)))
        numbered = [(f"TCA_ACT_PRIO_{number}", action) for number, action in enumerate(actions, 1)]
        options += [("TCA_BPF_CLASSID", 1), ("TCA_BPF_ACT", {"attrs": numbered})]
    else:
        options.append(("TCA_BPF_FLAGS", 1))  # TCA_BPF_FLAG_ACT_DIRECT
    message = _message(_Bpf, RTM_NEWTFILTER, _CREATE, ifindex, handle, parent, "bpf", options)
    message["info"] = preference << 16 | _ETH_P_ALL_BE
    return message


def _action(kind: str, parameters: bytes) -> Message:
    return {"attrs": [("TCA_ACT_KIND", kind), ("TCA_ACT_OPTIONS", {"attrs": [("TCA_ACT_PARMS", parameters)]})]}


def delete_filter(ifindex: int, parent: int, preference: int, handle: int) -> Message:
    """ENOENT if it is gone."""
    message = _message(_Plain, RTM_DELTFILTER, _DELETE, ifindex, handle, parent, "bpf", None)
    message["info"] = preference << 16 | _ETH_P_ALL_BE
    return message


def delete_class(ifindex: int, handle: int) -> Message:
    """With what is in it. ENOENT if it is gone."""
    return _message(_Plain, RTM_DELTCLASS, _DELETE, ifindex, handle, 0, None, None)


def delete_qdisc(ifindex: int, handle: int, parent: int) -> Message:
    """With all that hangs on it. ENOENT or EINVAL if it is gone."""
    return _message(_Plain, RTM_DELQDISC, _DELETE, ifindex, handle, parent, None, None)


def _message(
    kind_of_message: type[Any],
    message_type: int,
    flags: int,
    ifindex: int,
    handle: int,
    parent: int,
    kind: str | None,
    options: Sequence[tuple[str, object]] | bytes | None,
) -> Message:
    message = kind_of_message()
    message["header"]["type"], message["header"]["flags"] = message_type, flags
    message["index"], message["handle"], message["parent"] = ifindex, handle, parent
    message["attrs"] = [] if kind is None else [("TCA_KIND", kind)]
    if options is not None:
        plain = isinstance(options, bytes)
        message["attrs"].append(("TCA_OPTIONS", options if plain else {"attrs": list(options)}))
    return message


def _ticks(size_bytes: int, rate_bytes_per_s: int) -> int:
    return min(size_bytes * 1_000_000_000 // rate_bytes_per_s // _TICK_NS, _MOST_32)

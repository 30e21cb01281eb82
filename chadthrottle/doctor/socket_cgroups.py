"""Which cgroup each socket of a process belongs to, as sock_diag(7) tells (INET_DIAG_CGROUP_ID, Linux 5.8).

A socket keeps for life the cgroup it was made in, so that may be another than its process is in by now.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from chadthrottle.enforce.namespaces import namespaces_of

__all__ = ["cgroup_in", "sockets_of"]

# include/uapi/linux/netlink.h
_NETLINK_SOCK_DIAG = 4
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
# include/uapi/linux/sock_diag.h, inet_diag.h
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_CGROUP_ID = 21
# struct inet_diag_msg: family to retrans, struct inet_diag_sockid, then expires, rqueue, wqueue, uid and inode
_BYTES_OF_MESSAGE = 72
_INODE_AT = 68
_BYTES_OF_HEADER = 16  # struct nlmsghdr
_PATIENCE_S = 1.0


def sockets_of(pid: int) -> dict[int, int]:
    """The cgroup's id of each TCP and UDP socket that process `pid` has open, by the socket's inode; 0: not told.

    Those in the network namespace that the process is in now. Raises OSError.
    """
    wanted = set(_inodes(pid))
    if not wanted:
        return {}
    found: dict[int, int] = {}

    def look() -> None:
        for family in socket.AF_INET, socket.AF_INET6:
            for protocol in socket.IPPROTO_TCP, socket.IPPROTO_UDP:
                found.update((inode, number) for inode, number in _dump(family, protocol) if inode in wanted)

    with namespaces_of([pid]) as namespaces:
        namespaces.each(look)
    return found


def _inodes(pid: int) -> Iterator[int]:
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115 # there may be thousands
            if target.startswith("socket:["):
                yield int(target[8:-1])


def _dump(family: int, protocol: int) -> Iterator[tuple[int, int]]:
    """(inode, cgroup id) of every socket of this network namespace."""
    # struct inet_diag_req_v2: family, protocol, ext, pad, states, and a sockid of zeros
    body = struct.pack("=BBBBI48x", family, protocol, 0, 0, 0xFFFF_FFFF)
    flags = _NLM_F_REQUEST | _NLM_F_DUMP
    request = struct.pack("=IHHII", _BYTES_OF_HEADER + len(body), _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(_PATIENCE_S)
        asking.sendto(request, (0, 0))
        while True:
            data, at = asking.recv(1 << 17), 0
            while at + _BYTES_OF_HEADER <= len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                message = data[at + _BYTES_OF_HEADER : at + length]
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", message)[0]
                    raise OSError(number, os.strerror(number))
                yield struct.unpack_from("=I", message, _INODE_AT)[0], cgroup_in(message)
                at += max(length, _BYTES_OF_HEADER) + 3 & ~3


def cgroup_in(message: bytes) -> int:
    """The attribute INET_DIAG_CGROUP_ID behind a struct inet_diag_msg; 0 where there is none."""
    at = _BYTES_OF_MESSAGE
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _INET_DIAG_CGROUP_ID and length == 12 and at + length <= len(message):
            return int(struct.unpack_from("=Q", message, at + 4)[0])
        at += max(length, 4) + 3 & ~3
    return 0

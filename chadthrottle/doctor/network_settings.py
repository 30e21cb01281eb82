"""Settings of the network that change how a limit feels. None of them keeps one from holding."""

import array
import errno
import fcntl
import socket
import struct
from pathlib import Path

from chadthrottle.bpf.errors import errno_name
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import lack_of_root
from chadthrottle.doctor.finding import Group, Outcome, ok, unknown, warning

__all__ = ["ECN", "JIT", "OFFLOADS", "about_jit"]

_SIOCETHTOOL = 0x8946  # include/uapi/linux/sockios.h
# include/uapi/linux/ethtool.h
_ETHTOOL_GTSO, _ETHTOOL_GGSO, _ETHTOOL_GFLAGS, _ETHTOOL_GGRO = 0x1E, 0x23, 0x25, 0x2B
_ETH_FLAG_LRO = 1 << 15
_SHOWN = 4


def _ecn(_context: Context) -> Outcome:
    try:
        value = Path("/proc/sys/net/ipv4/tcp_ecn").read_text(encoding="ascii").strip()
    except OSError as error:
        return unknown("net.ipv4.tcp_ecn cannot be read", came_back=errno_name(error.errno or 0))
    meaning = {
        "0": "never: what is too fast is dropped",
        "1": "asked for: what is too fast is marked where the peer agrees, and dropped elsewhere",
        "2": "when the peer asks: those connections are marked, the others lose packets",
    }
    return ok(f"net.ipv4.tcp_ecn is {value}, {meaning.get(value, 'as the peer asks or more')}")


def _offloads(_context: Context) -> Outcome:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        lines = [line for _, name in socket.if_nameindex() if name != "lo" for line in _of_device(asking, name)]
    if not lines:
        return ok("no device but the loopback here")
    shown = "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
    return ok(f"{shown}: limits count each packet that is joined", details=tuple(lines))


def _of_device(asking: socket.socket, name: str) -> list[str]:
    features = {"TSO": _ETHTOOL_GTSO, "GSO": _ETHTOOL_GGSO, "GRO": _ETHTOOL_GGRO}
    on = [label for label, command in features.items() if _ethtool(asking, name, command)]
    if _ethtool(asking, name, _ETHTOOL_GFLAGS) & _ETH_FLAG_LRO:
        on.append("LRO")
    return [f"{name}: {', '.join(on) or 'none'}"]


def _ethtool(asking: socket.socket, name: str, command: int) -> int:
    """struct ethtool_value's data; 0 when the device does not know the question."""
    value = array.array("I", (command, 0))
    address, _ = value.buffer_info()
    try:
        fcntl.ioctl(asking, _SIOCETHTOOL, struct.pack("16sP", name.encode()[:15], address).ljust(40, b"\0"))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODEV, errno.EPERM, errno.EINVAL):
            return 0
        raise
    return value[1]


def _jit(context: Context) -> Outcome:
    path = Path("/proc/sys/net/core/bpf_jit_enable")
    try:
        return about_jit(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        # It is the machine's: other network namespaces do not show it, nor do kernels without a JIT.
        return unknown("net.core.bpf_jit_enable is not shown here", tried=f"reading {path}", came_back="ENOENT")
    except OSError as error:
        return unknown(
            "net.core.bpf_jit_enable cannot be read",
            came_back=errno_name(error.errno or 0),
            because=lack_of_root(context),
        )


def about_jit(value: str) -> Outcome:
    """What net.core.bpf_jit_enable says."""
    if value != "0":
        return ok(f"net.core.bpf_jit_enable is {value}: programs run as machine code")
    return warning(
        "net.core.bpf_jit_enable is 0: programs are interpreted",
        tried="reading /proc/sys/net/core/bpf_jit_enable",
        came_back="0",
        means="each packet costs several times as much as it needs to; limits hold all the same",
        cure=("sudo sysctl -w net.core.bpf_jit_enable=1",),
    )


ECN = Check("CT-SYS-14", Group.SYSTEM, "ECN", _ecn)
OFFLOADS = Check("CT-SYS-15", Group.SYSTEM, "offloads", _offloads)
JIT = Check("CT-SYS-16", Group.SYSTEM, "BPF's compiler (JIT)", _jit)

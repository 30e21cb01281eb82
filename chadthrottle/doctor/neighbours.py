"""Who else is at work on this machine's cgroups and packets. None of them is in the way of a limit by being there.

Nothing is started to find that out, for a daemon that hangs would hang us: their sockets, files and processes are
looked at, and the kernel is asked for its tables.
"""

import os
import re
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from chadthrottle.bpf.errors import errno_name
from chadthrottle.doctor.check import Check, Context
from chadthrottle.doctor.consequences import lack_of_root
from chadthrottle.doctor.finding import Group, Outcome, ok, unknown

__all__ = ["NEIGHBOURS", "enabled", "table_names", "version_of"]

_LIBRARIES = ("/usr/lib/systemd", "/lib/systemd", "/usr/lib64/systemd", "/usr/lib/*/systemd", "/lib/*/systemd")
_NETLINK_NETFILTER = 12  # include/uapi/linux/netlink.h
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
# include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETTABLE = 1
_NFTA_TABLE_NAME = 1


def _systemd(_context: Context) -> Outcome:
    if not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return ok("not the init system here")
    version = version_of(_file_names(_LIBRARIES, "libsystemd-shared-*.so"))
    return ok(f"active, version {version}" if version else "active; its version cannot be told")


def version_of(names: Iterable[str]) -> str:
    """From the name of its private library, libsystemd-shared-252.so; "" if there is none."""
    found = (re.fullmatch(r"libsystemd-shared-(.+)\.so", name) for name in names)
    return next((match[1] for match in found if match), "")


def _file_names(directories: Iterable[str], pattern: str) -> Iterable[str]:
    for directory in directories:
        yield from (path.name for path in Path("/").glob(f"{directory[1:]}/{pattern}"))


def _docker(context: Context) -> Outcome:
    return _daemon(context, ("dockerd", "podman", "containerd"))


def _firewalld(context: Context) -> Outcome:
    return _daemon(context, ("firewalld",))


def _daemon(context: Context, names: tuple[str, ...]) -> Outcome:
    """By the names of the processes that can be seen."""
    running = context.shared.setdefault("process_names", {}) or _process_names(context)
    found = [f"{name} (PID {running[name]})" for name in names if name in running]
    if found:
        return ok(f"active: {', '.join(found)}")
    if "" in running:
        return unknown("other users' processes are hidden", because=lack_of_root(context))
    return ok("not active, as far as can be seen from here")


def _process_names(context: Context) -> dict[str, int]:
    """The first PID of each name; the name "" stands for processes that are hidden (hidepid)."""
    names: dict[str, int] = {}
    for each in os.listdir("/proc"):
        if each.isdigit():
            with suppress(OSError), open(f"/proc/{each}/comm", encoding="utf-8", errors="replace") as comm:
                names.setdefault(comm.read().strip(), int(each))
    if not Path("/proc/1").exists():
        names[""] = 1
    context.shared["process_names"] = names
    return names


def _ufw(context: Context) -> Outcome:
    path = Path("/etc/ufw/ufw.conf")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ok("not installed")
    except OSError as error:
        return unknown(f"{path} cannot be read", came_back=errno_name(error.errno or 0), because=lack_of_root(context))
    return ok(f"active ({path}: ENABLED=yes)" if enabled(text) else f"not active ({path})")


def enabled(text: str) -> bool:
    """What ufw.conf says."""
    return re.search(r"^\s*ENABLED\s*=\s*\"?yes\b", text, re.MULTILINE | re.IGNORECASE) is not None


def _iptables(context: Context) -> Outcome:
    tables = []
    for family in "ip", "ip6":
        try:
            names = Path(f"/proc/net/{family}_tables_names").read_text(encoding="ascii").split()
        except FileNotFoundError:
            continue
        except OSError as error:
            return unknown(
                f"/proc/net/{family}_tables_names cannot be read",
                came_back=errno_name(error.errno or 0),
                because=lack_of_root(context),
            )
        tables += [f"{family} {name}" for name in names]
    if not tables:
        return ok("not active (the kernel has no table of it; iptables-nft shows as nftables)")
    return ok(f"active, with the tables {', '.join(tables)}")


def _nftables(context: Context) -> Outcome:
    if not _kernel_has_nftables():
        return ok("not active: the kernel has not loaded it")
    try:
        names = _nft_tables()
    except OSError as error:
        return unknown(
            "its tables cannot be read",
            tried="NFT_MSG_GETTABLE",
            came_back=errno_name(error.errno or 0),
            because=lack_of_root(context),
        )
    return ok(f"active, with the tables {', '.join(names)}" if names else "not active: it has no tables here")


def _kernel_has_nftables() -> bool:
    """Asking would load the module, and nothing is to be changed."""
    from chadthrottle.bpf.kconfig import running_kconfig
    from chadthrottle.errors import KernelCannotError

    if Path("/sys/module/nf_tables").exists():
        return True
    try:
        return running_kconfig().option("CONFIG_NF_TABLES") == "y"
    except KernelCannotError:
        return False


def _nft_tables() -> list[str]:
    """Of this network namespace. Raises OSError: EPERM without CAP_NET_ADMIN."""
    # struct nlmsghdr, struct nfgenmsg
    kind = _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETTABLE
    request = struct.pack("=IHHII", 20, kind, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + struct.pack("=BBH", 0, 0, 0)
    names: list[str] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as asking:
        asking.settimeout(1)
        asking.sendto(request, (0, 0))
        while True:
            data, done = asking.recv(1 << 16), False
            for kind, body in _messages(data):
                if kind == _NLMSG_ERROR and (number := -struct.unpack_from("=i", body)[0]):
                    raise OSError(number, os.strerror(number))
                done |= kind in (_NLMSG_ERROR, _NLMSG_DONE)
                if kind >> 8 == _NFNL_SUBSYS_NFTABLES:
                    names += table_names(body)
            if done:
                return names


def _messages(data: bytes) -> Iterable[tuple[int, bytes]]:
    """(type, what follows struct nlmsghdr) of each message."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16:
            return
        yield kind, data[at + 16 : at + length]
        at += length + 3 & ~3


def table_names(body: bytes) -> list[str]:
    """The table in a message of nf_tables: struct nfgenmsg, then attributes (struct nlattr)."""
    family = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}.get(body[0], str(body[0]))
    at, names = 4, []
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        if kind & 0x3FFF == _NFTA_TABLE_NAME:
            names.append(f"{family} {body[at + 4 : at + length].rstrip(bytes(1)).decode('utf-8', 'replace')}")
        at += length + 3 & ~3
    return names


def _check(number: str, what: str, run: Callable[[Context], Outcome]) -> Check:
    return Check(f"CT-SYS-{number}", Group.SYSTEM, what, run)


NEIGHBOURS = (
    _check("08", "systemd", _systemd),
    _check("09", "Docker and its like", _docker),
    _check("10", "firewalld", _firewalld),
    _check("11", "ufw", _ufw),
    _check("12", "nftables", _nftables),
    _check("13", "iptables", _iptables),
)

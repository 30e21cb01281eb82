"""Devices of a network namespace: made, given addresses, set up."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chadthrottle.netlink.errors import told
from chadthrottle.netlink.messages import Message
from chadthrottle.netlink.route import Route

__all__ = ["Device", "Links"]

_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8  # include/uapi/linux/if.h


@dataclass(frozen=True, slots=True)
class Device:
    """A network device of a namespace."""

    ifindex: int
    name: str
    kind: str
    """"ifb", "veth", "bridge", …; empty for hardware."""
    is_up: bool
    is_loopback: bool
    port_of: str
    """The kind of the device it is a port or slave of ("bridge", "bond", …); empty if of none."""
    mtu_bytes: int


class Links(Route):
    """The devices of a network namespace."""

    def add_veth(self, name: str, peer_pid: int) -> None:
        """A pair: this end here, the other, of the same name, in the namespace of process `peer_pid`.

        Born there: a namespace in between, with its rules for new devices, never sees it.
        """
        with told(f"make the veth {name}"):
            self._route.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_pid": peer_pid})

    def configure(self, name: str, addresses: tuple[str, ...]) -> None:
        """Give a device IPv4 addresses ("192.0.2.1/24") and set it up."""
        (index,) = self._route.link_lookup(ifname=name)
        for each in addresses:
            address, _, prefix = each.partition("/")
            with told(f"give {name} the address {each}"):
                self._route.addr("add", index=index, address=address, prefixlen=int(prefix))
        with told(f"set {name} up"):
            self._route.link("set", index=index, state="up")

    def devices(self) -> list[Device]:
        """All of the namespace."""
        with told("list the network devices"):
            return [_device(message) for message in self._route.get_links()]

    def add_ifb(self, name: str) -> int:
        """Make an IFB device; its index."""
        _load_ifb()
        with told(f"make the device {name} (ifb)"):
            self._route.link("add", ifname=name, kind="ifb")
        (index,) = self._route.link_lookup(ifname=name)
        return int(index)

    def set_up(self, ifindex: int) -> None:
        with told(f"set device {ifindex} up"):
            self._route.link("set", index=ifindex, state="up")

    def remove(self, ifindex: int) -> None:
        with told(f"remove device {ifindex}"):
            self._route.link("del", index=ifindex)


def _load_ifb() -> None:
    """A module `ifb` that the kernel loads for the first such device makes ifb0 and ifb1, too, in the machine's own
    namespace, and they stay. Where it is loaded or built in already, or cannot be loaded, nothing happens.
    """
    # Only here: a queue is made once, and subprocess costs as much as the rest of netlink.
    import subprocess

    with suppress(OSError):
        program = Path("/proc/sys/kernel/modprobe").read_text(encoding="utf-8").strip()
        if program:
            words = (program, "-q", "--", "ifb", "numifbs=0")
            subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _device(message: Message) -> Device:
    about = message.get_attr("IFLA_LINKINFO")
    flags = message["flags"]
    return Device(
        ifindex=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(about and about.get_attr("IFLA_INFO_KIND")) or "",
        is_up=bool(flags & _IFF_UP),
        is_loopback=bool(flags & _IFF_LOOPBACK),
        port_of=(about and about.get_attr("IFLA_INFO_SLAVE_KIND")) or "",
        mtu_bytes=message.get_attr("IFLA_MTU") or 0,
    )

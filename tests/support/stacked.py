"""Devices that stand on the veth between two namespaces: a packet passes both, and is to be charged once."""

from collections.abc import Callable

from pyroute2 import WireGuard  # type: ignore[import-untyped]  # it has no types

from tests.support.network import Endpoint
from tests.support.queued import download_from, ip, require_queued, require_rate, upload_to
from tests.support.throttled import Program, Scene

__all__ = ["ELSEWHERE", "HERE", "download_over", "upload_over"]

NETWORK = "10.213.11"
BOND_PORTS = ("veth0", "veth1")
WIREGUARD_PORT = 51820

# Made with `openssl genpkey -algorithm X25519` for this, each with its public half: nobody's secret.
_KEYS = {
    1: ("+DIP5iLirMgtqOTXNbFp0fLbY2sh6Vi8+/DaAI5shWY=", "/fr/kybIY8Yv+lIj03UjMUap9q+wz3G9uTrEbKB+BUI="),
    2: ("SGL2o8OmzcM9lJIK/ROVunNOHFHCFBcYqlPDzs0IF0k=", "Rwpqd0bO32nzAegGvk28J16rnExn2YJRKu/mXCY4MFg="),
}


def _over(kind: str, here: Endpoint, there: Endpoint) -> str:
    """Such a device at both ends; the address of the far one."""
    for endpoint, other in (here, there), (there, here):
        name = _KINDS[kind](endpoint, other)
        ip(endpoint, "address", "replace", f"{NETWORK}.{_host(endpoint)}/24", "dev", name)
        ip(endpoint, "link", "set", name, "up")
    return f"{NETWORK}.{_host(there)}"


def download_over(kind: str, stage: Scene) -> Program:
    """A running download through one, which is queued, all of it, and charged once."""
    host = _over(kind, stage.here, stage.peer.endpoint)
    program = stage.start()
    download_from(program, host)
    stage.throttle(program)
    require_queued(stage, program)
    return program


def upload_over(kind: str, stage: Scene) -> Program:
    """A running upload through one, charged once."""
    host = _over(kind, stage.here, stage.peer.endpoint)
    program = stage.start()
    upload_to(program, host)
    stage.throttle(program)
    require_rate(program.sent)
    return program


def _host(endpoint: Endpoint) -> int:
    return int(endpoint.ipv4.rsplit(".", 1)[1])


def _vlan(endpoint: Endpoint, _: Endpoint) -> str:
    return _vlan_on(endpoint, "veth0")


def _vlan_on(endpoint: Endpoint, below: str) -> str:
    ip(endpoint, "link", "add", "vlan5", "link", below, "type", "vlan", "id", "5")
    return "vlan5"


def _macvlan(endpoint: Endpoint, _: Endpoint) -> str:
    ip(endpoint, "link", "add", "mac0", "link", "veth0", "type", "macvlan", "mode", "bridge")
    return "mac0"


def _bond(endpoint: Endpoint, other: Endpoint) -> str:
    """Of BOND_PORTS, the second one made by the first end."""
    if _host(endpoint) < _host(other):
        name = BOND_PORTS[1]
        ip(endpoint, "link", "add", name, "type", "veth", "peer", "name", name, "netns", other.namespace)
    ip(endpoint, "link", "add", "bond0", "type", "bond", "mode", "active-backup", "miimon", "20")
    for name in BOND_PORTS:
        ip(endpoint, "link", "set", name, "down")
        ip(endpoint, "link", "set", name, "master", "bond0")
        ip(endpoint, "link", "set", name, "up")
    return "bond0"


def _vlan_on_bond(endpoint: Endpoint, other: Endpoint) -> str:
    ip(endpoint, "link", "set", _bond(endpoint, other), "up")
    return _vlan_on(endpoint, "bond0")


def _tunnel(kind: str) -> Callable[[Endpoint, Endpoint], str]:
    def make(endpoint: Endpoint, other: Endpoint) -> str:
        ip(endpoint, "link", "add", "tunnel5", "type", kind, "local", endpoint.ipv4, "remote", other.ipv4)
        return "tunnel5"

    return make


def _vxlan(endpoint: Endpoint, other: Endpoint) -> str:
    ends = ("local", endpoint.ipv4, "remote", other.ipv4)
    ip(endpoint, "link", "add", "vxlan5", "type", "vxlan", "id", "5", "dstport", "4789", *ends)
    return "vxlan5"


def _geneve(endpoint: Endpoint, other: Endpoint) -> str:
    ip(endpoint, "link", "add", "geneve5", "type", "geneve", "id", "5", "remote", other.ipv4)
    return "geneve5"


def _wireguard(endpoint: Endpoint, other: Endpoint) -> str:
    ip(endpoint, "link", "add", "wg0", "type", "wireguard")
    private, _ = _KEYS[_host(endpoint)]
    _, public = _KEYS[_host(other)]
    peer = {
        "public_key": public,
        "endpoint_addr": other.ipv4,
        "endpoint_port": WIREGUARD_PORT,
        "allowed_ips": [f"{NETWORK}.0/24"],
    }
    with endpoint.entered(), WireGuard() as socket:
        socket.set("wg0", private_key=private, listen_port=WIREGUARD_PORT, peer=peer)
    return "wg0"


_KINDS: dict[str, Callable[[Endpoint, Endpoint], str]] = {
    "vlan": _vlan,
    "macvlan": _macvlan,
    "bond": _bond,
    "vlan on bond": _vlan_on_bond,
    "gre": _tunnel("gre"),
    "gretap": _tunnel("gretap"),
    "ipip": _tunnel("ipip"),
    "vxlan": _vxlan,
    "geneve": _geneve,
    "wireguard": _wireguard,
}

HERE = ("macvlan", "vxlan")
"""What this project's machine has; Debian's kernels have all."""
ELSEWHERE = tuple(kind for kind in _KINDS if kind not in HERE)

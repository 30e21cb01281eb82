"""Devices of a network namespace: made, given addresses, set up."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

# Neither has types.
from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from chadthrottle.errors import KernelCannotError, NotPermittedError

__all__ = ["Links"]


class Links:
    """The devices of the network namespace that its maker is in. A context manager, which owns a socket.

    All raise NotPermittedError without CAP_NET_ADMIN over the namespace, else KernelCannotError.
    """

    def __init__(self) -> None:
        self._route = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._route.close()

    def add_veth(self, name: str, peer_pid: int) -> None:
        """A pair: this end here, the other, of the same name, in the namespace of process `peer_pid`.

        Born there: a namespace in between, with its rules for new devices, never sees it.
        """
        with _told(f"make the veth {name}"):
            self._route.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_pid": peer_pid})

    def configure(self, name: str, addresses: tuple[str, ...]) -> None:
        """Give a device IPv4 addresses ("192.0.2.1/24") and set it up."""
        (index,) = self._route.link_lookup(ifname=name)
        for each in addresses:
            address, _, prefix = each.partition("/")
            with _told(f"give {name} the address {each}"):
                self._route.addr("add", index=index, address=address, prefixlen=int(prefix))
        with _told(f"set {name} up"):
            self._route.link("set", index=index, state="up")


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        message = f"cannot {what}: {os.strerror(error.code)}"
        if error.code in (errno.EPERM, errno.EACCES):
            raise NotPermittedError(message, hint="It takes CAP_NET_ADMIN: run it with sudo.") from error
        raise KernelCannotError(message) from error

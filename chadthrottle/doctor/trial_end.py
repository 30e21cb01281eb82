"""One end of a trial's traffic, in a process of its own: a UDP socket that sends and hears packets of known sizes."""

import errno
import socket

__all__ = ["Talker"]

SO_MARK, SO_COOKIE = 36, 57  # include/uapi/asm-generic/socket.h; Python 3.11 names SO_MARK only
_HEADERS = 28
"""IPv4 and UDP, in bytes: sizes here are those of whole IP packets, as programs see them."""
_PATIENCE_S = 0.5
"""For a packet that something else keeps back: those that come take microseconds."""


class Talker:
    """Lives in a private network (enforce/private_network.py)."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def open(self, address: str, mark: int) -> list[int]:
        """A new socket, made in the cgroup this process is in now: its port and its cookie."""
        self.close()
        self._socket = made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        made.bind((address, 0))
        made.settimeout(_PATIENCE_S)
        cookie = int.from_bytes(made.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
        return [int(made.getsockname()[1]), cookie]

    def send(self, address: str, port: int, sizes: list[int]) -> list[str]:
        """One packet of each size; the names of the errors there were."""
        assert self._socket is not None
        errors = []
        for size in sizes:
            try:
                self._socket.sendto(bytes(size - _HEADERS), (address, port))
            except OSError as error:  # EPERM: a program on the cgroup answered 0
                errors.append(errno.errorcode.get(error.errno or 0, str(error)))
        return errors

    def hear(self, count: int) -> list[int]:
        """The sizes of the next packets, so many or as many as come."""
        assert self._socket is not None
        sizes: list[int] = []
        try:
            while len(sizes) < count:
                sizes.append(len(self._socket.recv(1 << 16)) + _HEADERS)
        except TimeoutError:
            pass
        return sizes

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

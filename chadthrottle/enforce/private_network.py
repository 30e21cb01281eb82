"""Two processes in network namespaces of their own, joined by a veth, that nobody else sees.

    this process ──orders──> near, far          children, forked; each in a namespace without a name
                             veth0 ══ veth0     made inside, never seen outside

A namespace lives as long as a process is in it, and the children are killed with the thread that made them
(PR_SET_PDEATHSIG): however this ends, kill -9 included, the kernel removes it all.
"""

import ctypes
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NoReturn

from chadthrottle.errors import ChadthrottleError, KernelCannotError, NotPermittedError
from chadthrottle.netlink import Links

__all__ = ["Inhabitant", "die_with", "private_network"]

CLONE_NEWNET = 0x4000_0000  # include/uapi/linux/sched.h
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_DEVICE = "veth0"


class Inhabitant:
    """A child that does as told: it calls methods of what `make` made in it, one after the other."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._channel, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._channel.close()
            _live(theirs, parent, make)
        theirs.close()
        self._lines = self._channel.makefile("rw", encoding="utf-8")

    def order(self, method: str, *arguments: object) -> None:
        """Have it begin; `answer` waits for the end."""
        with suppress(BrokenPipeError):  # it was killed: `answer` says so
            self._lines.write(json.dumps([method, *arguments]) + "\n")
            self._lines.flush()

    def answer(self) -> Any:  # noqa: ANN401 # what its method returned, as JSON carries it
        """Raises what the method raised: NotPermittedError, KernelCannotError, ChadthrottleError."""
        line = self._lines.readline()
        if not line:
            raise ChadthrottleError(f"process {self.pid}, which chadthrottle made for a transfer, was killed")
        answer = json.loads(line)
        if "failed" in answer:
            message, hint, status = answer["failed"]
            kinds: tuple[type[ChadthrottleError], ...] = (NotPermittedError, KernelCannotError)
            kind = next((each for each in kinds if each.exit_code == status), ChadthrottleError)
            raise kind(message, hint=hint)
        return answer["returned"]

    def ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 # as `answer`
        """`order` and `answer`."""
        self.order(method, *arguments)
        return self.answer()

    def end(self) -> None:
        """It is gone afterwards, whatever it was doing."""
        os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # a parent may leave us an ignored SIGCHLD, and children vanish unseen
            os.waitpid(self.pid, 0)
        with suppress(BrokenPipeError):
            self._lines.close()
        self._channel.close()


@contextmanager
def private_network(
    make: Callable[[], object], near: tuple[str, ...], far: tuple[str, ...]
) -> Iterator[tuple[Inhabitant, Inhabitant]]:
    """The two, each with what `make` made; `near` and `far` are their IPv4 addresses ("192.0.2.1/24").

    Not to be entered with the pins' lock held, which children would hold on to. Raises NotPermittedError,
    KernelCannotError.
    """
    with ExitStack() as stack:
        here, there = (stack.enter_context(_ended(Inhabitant(make))) for _ in range(2))
        for each in here, there:
            each.order("__move_out__")
        for each in here, there:
            each.answer()
        here.ask("__lay_cable__", there.pid)
        here.ask("__configure__", near)
        there.ask("__configure__", far)
        yield here, there


@contextmanager
def _ended(inhabitant: Inhabitant) -> Iterator[Inhabitant]:
    try:
        yield inhabitant
    finally:
        inhabitant.end()


def die_with(parent: int) -> None:
    """For a child: it is killed with the thread that forked it, in the process `parent`. Raises OSError."""
    _libc("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # killed before the line above
        os._exit(0)


def _live(channel: socket.socket, parent: int, make: Callable[[], object]) -> NoReturn:
    """The child's whole life; it never returns into what it was forked from."""
    try:
        die_with(parent)
        # A terminal sends Ctrl-C to all: our parent ends us then, we say nothing. The rest is for it to handle, too.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in signal.SIGTERM, signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
        lines = channel.makefile("rw", encoding="utf-8")
        resident = make()
        for line in lines:
            method, *arguments = json.loads(line)
            lines.write(json.dumps(_done(_HOUSEKEEPING.get(method) or getattr(resident, method), arguments)) + "\n")
            lines.flush()
    finally:
        os._exit(0)


def _done(action: Callable[..., object], arguments: list[Any]) -> dict[str, object]:
    try:
        return {"returned": action(*arguments)}
    except ChadthrottleError as error:
        return {"failed": [error.message, error.hint, error.exit_code]}
    except Exception as error:  # noqa: BLE001 # told by the parent
        return {"failed": [f"in a process that chadthrottle made for a transfer: {error!r}", None, 1]}


def _move_out() -> None:
    try:
        _libc("unshare", CLONE_NEWNET)
    except PermissionError as error:
        raise NotPermittedError(
            "cannot make a network namespace: EPERM", hint="It takes CAP_SYS_ADMIN: run it with sudo."
        ) from error
    except OSError as error:
        raise KernelCannotError(f"cannot make a network namespace: {error.strerror}") from error


def _lay_cable(peer_pid: int) -> None:
    with Links() as links:
        links.add_veth(_DEVICE, peer_pid)


def _configure(addresses: list[str]) -> None:
    with Links() as links:
        links.configure(_DEVICE, tuple(addresses))


_HOUSEKEEPING: dict[str, Callable[..., object]] = {
    "__move_out__": _move_out,
    "__lay_cable__": _lay_cable,
    "__configure__": _configure,
}


def _libc(name: str, *arguments: int) -> None:
    # os.unshare() came with Python 3.12; there is no os.prctl().
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*map(ctypes.c_ulong, arguments)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

"""A program for tests to limit: it does what it is told over a socket, line by line.

    python -m tests.support.driven PATH [CGROUP]
    python -m tests.support.driven

It connects to the socket at PATH, enters the cgroup, and executes or evaluates the Python it is sent, with this
module's functions and whatever earlier lines defined. What it forks, or executes, connects to PATH as well.
Without PATH it becomes such a program in a child for each line of JSON on standard input, in another network
namespace: that takes a tenth of Python's start.
"""

import array
import ctypes
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["main", "send_steadily"]

SYS_EXIT = {"x86_64": 60}.get(os.uname().machine, 93)  # exit(2) of this thread alone
IPPROTO_MPTCP = 262
BLOCK = bytes(1 << 16)
DATAGRAM_BYTES_PER_S = 12_000_000

path = sys.argv[1] if __name__ == "__main__" and sys.argv[1:] else ""
sockets: dict[str, socket.socket] = {}
counted: dict[str, int] = {}
for_main_thread: "queue.SimpleQueue[Callable[[], object]]" = queue.SimpleQueue()


def send_on(name: str) -> None:
    """Send without end, in a thread: datagrams at DATAGRAM_BYTES_PER_S, or their receiver gets no processor."""

    def send(data: bytes) -> None:
        counted[name] = counted.get(name, 0) + sockets[name].send(data)

    def loop() -> None:
        with suppress(OSError):
            if is_udp(name):
                send_steadily(lambda: send(BLOCK[:1400]), 1400)
            while True:
                send(BLOCK)

    threading.Thread(target=loop, daemon=True).start()


def send_steadily(send: Callable[[], object], size_bytes: int) -> None:
    """At DATAGRAM_BYTES_PER_S by the clock, for a sleep takes as long as it likes."""
    owed_bytes, last = 0.0, time.monotonic()
    while True:
        now = time.monotonic()
        # After a pause not all of it comes at once: no receive buffer holds it.
        owed_bytes, last = min(owed_bytes + (now - last) * DATAGRAM_BYTES_PER_S, 100_000), now
        while owed_bytes > 0:
            send()
            owed_bytes -= size_bytes
        time.sleep(0.0005)


def receive_on(name: str) -> None:
    """Receive without end, in a thread."""

    def loop() -> None:
        try:
            while received := sockets[name].recv(1 << 18):
                counted[name] = counted.get(name, 0) + len(received)
        except OSError:
            pass

    threading.Thread(target=loop, daemon=True).start()


def is_udp(name: str) -> bool:
    return sockets[name].type == socket.SOCK_DGRAM


def connect(name: str, family: int, kind: int, host: str, port: int, protocol: int = 0, before: str = "") -> None:
    """Make a socket and connect it; `before` sets it up, as `made`."""
    made = sockets[name] = socket.socket(family, kind, protocol)
    if before:
        exec(before)
    made.connect((host, port))


def listen(name: str, family: int, host: str, port: int, protocol: int = 0) -> None:
    made = sockets[name] = socket.socket(family, socket.SOCK_STREAM, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    made.listen()


def accept(listener: str, name: str) -> None:
    sockets[name], _ = sockets[listener].accept()


def fork() -> int:
    """The child connects as this process did; sockets are shared with it."""
    pid = os.fork()
    if pid == 0:
        counted.clear()
        serve()
        os._exit(0)
    return pid


def storm(seconds: float, threads: int = 3) -> None:
    """Fork children that fork one each and end, as fast as can be."""
    end = time.monotonic() + seconds

    def loop() -> None:
        while time.monotonic() < end:
            pid = os.fork()
            if pid == 0:
                if os.fork():
                    os._exit(0)
                os._exit(0)

    for _ in range(threads):
        threading.Thread(target=loop, daemon=True).start()


def execute(*names: str) -> None:
    """Become a new program by exec(2), from this thread, keeping these sockets."""
    kept = {name: sockets[name].fileno() for name in names}
    for fd in kept.values():
        os.set_inheritable(fd, True)
    os.execv(sys.executable, [sys.executable, "-m", "tests.support.driven", path, "", json.dumps(kept)])


def pass_on(name: str, to: str) -> None:
    """Hand a socket to whoever accepts on the UNIX socket `to`."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(to)
        descriptor = array.array("i", [sockets[name].fileno()])
        channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])


def take_over(name: str, at: str) -> None:
    """Receive a socket on the UNIX socket `at`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(at)
        listener.listen()
        channel, _ = listener.accept()
        with channel:
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    sockets[name] = socket.socket(fileno=descriptors[0])


def enter_namespace(name: str) -> None:
    """Be in another network namespace; this thread's new sockets are there."""
    from tests.support.network import CLONE_NEWNET, NAMESPACES

    with open(NAMESPACES / name, "rb") as namespace:
        assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0


def end_main_thread() -> None:
    """As pthread_exit(3) in main(): the process lives on in its other threads."""
    for_main_thread.put(lambda: ctypes.CDLL(None).syscall(SYS_EXIT, 0))


def serve() -> None:
    """Until the test hangs up."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(path)
        with channel.makefile("rw", encoding="utf-8") as lines:
            answer(lines, os.getpid())
            for line in lines:
                try:
                    answer(lines, run(json.loads(line)))
                except Exception:  # noqa: BLE001 # whatever it is, the test shows it
                    answer(lines, None, traceback.format_exc())


def serve_and_end() -> None:
    serve()
    os._exit(0)


def answer(lines: Any, value: Any, failed: str | None = None) -> None:
    lines.write(json.dumps({"value": value, "failed": failed}) + "\n")
    lines.flush()


def run(order: dict[str, str]) -> Any:
    if "evaluate" in order:
        return eval(order["evaluate"], globals())
    exec(order["execute"], globals())
    return None


def start_each() -> bool:
    """Fork a child for each line of standard input, which says where. True in the children, in the end False."""
    global path  # noqa: PLW0603 # once in a process, as by the command line
    import tests.support.network  # noqa: F401 # once, not in each child

    for line in sys.stdin:
        order = json.loads(line)
        if os.fork() == 0:
            path = order["path"]
            enter_namespace(order["namespace"])
            enter_cgroup(order["cgroup"])
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            return True
    return False


def enter_cgroup(cgroup: str) -> None:
    with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write("0")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if not path and not start_each():
        return
    if sys.argv[2:] and sys.argv[2]:
        enter_cgroup(sys.argv[2])
    for name, fd in json.loads(sys.argv[3] if sys.argv[3:] else "{}").items():
        sockets[name] = socket.socket(fileno=fd)
    # Not in the main thread, which a test may end.
    threading.Thread(target=serve_and_end).start()
    while True:
        for_main_thread.get()()


if __name__ == "__main__":
    main()

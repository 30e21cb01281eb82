"""Commands in children of a process that has imported what they need: the interpreter's start is half their time.

    python -m tests.support.forked

is such a process for the command line. A line of JSON on standard input is an order, a line on standard output the
answer: how the child ended, and how many seconds it ran.
"""

import ctypes
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["NEVER", "Ended", "Forker", "forker", "order", "serve"]

NEVER = 1_000_000
"""In seconds."""

ROOT = Path(__file__).parents[2]

CLONE_NEWNS = 0x0002_0000  # include/uapi/linux/sched.h
CLONE_NEWNET = 0x4000_0000
MS_REC = 0x4000  # include/uapi/linux/mount.h
MS_PRIVATE = 0x4_0000


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit status, or minus the signal, as of subprocess."""

    status: int
    ran_s: float


def serve(run: Callable[[dict[str, Any]], None]) -> None:
    """Until standard input ends. `run` gets an order, in a child, which is killed when its "after_s" are over."""
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run(asked)
                status = 0
            except BaseException:  # noqa: BLE001 # whatever it is, it is shown, and the parent's loop is not the child's
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(status)
        pidfd = os.pidfd_open(child)
        try:
            if not _ends(pidfd, asked["after_s"]):
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        finally:
            os.close(pidfd)
        print(os.waitstatus_to_exitcode(status), time.monotonic() - began, flush=True)


def _ends(pidfd: int, within_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(min(within_s, NEVER) * 1000))


def order(process: "subprocess.Popen[str]", what: Mapping[str, object]) -> Ended:
    """Have such a process run it, to its end."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps(what), file=process.stdin, flush=True)
    status, ran_s = process.stdout.readline().split()
    return Ended(int(status), float(ran_s))


class Forker:
    """Runs command lines."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(
        self, words: list[str], *, script: str, variables: Mapping[str, str], after_s: float
    ) -> tuple[Ended, str, str]:
        """In this thread's network namespace, and in a mount namespace of its own, once a shell has run the script in
        it. What it wrote on standard output and error, too.
        """
        with tempfile.TemporaryDirectory(prefix="ct-test-forked-") as name:
            out, err = Path(name) / "out", Path(name) / "err"
            what = {
                "words": words, "script": script, "variables": dict(variables), "after_s": after_s,
                "out": str(out), "err": str(err), "net": f"/proc/{os.getpid()}/task/{_thread()}/ns/net",
            }  # fmt: skip
            ended = order(self._process, what)
            return ended, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")


def _thread() -> int:
    return int(Path("/proc/thread-self").readlink().name)


@contextmanager
def forker() -> Iterator[Forker]:
    """To be entered in the machine's own namespaces: a test's would last as long as the process."""
    command = [sys.executable, "-m", "tests.support.forked"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Forker(process)
        finally:
            process.kill()


def _run(asked: dict[str, Any]) -> None:
    for number, flags, path in (
        (0, os.O_RDONLY, os.devnull),
        (1, os.O_WRONLY | os.O_CREAT, asked["out"]),
        (2, os.O_WRONLY | os.O_CREAT, asked["err"]),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(asked["variables"])
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(asked["net"]).open("rb") as net:
        _checked("setns", libc.setns(net.fileno(), CLONE_NEWNET))
    _checked("unshare", libc.unshare(CLONE_NEWNS))
    _checked("mount", libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    subprocess.run(["sh", "-c", asked["script"]], check=True)
    sys.argv = ["chadthrottle", *asked["words"]]
    # It ends the process.
    importlib.import_module("chadthrottle.__main__").program()


def _checked(name: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _main() -> None:
    package = importlib.import_module("chadthrottle")
    for each in pkgutil.walk_packages(package.__path__, "chadthrottle."):
        importlib.import_module(each.name)
    serve(_run)


if __name__ == "__main__":
    _main()

"""What happens, in its order, and what is said of it."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from chadthrottle.artifacts import check_fresh
from chadthrottle.errors import ChadthrottleError, NotPermittedError
from chadthrottle.units import format_measured_rate, parse_rate
from tools.demo import surroundings, traffic
from tools.demo.errors import DemoError, Stopped
from tools.demo.peers import CLIENT_ADDRESS, SERVER_ADDRESS, SIGNALS, Peer, connect

__all__ = ["DOWNLOAD", "UPLOAD", "Rates", "check_prerequisites", "main", "wrong_with"]

WIDTH = 80
UPLOAD, DOWNLOAD = "20mbit", "50mbit"
COMMAND = [sys.executable, "-m", "chadthrottle"]

# Of the limit, as payload, which is 1448 bytes of 1500 at best. Downloads are policed by dropping: what comes after
# a hole waits in the receiver and arrives at once when the hole is filled.
PAYLOAD = {"up": (0.85, 1.0), "down": (0.75, 1.1)}
# Unlimited is this many times the limit at least, before and after.
UNLIMITED = 4


@dataclass(frozen=True, slots=True)
class Rates:
    """Payload bytes per second, as the receiving ends counted them."""

    up: int
    down: int


def main() -> int:
    """Run the demo. Returns the exit status."""
    seconds = read_arguments()
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        check_prerequisites()
        with ExitStack() as undo:
            try:
                demonstrate(undo, seconds)
            finally:
                ignore_signals()  # undoing is not interrupted
        say("Removed", "the cgroup, both processes, their namespaces and the bpffs")
    except Stopped as stopped:
        print("stopped; all is undone", file=sys.stderr)
        return 128 + int(stopped.args[0])
    except ChadthrottleError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read_arguments() -> int:
    """How many seconds to measure."""
    parser = argparse.ArgumentParser(description="Limit a program that is running, on a transfer of its own.")
    parser.add_argument("--seconds", type=int, default=5, help="how long to measure the limited transfer (5)")
    seconds: int = parser.parse_args().seconds
    if seconds < 1:
        parser.error("--seconds must be at least 1")
    return seconds


def demonstrate(undo: ExitStack, seconds: int) -> None:
    """All that the demo does; `undo` takes it back."""
    print("chadthrottle demo: a program that is running, limited and released again\n", flush=True)
    undo.enter_context(surroundings.private_bpffs())
    root = surroundings.cgroup2_root()
    for name in surroundings.remove_leftovers(root):
        say("Cleared", f"{name}, left by a run that was killed")
    cgroup = undo.enter_context(surroundings.made_cgroup(root / f"{surroundings.CGROUP_PREFIX}{os.getpid()}"))
    server = undo.enter_context(Peer("demo-server", traffic.serve))
    client = undo.enter_context(Peer("demo-client", traffic.consume, cgroup))
    connect(client, server)
    say("Cgroup", str(cgroup))
    say("Processes", f"client {client.pid} in that cgroup, server {server.pid} outside;")
    say("", f"{CLIENT_ADDRESS} <-> {SERVER_ADDRESS}, a veth between two network namespaces")
    say("Transfer", "one connection up, one down, both without end; rates are payload")

    before = measured(client, server, 1)
    say("Before", f"{told(before)}\n")
    chadthrottle("throttle", str(client.pid), "--up", UPLOAD, "--down", DOWNLOAD, "--at", str(cgroup))
    time.sleep(1)
    during = verified(client, server, seconds)
    chadthrottle("list")
    chadthrottle("release", str(client.pid))
    time.sleep(0.5)
    after = measured(client, server, 1)
    say("After", told(after))

    wrong = wrong_with(before, during, after)
    if wrong:
        raise DemoError("that is not how it should be:\n  " + "\n  ".join(wrong))
    say("Checked", "limited by what arrived, too; unlimited before and after")


def measured(client: Peer, server: Peer, seconds: float) -> Rates:
    """What arrives in so many seconds."""
    first = [traffic.arrived(peer) for peer in (server, client)]
    time.sleep(seconds)
    return rates(client, server, first)


def verified(client: Peer, server: Peer, seconds: int) -> Rates:
    """`chadthrottle verify`, and what arrives meanwhile: a second opinion. Raises DemoError if it does not hold."""
    first = [traffic.arrived(peer) for peer in (server, client)]
    chadthrottle("verify", str(client.pid), "--duration", f"{seconds}s")
    during = rates(client, server, first)
    say("During", f"{told(during)}: payload at both ends\n")
    return during


def rates(client: Peer, server: Peer, first: list[traffic.Arrived]) -> Rates:
    """Since `first`, which has the server's before the client's."""
    return Rates(*(traffic.arrived(peer).rate_since(then) for peer, then in zip((server, client), first, strict=True)))


def wrong_with(before: Rates, during: Rates, after: Rates) -> list[str]:
    """What of the figures is not as promised; empty if all is well."""
    wrong = []
    for name, limit in ("up", parse_rate(UPLOAD)), ("down", parse_rate(DOWNLOAD)):
        for when, found in ("before", before), ("after", after):
            rate = getattr(found, name)
            if rate < UNLIMITED * limit:
                wrong.append(f"{name}: {format_measured_rate(rate)} {when}, although nothing limits it")
        rate = getattr(during, name)
        least, most = PAYLOAD[name]
        if not least * limit <= rate <= most * limit:
            wrong.append(f"{name}: {format_measured_rate(rate)} under a limit of {format_measured_rate(limit)}")
    return wrong


def told(found: Rates) -> str:
    """Both rates."""
    return f"{format_measured_rate(found.up)} up, {format_measured_rate(found.down)} down"


def chadthrottle(*words: str) -> None:
    """Show a command and what it says. Raises DemoError when it fails."""
    shown = f"$ chadthrottle {' '.join(words)}"
    if len(shown) > WIDTH:
        shown = shown.replace(" --at ", " \\\n      --at ")
    print(shown, flush=True)
    # It must not outlive us: its mount namespace, and with that the limit, would.
    command = ["setpriv", "--pdeathsig", "KILL", "--", *COMMAND, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.kill()
            raise
    print(out, flush=True)
    if process.returncode:
        raise DemoError(f"`chadthrottle {words[0]}` answered {process.returncode}\n{err.rstrip()}".rstrip())


# Around it


def check_prerequisites() -> None:
    """Raise what the user can do something about."""
    if os.geteuid() != 0:
        raise NotPermittedError(
            "the demo loads BPF programs and makes network namespaces: that takes root.",
            hint=f"Run: make demo (which asks sudo), or: sudo {sys.executable} -m tools.demo",
        )
    for program, package in ("ip", "iproute2"), ("nsenter", "util-linux"), ("setpriv", "util-linux"):
        if shutil.which(program) is None:
            hint = f"Install the package {package}: apt-get install {package}"
            raise DemoError(f"the program {program} is missing, or not in $PATH.", hint=hint)
    check_fresh("throttle")


def say(title: str, text: str) -> None:
    """A line of the account, at once: it says what has happened, also if the next step fails."""
    print(f"{title:10} {text}", flush=True)


def stop(number: int, _: FrameType | None) -> NoReturn:
    """Signal handler."""
    ignore_signals()
    raise Stopped(number)


def ignore_signals() -> None:
    """For the rest of this process's life."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

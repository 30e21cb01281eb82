"""What tests of queues look at: rates, the classes and filters that are there, and what the maps say of them."""

import math
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from chadthrottle.abi import ThrottleCount, ThrottleDirection
from chadthrottle.enforce.hooks import open_pinned, pins_of_this_version
from chadthrottle.enforce.queue import records
from chadthrottle.enforce.rules import all_rules
from chadthrottle.model import Engine
from tests.support.driven import send_steadily
from tests.support.network import Endpoint
from tests.support.patience import patient
from tests.support.rates import gets_faster, rate, rates
from tests.support.throttled import BLOCK, LIMIT, SINK, SOURCE, Program, Scene

__all__ = [
    "DEVICE",
    "QUEUED_LEAST",
    "QUEUED_MOST",
    "attached_devices",
    "classes",
    "counts",
    "datagrams",
    "download_beside_a_flood",
    "download_from",
    "goes_through_queue",
    "ip",
    "join",
    "links_pinned",
    "notes",
    "receive_datagrams",
    "recorded",
    "require_free",
    "require_limited",
    "require_queued",
    "require_queued_upload",
    "require_rate",
    "tc",
    "traffic_control",
    "unmatched_filter",
    "upload_to",
    "users_clsact",
]

DEVICE = "chadthrottle"

QUEUED_LEAST, QUEUED_MOST = 0.75 * LIMIT, 1.08 * LIMIT
"""Of payload: headers are 4.5 % of a segment."""


def require_rate(counter: Callable[[], int], least: float = QUEUED_LEAST, most: float = QUEUED_MOST) -> None:
    """In bytes/s; soon, for what was lost in the beginning is sent again, and until then nothing reaches a program."""
    deadline = time.monotonic() + patient(5)
    found: list[float] = []
    while not found or not least < found[-1] < most:
        assert time.monotonic() < deadline, f"not between {least} and {most}: {found}"
        found.append(rate(counter, 0.6))


def tc(endpoint: Endpoint, *words: str) -> str:
    done = subprocess.run(["tc", "-n", endpoint.namespace, *words], check=True, capture_output=True, text=True)
    return done.stdout


def ip(endpoint: Endpoint, *words: str) -> str:
    done = subprocess.run(["ip", "-n", endpoint.namespace, *words], check=True, capture_output=True, text=True)
    return done.stdout


def traffic_control(endpoint: Endpoint) -> str:
    """Every qdisc and filter there, and the devices' names: the same before and after, and nothing of ours is left."""
    names = [line.split(": ")[1].split("@")[0] for line in ip(endpoint, "-o", "link").splitlines()]
    filters = [tc(endpoint, "filter", "show", "dev", name, side) for name in names for side in ("ingress", "egress")]
    qdiscs = re.sub(r"direct_packets_stat \d+ ", "", tc(endpoint, "qdisc", "show"))
    return "\n".join([*names, qdiscs, *filters])


def users_clsact(endpoint: Endpoint) -> None:
    """With a filter, so that ours is one too."""
    tc(endpoint, "qdisc", "add", "dev", "veth0", "clsact")
    unmatched_filter(endpoint)


def unmatched_filter(endpoint: Endpoint) -> None:
    """On downloads; no packet here is of that protocol."""
    match = ("u32", "match", "ip", "protocol", "132", "0xff", "classid", "1:1")
    tc(endpoint, "filter", "add", "dev", "veth0", "ingress", "prio", "20", "protocol", "ip", *match)


def classes(endpoint: Endpoint) -> set[str]:
    """Of our HTB; each rule and direction has five."""
    shown = tc(endpoint, "class", "show", "dev", DEVICE)
    return {line.split()[2] for line in shown.splitlines() if line.startswith("class htb")}


def recorded(stage: Scene) -> list[records.Record]:
    """What the map `queues` says."""
    pins = pins_of_this_version(stage.base)
    with pins.lock(create=False), open_pinned(pins) as hooks:
        return records.read(hooks.queues)


def attached_devices(stage: Scene) -> set[int]:
    """Indices of those whose downloads a program of ours looks at."""
    down = 1 << ThrottleDirection.DOWN
    return {each.ifindex for each in recorded(stage) if each.by_link or each.by_filter & down}


def links_pinned(stage: Scene) -> set[str]:
    """The tcx links of queues."""
    return {path.name for path in stage.base.glob("*/links/queue-*")}


def notes(stage: Scene) -> list[str]:
    """Of list, but for what takes a newer kernel."""
    return [each for each in stage.listing().notes if "takes Linux" not in each]


def counts(
    stage: Scene, program: Program, direction: ThrottleDirection = ThrottleDirection.DOWN
) -> tuple[ThrottleCount, int]:
    """What the kernel has counted for a program's rule, and its queue's number."""
    pins = pins_of_this_version(stage.base)
    with pins.lock(create=False), open_pinned(pins) as hooks:
        rule = next(rule for rule in all_rules(hooks) if rule.leader.pid == program.pid)
        return rule.meter.count[direction], int(rule.rule.queue)


def goes_through_queue(
    stage: Scene, program: Program, direction: ThrottleDirection = ThrottleDirection.DOWN, seconds: float = 0.6
) -> float:
    """The part of what passes just now that comes through the queue. TCP that has lost all may be silent for long."""
    before, _ = counts(stage, program, direction)
    deadline = time.monotonic() + patient(10)
    while True:
        time.sleep(seconds)
        after, _ = counts(stage, program, direction)
        part = _queued_part(before, after)
        if not math.isnan(part):
            return part
        assert time.monotonic() < deadline, "nothing passes"


def _queued_part(before: ThrottleCount, after: ThrottleCount) -> float:
    """Of what passed in between; NaN if nothing did."""
    queued, policed = after.queued_bytes - before.queued_bytes, after.policed_bytes - before.policed_bytes
    return queued / (queued + policed) if queued or policed else math.nan


def require_queued(stage: Scene, program: Program, name: str = "down") -> None:
    """A download is held to LIMIT, by the queue alone; soon, as in require_rate()."""
    _require_queued(stage, program, lambda: program.received(name), ThrottleDirection.DOWN, 1)


def require_queued_upload(stage: Scene, program: Program) -> None:
    """But for some packets whose class is not known."""
    _require_queued(stage, program, program.sent, ThrottleDirection.UP, 0.95)


def _require_queued(
    stage: Scene, program: Program, counter: Callable[[], int], direction: ThrottleDirection, least_part: float
) -> None:
    before = after = counts(stage, program, direction)[0]

    def looked_at() -> int:
        nonlocal before, after
        before, after = after, counts(stage, program, direction)[0]
        return counter()

    require_rate(looked_at)
    part = _queued_part(before, after)
    if not part >= least_part:  # the stretch that had the rate may have begun before all was settled
        part = goes_through_queue(stage, program, direction)
    assert part >= least_part


def require_free(program: Program, within_s: float = 3) -> None:
    assert gets_faster(program.received, 3 * LIMIT, within_s, seconds=0.2)


def require_limited(stage: Scene, program: Program, name: str = "down") -> None:
    """By whatever means; and it goes on."""
    require_rate(lambda: int(counts(stage, program)[0].passed_bytes), 0.3 * LIMIT, 1.2 * LIMIT)
    assert gets_faster(lambda: program.received(name), 0.2 * LIMIT, 3)


def download_from(program: Program, host: str, name: str = "down") -> None:
    """Without end, from the peer by another of its addresses."""
    program.do(f"connect({name!r}, socket.AF_INET, socket.SOCK_STREAM, {host!r}, {SOURCE})")
    program.do(f"receive_on({name!r})")


def upload_to(program: Program, host: str, name: str = "up") -> None:
    """Without end, to the peer by another of its addresses."""
    program.do(f"connect({name!r}, socket.AF_INET, socket.SOCK_STREAM, {host!r}, {SINK})")
    program.do(f"send_on({name!r})")


def join(here: Endpoint, there: Endpoint, name: str, network: int) -> str:
    """Another veth between the two, 10.213.`network`.1 and .2; the second address."""
    ip(here, "link", "add", name, "type", "veth", "peer", "name", name, "netns", there.namespace)
    for endpoint, host in (here, 1), (there, 2):
        ip(endpoint, "address", "add", f"10.213.{network}.{host}/24", "dev", name)
        ip(endpoint, "link", "set", name, "up")
    return f"10.213.{network}.2"


def receive_datagrams(program: Program, name: str, port: int, *, connected_to: tuple[str, int] | None = None) -> None:
    """Without end, each one's age in `ages`: it begins with the time when it was sent."""
    program.do(
        f"""
sockets[{name!r}] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sockets[{name!r}].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
sockets[{name!r}].bind(("", {port}))
if {connected_to!r}:
    sockets[{name!r}].connect({connected_to!r})
if "ages" not in globals():
    ages = {{}}
ages[{name!r}] = []

def take():
    with suppress(OSError):
        while data := sockets[{name!r}].recv(1 << 16):
            counted[{name!r}] = counted.get({name!r}, 0) + len(data)
            ages[{name!r}].append(time.monotonic() - float(data[:32].rstrip(b"\\0")))

threading.Thread(target=take, daemon=True).start()
"""
    )


@contextmanager
def datagrams(
    there: Endpoint, source_port: int, to: tuple[str, int], size_bytes: int, pause_s: float = 0
) -> Iterator[None]:
    """Sent as long as this lasts: at twelve times LIMIT, or one each `pause_s`."""
    import socket

    with there.entered():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("", source_port))
    made.connect(to)
    ended = threading.Event()

    def send() -> None:
        if ended.is_set():
            raise OSError
        with suppress(ConnectionRefusedError):
            made.send(f"{time.monotonic():.9f}".encode().ljust(32, b"\0") + BLOCK[: size_bytes - 32])

    def loop() -> None:
        with suppress(OSError):
            if not pause_s:
                send_steadily(send, size_bytes)
            while True:
                send()
                time.sleep(pause_s)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        made.close()


def download_beside_a_flood(stage: Scene, engine: Engine) -> tuple[float, float]:
    """TCP beside twelve times the limit by UDP, which does not slow down; bytes/s of the two, the flood's first."""
    program = stage.start()
    receive_datagrams(program, "flood", 6000)
    program.busy_download("stream")
    stage.throttle(program, up=None, engine=engine)
    with datagrams(stage.peer.endpoint, 6100, (stage.here.ipv4, 6000), 1200):
        time.sleep(1.5)
        flood, stream = rates(lambda: program.received("flood"), lambda: program.received("stream"), seconds=3)
    return flood, stream

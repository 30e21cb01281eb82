"""Hooks on the cgroup2 root, the default: only who is limited notices, whatever goes wrong in there.

At the root the programs see the traffic that keeps this machine reachable. Only programs of the test, in namespaces of
the test, are ever limited, and before anything is attached there a dead man's switch stands: a process in a session of
its own that removes the limits after 20 s, or when the test dies, whatever the test does. That it works is tried in a
leaf cgroup first. Faults that could make a packet a victim are tried in a leaf cgroup only.
"""

import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from chadthrottle import cgroup, limits
from chadthrottle.abi import ThrottleDirection, ThrottleMeter, ThrottleProcess, ThrottleRule
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.constants import AttachType
from chadthrottle.bpf.query import AttachedProgram, query_cgroup
from chadthrottle.enforce.hooks import Hooks, open_pinned, pins_of_this_version
from chadthrottle.enforce.rules import Rule, all_rules
from chadthrottle.limits import Throttled
from chadthrottle.model import AttachPoint, ProcessIdentity, RuleSpec
from chadthrottle.procs import read_stat
from tests.support import raw_programs as raw
from tests.support.bpffs import mount_bpffs, unmount_bpffs
from tests.support.cgroups import make_cgroup, remove_cgroup
from tests.support.command import Command
from tests.support.network import Endpoint
from tests.support.objects import built_objects
from tests.support.patience import patient
from tests.support.rates import gets_faster, rates, within
from tests.support.throttled import LIMIT, PROJECT, SINK, Program, Scene, scene

UP, DOWN = ThrottleDirection.UP, ThrottleDirection.DOWN
HOOKS = (
    AttachType.BPF_CGROUP_INET_EGRESS,
    AttachType.BPF_CGROUP_INET_INGRESS,
    AttachType.BPF_CGROUP_INET_SOCK_CREATE,
    AttachType.BPF_CGROUP_SOCK_OPS,
)
NONE_OF_OURS: dict[AttachType, tuple[AttachedProgram, ...]] = dict.fromkeys(HOOKS[2:], ())
NOBODYS_RULE = 4711
"""Rule ids are nanoseconds since boot: this one was over before anything ran."""

SWITCH_AFTER_S = 20

SWITCH = """if True:
    import os, select, signal, sys
    from pathlib import Path
    from chadthrottle import limits

    base, seconds = Path(sys.argv[1]), float(sys.argv[2])
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)
    print("ready", flush=True)
    if select.select([sys.stdin], [], [], seconds)[0] and os.read(0, 1):
        sys.exit(0)
    try:
        limits.release(None, base=base)
    except BaseException:
        # Whatever is wrong with them: without their pins the links are gone.
        for directory, _, names in os.walk(base):
            for name in names:
                Path(directory, name).unlink()
        raise
    sys.exit(3)
"""


class Switch:
    """Unless told `off`, or closed by its owner's death, it acts in time. Its status says whether it had to."""

    ACTED = 3

    def __init__(self, base: Path, after_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SWITCH, str(base), str(after_s)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def let_go(self) -> None:
        """As when the test dies."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def off(self) -> int:
        """Its status: 0 if it never had to act."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # it has acted
                os.write(self._process.stdin.fileno(), b"x")
        return self.wait()

    def wait(self) -> int:
        status = self._process.wait(patient(SWITCH_AFTER_S + 10))
        for end in self._process.stdin, self._process.stdout:
            if end is not None:
                end.close()
        return status


@contextmanager
def dead_mans_switch(base: Path, after_s: float = SWITCH_AFTER_S) -> Iterator[Switch]:
    switch = Switch(base, after_s)
    try:
        yield switch
    finally:
        status = switch.off()
    assert status == 0, f"the dead man's switch had to act (status {status})"


def prove_switch(leaf: Path, bpffs: Path, let_go: bool) -> None:
    """In a leaf cgroup, with a limit on a process that sleeps."""
    base = bpffs / "chadthrottle"
    switch = Switch(base, SWITCH_AFTER_S if let_go else 0.7)
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            limits.throttle(sleeper(process.pid, AttachPoint(str(leaf))), base)
            assert [rule.process.pid for rule in limits.listing(base).rules] == [process.pid]
            if let_go:
                switch.let_go()
            assert switch.wait() == Switch.ACTED
            assert not base.exists()
            eventually(lambda: not any(attached(leaf).values()))
        finally:
            process.kill()
            switch.off()
            limits.release(None, base=base)


@pytest.fixture(scope="module")
def proven_switch(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is attached to the root by a test whose dead man's switch was not seen to work just before."""
    built_objects("throttle")
    bpffs = tmp_path_factory.mktemp("switch")
    leaf = make_cgroup(cgroup.root())
    mount_bpffs(bpffs)
    try:
        prove_switch(leaf, bpffs, let_go=False)
        prove_switch(leaf, bpffs, let_go=True)
    finally:
        unmount_bpffs(bpffs)
        remove_cgroup(leaf)


@pytest.fixture
def root(bpffs: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The cgroup2 root, guarded: what is attached there by a test goes with the test, and what was there stays."""
    request.getfixturevalue("proven_switch")  # here, when this test has the machine for itself
    directory = cgroup.root()
    assert directory.stat().st_ino == cgroup.ROOT_INODE
    before = attached(directory)
    with dead_mans_switch(bpffs / "chadthrottle"):
        yield directory
    # On the way out of what the test set up, limits have ended already: this is for when they have not.
    limits.release(None, base=bpffs / "chadthrottle")
    eventually(lambda: attached(directory) == before)


@dataclass
class Stage:
    """A scene whose limits sit at the root."""

    scene: Scene

    def throttle(self, program: Program, up: int | None = LIMIT, down: int | None = LIMIT) -> Throttled:
        spec = replace(self.scene.spec(program.pid, up, down), at=AttachPoint.ROOT)
        return limits.throttle(spec, self.scene.base)


def sleeper(pid: int, at: AttachPoint) -> RuleSpec:
    stat = read_stat(pid)
    assert stat is not None
    return RuleSpec(process=ProcessIdentity(pid, stat.start_ticks, stat.name), rate_up_bytes_per_s=LIMIT, at=at)


def attached(directory: Path) -> dict[AttachType, tuple[AttachedProgram, ...]]:
    """What sits on a cgroup's hooks that we use, in order."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return {hook: query_cgroup(fd, hook).programs for hook in HOOKS}
    finally:
        os.close(fd)


def assert_limited(*counters: Callable[[], int]) -> None:
    """Each of them by a limit of its own, and each moves."""
    before = [counter() for counter in counters]
    if max(rates(*counters, seconds=0.5)) >= 1.6 * LIMIT:  # TCP hands out at once what waited for a lost segment
        assert max(rates(*counters)) < 1.6 * LIMIT
    # A policed download may wait for a retransmission, and on a busy machine for a while.
    eventually(lambda: all(counter() > was for counter, was in zip(counters, before, strict=True)))


def is_unlimited(counter: Callable[[], int]) -> bool:
    return gets_faster(counter, 5 * LIMIT, 3, seconds=0.2)


@contextmanager
def maps_of(base: Path) -> Iterator[tuple[Hooks, Rule]]:
    """The maps, and the only rule there is."""
    pins = pins_of_this_version(base)
    with pins.lock(create=False), open_pinned(pins) as hooks:
        (rule,) = all_rules(hooks)
        yield hooks, rule


# The switch


@pytest.mark.parametrize("let_go", [False, True], ids=["in time", "when the test dies"])
def test_the_switch_ends_limits(let_go: bool, leaf_cgroup: Path, bpffs: Path) -> None:
    built_objects("throttle")
    prove_switch(leaf_cgroup, bpffs, let_go)


def test_the_switch_removes_what_it_cannot_release(leaf_cgroup: Path, bpffs: Path) -> None:
    """Here because a file of nobody's lies between the pins."""
    base = bpffs / "chadthrottle"
    switch = Switch(base, SWITCH_AFTER_S)
    try:
        limits.throttle(sleeper(os.getpid(), AttachPoint(str(leaf_cgroup))), base)
        (base / "foreign").mkdir()
        switch.let_go()
        assert switch.wait() not in (0, Switch.ACTED)
        eventually(lambda: not any(attached(leaf_cgroup).values()))
    finally:
        switch.off()


# Who is limited, and who is not


@pytest.mark.parametrize("place", ["root", "leaf"])
def test_only_the_program_is_limited(
    place: str, root: Path, netns_pair: tuple[Endpoint, Endpoint], leaf_cgroup: Path, bpffs: Path
) -> None:
    """Wherever it lives; its neighbour in the same cgroup is not."""
    with scene(netns_pair, root if place == "root" else leaf_cgroup, bpffs) as made:
        program, neighbour = made.start(), made.start()
        for each in program, neighbour:
            each.busy_upload()
            each.busy_download()
        done = Stage(made).throttle(program)
        assert done.state.at == AttachPoint.ROOT
        assert [len(programs) for programs in attached(root).values()] == [1, 1, 1, 1]
        time.sleep(0.3)
        assert_limited(program.sent, program.received)
        assert is_unlimited(neighbour.sent)
        assert is_unlimited(neighbour.received)
        made.release(program)
        assert is_unlimited(program.sent)


def test_untagged_traffic_is_untouched(root: Path, netns_pair: tuple[Endpoint, Endpoint], bpffs: Path) -> None:
    """Each datagram arrives, and nothing is counted: over the veth, and over loopback."""
    with scene(netns_pair, root, bpffs) as made:
        limited, other = made.start(), made.start()
        Stage(made).throttle(limited, up=1000, down=1000)
        everything_arrives(other, made)
        assert looped_datagrams_arrived(other) == DATAGRAMS * 1200
        other.do("listen('listener', socket.AF_INET, '127.0.0.1', 7000)")
        other.do("connect('looped', socket.AF_INET, socket.SOCK_STREAM, '127.0.0.1', 7000); accept('listener', 'end')")
        other.do("receive_on('end'); sockets['looped'].sendall(bytes(5_000_000))")
        eventually(lambda: other.received("end") == 5_000_000)
        with maps_of(made.base) as (_, rule):
            for direction in ThrottleDirection:
                count = rule.meter.count[direction]
                assert (count.passed_packets, count.dropped_packets, count.marked_packets) == (0, 0, 0)
        # What is asked of the other holds for this one: it is limited to 1 kB/s.
        everything_arrives_not(limited, made)


def test_loopback_of_the_limited_is_untouched(root: Path, netns_pair: tuple[Endpoint, Endpoint], bpffs: Path) -> None:
    with scene(netns_pair, root, bpffs) as made:
        program = made.start()
        Stage(made).throttle(program, up=1000, down=1000)
        for family, host in ("socket.AF_INET", "127.0.0.1"), ("socket.AF_INET6", "::1"):
            program.do(f"listen('listener', {family}, {host!r}, 7000)")
            program.do(f"connect('looped', {family}, socket.SOCK_STREAM, {host!r}, 7000); accept('listener', 'end')")
            program.do("counted.clear(); receive_on('end'); sockets['looped'].sendall(bytes(5_000_000))")
            eventually(lambda: program.received("end") == 5_000_000)
        with maps_of(made.base) as (_, rule):
            assert rule.meter.count[UP].passed_packets == rule.meter.count[DOWN].passed_packets == 0


def everything_arrives(program: Program, made: Scene) -> None:
    """All of 300 datagrams, and soon all of 5 MB by TCP."""
    assert datagrams_arrived(program, made) == DATAGRAMS * 1200
    program.connect("bulk", SINK)
    before = program.sent("bulk")
    program.do("sockets['bulk'].sendall(bytes(5_000_000))")
    eventually(lambda: program.sent("bulk") - before == 5_000_000)


def everything_arrives_not(program: Program, made: Scene) -> None:
    assert datagrams_arrived(program, made) < DATAGRAMS * 1200


DATAGRAMS = 300
ROOM = 1 << 22
SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h


def datagrams_arrived(program: Program, made: Scene) -> int:
    """Bytes of those sent; with room for all of them, so that none is lost but by a hook."""
    with made.peer.endpoint.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        sink.bind((made.peer.endpoint.ipv4, 0))
        program.connect("datagrams", sink.getsockname()[1], udp=True)
        program.do(f"for _ in range({DATAGRAMS}): sockets['datagrams'].send(bytes(1200))")
        sink.settimeout(0.3)
        arrived = 0
        with suppress(TimeoutError):
            while arrived < DATAGRAMS * 1200:
                arrived += len(sink.recv(2048))
    return arrived


def looped_datagrams_arrived(program: Program) -> int:
    program.do("sockets['here'] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)")
    program.do(f"sockets['here'].setsockopt(socket.SOL_SOCKET, {SO_RCVBUFFORCE}, {ROOM})")
    program.do("sockets['here'].bind(('::1', 7002)); receive_on('here')")
    program.do("connect('there', socket.AF_INET6, socket.SOCK_DGRAM, '::1', 7002)")
    program.do(f"for _ in range({DATAGRAMS}): sockets['there'].send(bytes(1200))")
    eventually(lambda: program.received("here") == DATAGRAMS * 1200)
    return program.received("here")


def eventually(condition: Callable[[], object]) -> None:
    """Within seconds: the kernel detaches a link whose pin is removed in a worker of its own, just after."""
    assert within(5, condition)


# An error inside is a pass


def change_rule(hooks: Hooks, rule: Rule, change: Callable[[ThrottleRule], None]) -> None:
    changed = ThrottleRule.from_buffer_copy(bytes(rule.rule))
    change(changed)
    hooks.rules.update(key_of(rule), bytes(changed))


def key_of(rule: Rule) -> bytes:
    return bytes(ctypes.c_uint64(rule.id))


def rates_of(bytes_per_s: int | None = None, burst_ns: int | None = None) -> Callable[[Hooks, Rule], None]:
    """A fault: values no command writes, in both directions."""

    def change(rule: ThrottleRule) -> None:
        for direction in ThrottleDirection:
            if bytes_per_s is not None:
                rule.rate[direction].bytes_per_s = bytes_per_s
            if burst_ns is not None:
                rule.rate[direction].burst_ns = burst_ns

    return lambda hooks, rule: change_rule(hooks, rule, change)


def expire(hooks: Hooks, rule: Rule) -> None:
    def change(rule: ThrottleRule) -> None:
        rule.expires_ns = 1

    change_rule(hooks, rule, change)


def reassign(hooks: Hooks, rule: Rule) -> None:
    """Its process, and with the next use its sockets, belong to a rule that there is not."""
    for key, value in list(hooks.processes.items()):
        process = ThrottleProcess.from_buffer_copy(value)
        if process.rule == rule.id:
            process.rule = NOBODYS_RULE
            hooks.processes.update(key, bytes(process))


MISSING: dict[str, Callable[[Hooks, Rule], object]] = {
    "the rule is missing": lambda hooks, rule: hooks.rules.delete(key_of(rule)),
    "the meter is missing": lambda hooks, rule: hooks.meters.delete(key_of(rule)),
    "a tag without a rule": reassign,
}
GARBAGE: dict[str, Callable[[Hooks, Rule], object]] = {
    "expired": expire,
    "no rates": rates_of(0),
    "no burst": rates_of(burst_ns=0),
    "a burst that overflows": rates_of(burst_ns=1 << 56),
    "the largest burst": rates_of(burst_ns=(1 << 64) - 1),
    "a rate that overflows": rates_of(1 << 54),
    "the largest rate": rates_of((1 << 64) - 1),
}


def unlimited_after(fault: Callable[[Hooks, Rule], object], made: Scene, throttle: Callable[[Program], object]) -> None:
    """The fault comes while a limited program sends and receives: it goes on without a limit, and loses nothing."""
    program = made.start()
    program.busy_upload()
    program.busy_download()
    throttle(program)
    time.sleep(0.2)
    with maps_of(made.base) as (hooks, rule):
        fault(hooks, rule)
    assert is_unlimited(program.sent)
    assert is_unlimited(program.received)
    dropped = dropped_packets(made, rule)
    assert datagrams_arrived(program, made) == DATAGRAMS * 1200
    assert dropped_packets(made, rule) == dropped
    assert limits.release(None, base=made.base).hooks_removed


def dropped_packets(made: Scene, rule: Rule) -> list[int] | None:
    pins = pins_of_this_version(made.base)
    with pins.lock(create=False), open_pinned(pins) as hooks:
        value = hooks.meters.lookup(key_of(rule))
    return None if value is None else [each.dropped_packets for each in ThrottleMeter.from_buffer_copy(value).count]


@pytest.mark.parametrize("fault", MISSING | GARBAGE)
def test_an_error_inside_is_a_pass(
    fault: str, netns_pair: tuple[Endpoint, Endpoint], leaf_cgroup: Path, bpffs: Path
) -> None:
    with scene(netns_pair, leaf_cgroup, bpffs) as made:
        unlimited_after((MISSING | GARBAGE)[fault], made, made.throttle)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("fault", MISSING)
def test_what_is_missing_at_the_root_is_a_pass(
    fault: str, netns_pair: tuple[Endpoint, Endpoint], leaf_cgroup: Path, bpffs: Path
) -> None:
    with scene(netns_pair, leaf_cgroup, bpffs) as made:
        unlimited_after(MISSING[fault], made, Stage(made).throttle)


# Others at the root


def test_others_stay_where_they_are(root: Path, bpffs: Path) -> None:
    """Attached before ours and after, they keep their order, here and when ours are gone."""
    base = bpffs / "chadthrottle"
    ours = "throttle_egress", "throttle_ingress"
    with ExitStack() as stack:
        directions = HOOKS[:2]
        for hook in directions:
            program = stack.enter_context(raw.load_for(hook, "before"))
            stack.enter_context(attach_cgroup(program, root, method="link"))
        only_first = attached(root)
        process = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
        stack.callback(process.kill)
        stack.callback(limits.release, None, base=base)
        limits.throttle(sleeper(process.pid, AttachPoint.ROOT), base)
        for hook in directions:
            program = stack.enter_context(raw.load_for(hook, "after"))
            stack.enter_context(attach_cgroup(program, root, method="link"))
        with_ours = attached(root)
        for hook, name in zip(directions, ours, strict=True):
            assert [each.name for each in with_ours[hook]] == ["before", name[:15], "after"]
            assert with_ours[hook][:1] == only_first[hook]
        assert limits.release(None, base=base).hooks_removed
        eventually(lambda: attached(root) == {hook: with_ours[hook][::2] for hook in HOOKS[:2]} | NONE_OF_OURS)


# The command line


def test_the_root_is_the_default(root: Path, chadthrottle: Command) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            answer = chadthrottle("throttle", process.pid, "1MB/s", "--json")
            assert answer.status == 0, answer
            for told in answer, chadthrottle("list", "--json"):
                (rule,) = told.json()["rules"]
                assert rule["pid"] == process.pid
                assert rule["attach"] == {"method": "link", "at": "root"}
            assert [len(programs) for programs in attached(root).values()] == [1, 1, 1, 1]
            assert chadthrottle("release", "--all").status == 0
            eventually(lambda: not any(attached(root).values()))
        finally:
            process.kill()

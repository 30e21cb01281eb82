"""The minute, and the closing of the books.

chaos     rules come and go, programs too, while everybody sends and receives
pauses    now and then nobody moves, and who is counted must be who is there
books     one rule for each program: what the meters count is what the device counts, at a high rate and while rates
          change and packets are dropped
proof     nothing is limited: every connection lives, has all its bytes, its own pacing rate, and is fast
end       nothing is left in the kernel
"""

import ast
import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from chadthrottle import limits
from chadthrottle.abi import ThrottleDirection, ThrottleMeter, ThrottleProcess
from chadthrottle.enforce.hooks import Hooks, open_pinned, pins_of_this_version
from chadthrottle.enforce.rules import all_rules
from chadthrottle.model import Engine, ProcessIdentity, RuleSpec
from chadthrottle.procs import Identity, is_alive, read_stat
from tests.support.leftovers import Machine
from tools.stress.audit import Look, compare, look_at
from tools.stress.commands import HIGHEST, Asked, Commander, now_ns
from tools.stress.programs import PROGRAMS, SOCKETS, Board, Mode, fork, peer, program
from tools.stress.surroundings import Surroundings, Wire, surroundings

__all__ = ["Result", "stress"]

COMMANDERS = 2
LOOK_EVERY_S = 0.2
REPLACE_EVERY_S = 0.5
PAUSE_EVERY_S = 10.0
STEADY_S = 1.0
PATIENCE_S = 30.0
UNLIMITED_BYTES_PER_S = 2_000_000
"""4 MB within 2 s, on a machine that others use too; what is silent for longer than 5 s is a violation by itself."""
UP, DOWN = ThrottleDirection.UP, ThrottleDirection.DOWN


@dataclass
class Result:
    """What was found; figures are counts."""

    violations: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)


def stress(seconds: float, seed: int) -> Result:
    """All of it. The caller holds the kernel lock."""
    result = Result()
    before = Machine.now()
    with surroundings() as where, _running(where, seed, result) as run:
        run.chaos(seconds)
        run.books()
        run.proof()
    result.violations += [f"left behind: {each}" for each in before.additions()]
    return result


@contextmanager
def _running(where: Surroundings, seed: int, result: Result) -> Iterator["_Run"]:
    with ExitStack() as stack:
        stack.callback(limits.release, None, base=where.base)
        run = _Run(where, seed, result, stack)
        stack.callback(run.kill)
        run.start()
        yield run


class _Run:
    """One run."""

    def __init__(self, where: Surroundings, seed: int, result: Result, stack: ExitStack) -> None:
        self.where = where
        self.result = result
        self.board = Board()
        self.dice = random.Random(seed)  # noqa: S311 # to be repeated
        self.looks: list[Look] = []
        self.programs: dict[int, tuple[int, socket.socket]] = {}
        """By slot: the PID, and where it reports."""
        self.others: list[int] = []
        self.commanders: list[socket.socket] = []
        self._stack = stack

    def start(self) -> None:
        """The peer, the programs, the commands."""
        ours, theirs = socket.socketpair()
        self.others.append(fork(lambda: peer(self.board, theirs), self.where.there))
        theirs.close()
        with ours:
            ours.settimeout(PATIENCE_S)
            ours.recv(1)
        for slot in range(PROGRAMS):
            self.begin(slot)
        for number in range(COMMANDERS):
            ours, theirs = socket.socketpair()
            commander = Commander(number, self.dice.getrandbits(32), self.where, self.board)
            self.others.append(fork(lambda commander=commander, theirs=theirs: commander.work(theirs)))  # type: ignore[misc]
            theirs.close()
            self.commanders.append(self._stack.enter_context(ours))

    def begin(self, slot: int) -> None:
        """A new program."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        seed = self.dice.getrandbits(32)
        act = lambda: program(slot, seed, self.where.there, self.board, theirs)  # noqa: E731
        pid = fork(act, self.where.here, self.where.cgroup)
        theirs.close()
        self.board.set_pid(slot, pid)
        self.programs[slot] = pid, ours
        self.count("programs")
        self.count("sockets", SOCKETS)

    def chaos(self, seconds: float) -> None:
        """Programs are killed and replaced meanwhile, by us: nobody else forks them."""
        end = time.monotonic() + seconds
        look = replace = time.monotonic()
        pause = look + min(PAUSE_EVERY_S, seconds / 2)
        while (now := time.monotonic()) < end:
            if now >= look:
                look = now + LOOK_EVERY_S
                self.look()
            if now >= replace:
                replace = now + REPLACE_EVERY_S
                self.replace(self.dice.randrange(PROGRAMS))
            if now >= pause:
                pause = now + PAUSE_EVERY_S
                self.pause()
            self.hear()
            time.sleep(0.02)
        self.pause()

    def replace(self, slot: int) -> None:
        """Kill one; another takes its place, with its own sockets."""
        pid, report = self.programs[slot]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        report.close()
        self.begin(slot)

    def look(self) -> None:
        """At all rules."""
        pins = pins_of_this_version(self.where.base)
        with pins.lock(create=False) as there:
            if there and pins.current:
                with open_pinned(pins) as hooks:
                    began = now_ns()
                    rules = list(all_rules(hooks))
                    ended = now_ns()
                self.looks += [look_at(rule, began, ended) for rule in rules]

    def pause(self) -> None:
        """Nobody moves; who is counted is who is there."""
        self.quiet()
        self.look()
        pins = pins_of_this_version(self.where.base)
        with pins.lock(create=False) as there:
            if there and pins.current:
                with open_pinned(pins) as hooks:
                    self.result.violations += list(_miscounted(hooks))
        self.count("pauses")
        self.board.mode = Mode.CHAOS

    def quiet(self) -> None:
        """No command is at work, no program sends, forks or ends; children have ended."""
        self.board.mode = Mode.QUIET
        self.until(lambda: not any(map(self.board.is_busy, range(COMMANDERS))), "commands do not come to an end")
        # The longest that a child lives, and that whoever is at it does not look at the board.
        time.sleep(0.15)
        self.until(lambda: self.alive_in_cgroup() == {pid for pid, _ in self.programs.values()}, "children do not end")

    def alive_in_cgroup(self) -> set[int]:
        return {int(each) for each in (self.where.cgroup / "cgroup.procs").read_text("ascii").split()}

    def books(self) -> None:
        """What the meters count is what the device counts."""
        self.quiet()
        limits.release(None, base=self.where.base)
        self.settle()
        self.throttle_all(HIGHEST)
        self.book(changing=False)
        self.book(changing=True)
        limits.release(None, base=self.where.base)

    def book(self, *, changing: bool) -> None:
        """Some traffic through the rules that are there; with `changing`, the commands change their rates."""
        wire, meters = self.where.wire(), self.meters()
        # Rates change by the same commands as in chaos, which see the mode; without, there is nobody to be seen.
        pids = [self.board.pid(slot) for slot in range(PROGRAMS)]
        if not changing:
            for slot in range(PROGRAMS):
                self.board.set_pid(slot, 0)
        self.board.mode = Mode.STEADY
        end = time.monotonic() + STEADY_S * (1 + changing)
        while time.monotonic() < end:
            self.look()
            time.sleep(LOOK_EVERY_S)
        self.quiet()
        for slot, pid in enumerate(pids):
            self.board.set_pid(slot, pid)
        if changing:
            self.throttle_all(HIGHEST)
        self.settle()
        self.look()
        self.result.violations += self.balance(self.where.wire() - wire, meters, dropping=changing)

    def balance(self, wire: Wire, before: dict[int, ThrottleMeter], *, dropping: bool) -> list[str]:
        """The meters' growth against the device's."""
        after = self.meters()
        when = "while rates changed" if dropping else "at a high rate"
        if before.keys() != after.keys():
            return [f"{when}: {len(before)} rules became {len(before.keys() & after.keys())}"]
        total = {
            (direction, name): sum(
                int(getattr(after[rule].count[direction], name)) - int(getattr(before[rule].count[direction], name))
                for rule in after
            )
            for direction in ThrottleDirection
            for name in ("passed_packets", "passed_bytes", "dropped_packets", "dropped_bytes")
        }
        for (direction, name), value in total.items():
            self.count(f"{name}_{direction.name.lower()}", value)
        # Uploads are dropped before the device, downloads after it.
        pairs = {
            "packets up": (total[UP, "passed_packets"], wire.sent_packets + wire.lost_packets),
            "packets down": (total[DOWN, "passed_packets"] + total[DOWN, "dropped_packets"], wire.received_packets),
            "bytes down": (total[DOWN, "passed_bytes"] + total[DOWN, "dropped_bytes"], wire.received_bytes),
        }
        if not wire.lost_packets:
            pairs["bytes up"] = total[UP, "passed_bytes"], wire.sent_bytes
        found = [
            f"{when}, {what}: the meters count {ours}, the device {theirs}"
            for what, (ours, theirs) in pairs.items()
            if ours != theirs
        ]
        dropped = total[UP, "dropped_packets"] + total[DOWN, "dropped_packets"]
        if bool(dropped) != dropping:
            found.append(f"{when}: {dropped} packets were dropped")
        return found

    def proof(self) -> None:
        """One after the other; then the commands' logs are compared with what was seen."""
        self.board.mode = Mode.PROOF
        slowest = HIGHEST
        for _, report in self.programs.values():
            self.hear_from(report)
            report.settimeout(4 * PATIENCE_S)
            report.send(b"proof")
            try:
                answer = json.loads(report.recv(1 << 16))
            except (TimeoutError, ValueError) as error:
                self.result.violations.append(f"a program gave no proof: {error!r}")
                continue
            self.result.violations += answer.get("problems", [answer.get("problem")])
            slowest = min(slowest, answer.get("bytes_per_s", 0))
        self.count("slowest_bytes_per_s", slowest)
        if slowest < UNLIMITED_BYTES_PER_S:
            self.result.violations.append(f"nothing is limited, and a connection has {slowest} bytes/s")
        self.compare()

    def compare(self) -> None:
        """What was seen of the meters, with what was asked for."""
        asked: list[Asked] = []
        for commander in self.commanders:
            commander.settimeout(PATIENCE_S)
            with commander.makefile(encoding="utf-8") as lines:
                done, problems, log = ast.literal_eval(lines.read())
            self.count("commands", done)
            self.result.violations += problems
            asked += [Asked(*each) for each in log]
        self.count("looks", len(self.looks))
        self.count("rules", len({look.id for look in self.looks}))
        self.result.violations += compare(self.looks, asked)

    def throttle_all(self, rate: int) -> None:
        """A rule for each program, in both directions."""
        for pid, _ in self.programs.values():
            stat = read_stat(pid)
            if stat is not None:
                identity = ProcessIdentity(pid, stat.start_ticks, stat.name)
                spec = RuleSpec(
                    engine=Engine.CGROUP,  # a queue's drops are in no meter
                    process=identity,
                    rate_up_bytes_per_s=rate,
                    rate_down_bytes_per_s=rate,
                    at=self.where.at,
                )
                limits.throttle(spec, self.where.base)

    def meters(self) -> dict[int, ThrottleMeter]:
        pins = pins_of_this_version(self.where.base)
        with pins.lock(create=False), open_pinned(pins) as hooks:
            return {rule.id: rule.meter for rule in all_rules(hooks)}

    def settle(self) -> None:
        """Until nothing moves on the wire: what was queued has arrived, and is acknowledged."""
        seen, since = self.where.wire(), time.monotonic()

        def still() -> bool:
            nonlocal seen, since
            if (now := self.where.wire()) != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since > 0.6

        self.until(still, "what was sent does not arrive")

    def until(self, condition: "object", what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():  # type: ignore[operator]
            if time.monotonic() > deadline:
                self.result.violations.append(f"after {PATIENCE_S:g} s, {what}")
                return
            time.sleep(0.02)

    def hear(self) -> None:
        """Programs report what went wrong."""
        for _, report in self.programs.values():
            self.hear_from(report)

    def hear_from(self, report: socket.socket) -> None:
        report.setblocking(False)
        with suppress(BlockingIOError):
            while said := report.recv(1 << 16):
                problem = json.loads(said).get("problem")
                if problem:
                    self.result.violations.append(problem)

    def count(self, name: str, more: int = 1) -> None:
        self.result.figures[name] = self.result.figures.get(name, 0) + more

    def kill(self) -> None:
        """Everybody."""
        for pid in (*self.others, *(pid for pid, _ in self.programs.values())):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for _, report in self.programs.values():
            report.close()


def _miscounted(hooks: Hooks) -> Iterator[str]:
    """While nobody forks or ends: a rule counts its processes, all of which live."""
    counted = {
        int.from_bytes(key, "little"): ThrottleMeter.from_buffer_copy(value) for key, value in hooks.meters.items()
    }
    found = dict.fromkeys(counted, 0)
    for key, value in list(hooks.processes.items()):
        process = ThrottleProcess.from_buffer_copy(value)
        identity = Identity(int.from_bytes(key, "little"), process.start_ticks)
        if not is_alive(identity):
            yield f"{identity} is in a rule, and has ended"
        if process.rule not in found:
            yield f"{identity} is in a rule that there is not"
        found[process.rule] = found.get(process.rule, 0) + 1
    for rule, meter in counted.items():
        if meter.processes != found[rule]:
            yield f"the rule of {meter.leader} counts {meter.processes} processes, and has {found[rule]}"
        if meter.untracked:
            yield f"the rule of {meter.leader} has no room for {meter.untracked} children"

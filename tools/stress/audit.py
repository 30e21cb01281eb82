"""What must hold of the meters between any two looks at them, whatever commands came in between. Pure.

    counters only grow, and so does "ahead_until" (ebpf/police.bpf.h)
    no charge is lost:   what passed was paid for, at the highest rate there was meanwhile at most
    none is made up:     a rule is ahead of its rate by its burst, and by what had to pass all the same: on each CPU one
                         buffer that was judged in the same moment, and one for each connection that would have died

Together: bytes <= rate * time + burst + one buffer for each CPU, for any stretch of time.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chadthrottle.abi import ThrottleDirection
from chadthrottle.enforce.rules import BURST_NS, Rule
from tools.stress.commands import Asked

__all__ = ["BUFFER_BYTES", "Look", "compare", "look_at"]

TICKS_PER_NS = 256
NS_PER_S = 1_000_000_000
RESERVE_NS = 25_000_000
"""SMALL_PACKET_RESERVE_NS."""
MOST_REFUSALS = 7
BUFFER_BYTES = 80_000
"""A GSO buffer of 64 KiB, and its segments' headers."""
CPUS = os.cpu_count() or 1
ROUNDING_TICKS = 1


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a rule."""

    rate: int
    until_ticks: int
    """ "ahead_until": since the rule was made."""
    passed_packets: int
    passed_bytes: int
    dropped_packets: int
    dropped_bytes: int
    marked_packets: int
    queued_bytes: int = 0
    """Of those passed: HTB holds them to the rate; they are charged only so that what comes past it has less."""


@dataclass(frozen=True, slots=True)
class Look:
    """One rule, read at some moment between the two."""

    began_ns: int
    ended_ns: int
    id: int
    pid: int
    base_ns: int
    armed: bool
    ways: tuple[Way, Way]


def look_at(rule: Rule, began_ns: int, ended_ns: int) -> Look:
    """As data."""
    counts = [(rule.meter.count[each], each) for each in ThrottleDirection]
    up, down = (
        Way(
            rule.rate(direction),
            int(rule.meter.ahead_until[direction]),
            int(count.passed_packets),
            int(count.passed_bytes),
            int(count.dropped_packets),
            int(count.dropped_bytes),
            int(count.marked_packets),
            int(count.queued_bytes),
        )
        for count, direction in counts
    )
    meter = rule.meter
    return Look(
        began_ns,
        ended_ns,
        rule.id,
        int(meter.leader),
        int(meter.base_ns),
        int(rule.rule.armed_ns) <= began_ns,
        (up, down),
    )


def compare(looks: Sequence[Look], asked: Iterable[Asked]) -> list[str]:
    """Every rule's looks, in order, against each other; what is violated."""
    by_pid: dict[int, list[Asked]] = {}
    for command in asked:
        by_pid.setdefault(command.pid, []).append(command)
    last: dict[int, Look] = {}
    found = []
    for look in looks:
        before = last.get(look.id)
        if before is not None:
            commands = [each for each in by_pid.get(look.pid, ()) if _overlap(each, before, look)]
            for direction in ThrottleDirection:
                about = f"rule of {look.pid}, {direction.name.lower()}"
                found += [f"{about}: {what}" for what in _compare(before, look, direction, commands)]
        last[look.id] = look
    return found


def _overlap(command: Asked, before: Look, after: Look) -> bool:
    return command.began_ns <= after.ended_ns and command.ended_ns >= before.began_ns


def _compare(before: Look, after: Look, direction: ThrottleDirection, commands: Sequence[Asked]) -> list[str]:
    one, two = before.ways[direction], after.ways[direction]
    found = [
        f"{name} went from {getattr(one, name)} to {getattr(two, name)}"
        for name in Way.__slots__
        if name != "rate" and getattr(two, name) < getattr(one, name)
    ]
    rates = {one.rate, two.rate, *(rate for each in commands if (rate := each.rates[direction]) is not None)}
    if 0 in rates:
        return found  # unlimited at times: charged at times
    passed = two.passed_bytes - one.passed_bytes - (two.queued_bytes - one.queued_bytes)
    packets = two.passed_packets - one.passed_packets
    paid_ticks = two.until_ticks - one.until_ticks + packets * ROUNDING_TICKS
    # A command that lowers a rate lets pass what it likes until connections are paced (armed_ns). The time is read
    # before the counters, so what came in between is in these alone.
    charged = before.armed and after.armed and not commands
    if charged and passed > paid_ticks * max(rates) // (TICKS_PER_NS * NS_PER_S) + CPUS * BUFFER_BYTES:
        found.append(f"{passed} bytes passed at {max(rates)} bytes/s at most, and {paid_ticks} ticks were charged")
    # What a queue lets pass is charged up to twice the burst (ebpf/queued.bpf.h).
    burst_ns = 2 * BURST_NS if two.queued_bytes > one.queued_bytes else BURST_NS
    allowed_ns = after.ended_ns - after.base_ns + burst_ns + RESERVE_NS
    spared = (two.dropped_packets - one.dropped_packets) // MOST_REFUSALS
    extra_ns = (CPUS + spared) * BUFFER_BYTES * NS_PER_S // min(rates)
    if two.until_ticks > max(one.until_ticks, allowed_ns * TICKS_PER_NS) + extra_ns * TICKS_PER_NS:
        ahead_ms = (two.until_ticks // TICKS_PER_NS - (after.ended_ns - after.base_ns)) // 1_000_000
        found.append(f"ahead of {min(rates)} bytes/s by {ahead_ms} ms, with {spared} segments spared")
    return found

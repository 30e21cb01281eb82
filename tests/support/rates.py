"""How fast something counts. A limit shows only in time; that there is none, as soon as enough has come."""

import time
from collections.abc import Callable

from tests.support.patience import patient

__all__ = ["gets_faster", "rate", "rates", "within"]

Counter = Callable[[], int]
"""Bytes so far."""


def rate(counter: Counter, seconds: float = 1) -> float:
    """bytes/s"""
    return rates(counter, seconds=seconds)[0]


def rates(*counters: Counter, seconds: float = 1) -> list[float]:
    """bytes/s of each, all of them at the same time."""
    before = [(counter(), time.monotonic()) for counter in counters]
    time.sleep(seconds)
    found = []
    for counter, (was, began) in zip(counters, before, strict=True):
        came = counter() - was
        found.append(came / (time.monotonic() - began))
    return found


def gets_faster(counter: Counter, than_bytes_per_s: float, within_s: float, seconds: float = 0.3) -> bool:
    """Whether, in time, more than that comes in one stretch of so many seconds; it is not waited for the stretch's end.

    A busy machine may be slow for a while. A limit that lets a burst pass does not let as much pass as counts here.
    """
    deadline = time.monotonic() + patient(within_s)
    while True:
        before, began = counter(), time.monotonic()
        passed_s = 0.0
        while passed_s < seconds:
            time.sleep(seconds / 20)
            came = counter() - before
            passed_s = time.monotonic() - began
            if came > than_bytes_per_s * max(seconds, passed_s):
                return True
        if time.monotonic() > deadline:
            return False


def within(seconds: float, condition: Callable[[], object]) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + patient(seconds)
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True

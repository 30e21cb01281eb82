"""What the runtime makes of one damaged object: an answer in time and typed, or a failure."""

import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

from chadthrottle.bpf import commands, render, syscall
from chadthrottle.bpf.loader import Loader
from chadthrottle.bpf.parse import parse_object
from chadthrottle.bpf.spec import ObjectSpec
from chadthrottle.errors import ChadthrottleError

__all__ = ["KERNEL_SECONDS", "PARSE_SECONDS", "Verdict", "judge"]

PARSE_SECONDS = 2.0
KERNEL_SECONDS = 5.0
"""Of which the verifier may take any part: a mutant that needs more is counted, not a failure."""
# A mutant may add this much to the process's largest resident size: the longest verifier log that
# is kept (16 MiB), decoded and split into lines, is the most that an honest object needs.
PARSE_BYTES = 64 << 20
KERNEL_BYTES = 256 << 20
# An object from tests/objects has at most a few KiB of maps.
MAP_BYTES_LIMIT = 16 << 20
# A message is for one screen; a damaged name or log must not make a book of it.
_MESSAGE_BYTES = 16 << 10


class Verdict(NamedTuple):
    """The outcome for one mutant. `failure` is the report, empty if all is well."""

    parsed: str
    """"ok", or the class of the refusal."""
    programs: Counter[str]
    """With the kernel: programs by "loaded" or family of refusal."""
    maps: Counter[str]
    seconds: float
    slow: bool
    """The kernel was still at it when KERNEL_SECONDS were over."""
    peak_bytes: int
    failure: str


class _TimeUp(BaseException):
    """Not an Exception, so that nothing on the way can take it for its own."""

    def __init__(self, in_kernel: bool, where: str) -> None:
        super().__init__(where)
        self.in_kernel = in_kernel


class _BrokenPromiseError(Exception):
    """The mutant broke a promise of the runtime's."""


def judge(data: bytes, name: str, *, kernel: bool) -> Verdict:
    """Parse, dump and, with `kernel`, load what can be loaded. Never raises."""
    programs: Counter[str] = Counter()
    maps: Counter[str] = Counter()
    parsed, slow, failure = "?", False, ""
    before, started = _peak_bytes(), time.perf_counter()
    try:
        with _no_descriptor_left(), _unraisable():
            with _at_most(PARSE_SECONDS):
                spec, parsed = _parse(data, name)
            if spec is not None and kernel:
                with _at_most(KERNEL_SECONDS):
                    _load(spec, programs, maps)
    except _BrokenPromiseError as error:
        failure = str(error)
    except _TimeUp as error:
        slow = error.in_kernel
        failure = "" if slow else f"too slow:\n{error}"
    except BaseException:  # noqa: BLE001 - whatever escapes is what we look for
        failure = traceback.format_exc()
    peak = _peak_bytes()
    if not failure and peak - before > (KERNEL_BYTES if kernel else PARSE_BYTES):
        failure = f"took {peak - before >> 20} MiB of memory"
    return Verdict(parsed, programs, maps, time.perf_counter() - started, slow, peak, failure)


def _parse(data: bytes, name: str) -> tuple[ObjectSpec | None, str]:
    try:
        spec = parse_object(data, name)
    except ChadthrottleError as error:
        _examine(error)
        return None, type(error).__name__
    _examine_answer(commands.dump(spec))
    return spec, "ok"


def _load(spec: ObjectSpec, programs: Counter[str], maps: Counter[str]) -> None:
    """What `check` does with every program named, and after it every map and its slots."""
    if spec.programs:
        answer, _ = commands.check(spec, list(spec.programs), MAP_BYTES_LIMIT)
        _examine_answer(answer)
        _examine_answer(commands.Answer(answer.data, render.check_verbose))
        for entry in answer.data["programs"]:
            programs[_fate(entry)] += 1
    with Loader(spec, map_bytes_limit=MAP_BYTES_LIMIT) as loader:
        for name in spec.maps:
            try:
                loader.map(name)
                maps["created"] += 1
            except ChadthrottleError as error:
                _examine(error)
                maps[type(error).__name__] += 1
        try:
            loader.fill_slots()
        except ChadthrottleError as error:
            _examine(error)


def _fate(entry: Mapping[str, Any]) -> str:
    """A program's, from check's answer."""
    if entry["loaded"]:
        return "loaded"
    error = entry["error"]
    if "log" in error:
        return "VerifierError"
    if "errno" in error:
        return "BpfError"
    return "UsageError" if error["code"] == 2 else "KernelCannotError"


def _examine(error: ChadthrottleError) -> None:
    """A typed error is no answer if memory ran out behind it, or if it cannot be printed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | RecursionError):
            trace = "".join(traceback.format_exception(error))
            raise _BrokenPromiseError(f"{type(cause).__name__} behind it:\n{trace}")
        cause = cause.__cause__ or cause.__context__
    if len(str(error).encode()) > _MESSAGE_BYTES:
        raise _BrokenPromiseError(f"a message of {len(str(error))} characters: {str(error)[:200]!r}")


def _examine_answer(answer: commands.Answer) -> None:
    json.dumps(answer.data).encode()
    "\n".join(answer.lines()).encode()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _TimeUp in the block when its time is over.

    A pending signal also makes the verifier give up, with EAGAIN.
    """

    def ring(_: int, frame: FrameType | None) -> None:
        in_kernel = frame is not None and frame.f_code.co_filename == syscall.__file__
        raise _TimeUp(in_kernel, "".join(traceback.format_stack(frame, 8)))

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def _no_descriptor_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    after = len(os.listdir("/proc/self/fd"))
    if after != before:
        raise _BrokenPromiseError(f"{after - before} descriptors left open")


@contextmanager
def _unraisable() -> Iterator[None]:
    """An unclosed Descriptor warns from __del__, where nothing can be raised."""
    seen: list[str] = []

    def note(problem: "sys.UnraisableHookArgs") -> None:
        seen.append(f"{problem.exc_value!r} in {problem.object!r}")

    previous, sys.unraisablehook = sys.unraisablehook, note
    try:
        yield
        if gc.get_count()[2] > 5:
            gc.collect()
    finally:
        sys.unraisablehook = previous
    if seen:
        raise _BrokenPromiseError("; ".join(seen))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

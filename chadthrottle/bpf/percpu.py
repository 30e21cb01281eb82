"""Values of per-CPU maps, as the kernel hands them to user space.

kernel/bpf/syscall.c, bpf_map_value_size(): one value after the other for every *possible* CPU, in the
order of the mask, each padded to a multiple of 8 bytes.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from chadthrottle.bpf.constants import MapType
from chadthrottle.errors import KernelCannotError

__all__ = ["PERCPU_MAP_TYPES", "join", "possible_cpus", "room", "split"]

PERCPU_MAP_TYPES = frozenset(
    {
        MapType.BPF_MAP_TYPE_PERCPU_HASH,
        MapType.BPF_MAP_TYPE_PERCPU_ARRAY,
        MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH,
        MapType.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
    }
)

_POSSIBLE = Path("/sys/devices/system/cpu/possible")
_CPU_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@cache
def possible_cpus() -> int:
    """How many CPUs the kernel reserves room for; fixed at boot, and not the number online.

    Never guessed: with too small a number the kernel would write past our buffers. Raises
    KernelCannotError when sysfs does not say.
    """
    try:
        text = _POSSIBLE.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise KernelCannotError(
            f"cannot read the number of possible CPUs from {_POSSIBLE}: {error}",
            hint="Per-CPU maps need it: mount sysfs at /sys.",
        ) from error
    return _count(text.strip())


def _count(text: str) -> int:
    """CPUs in a list such as `0-3,8-11` (Documentation/admin-guide/cputopology.rst)."""
    total = 0
    for part in text.split(","):
        match = _CPU_RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise KernelCannotError(f"{_POSSIBLE} holds {text!r}, which is not a list of CPUs")
        total += last - first + 1
    return total


def _stride(value_size: int) -> int:
    return (value_size + 7) & ~7


def room(value_size: int) -> int:
    """Bytes that the kernel reads or writes for one element with values of `value_size` bytes."""
    return _stride(value_size) * possible_cpus()


def split(raw: bytes, value_size: int) -> list[bytes]:
    """One value per possible CPU out of what the kernel wrote."""
    stride = _stride(value_size)
    return [raw[start : start + value_size] for start in range(0, len(raw), stride)]


def join(values: Sequence[bytes], value_size: int, name: str) -> bytes:
    """The buffer for an update. Raises ValueError: not one value per possible CPU, or a wrong size."""
    if len(values) != possible_cpus():
        raise ValueError(f"map {name} takes {possible_cpus()} values, one per possible CPU, not {len(values)}")
    for value in values:
        if len(value) != value_size:
            raise ValueError(f"a value of map {name} has {value_size} bytes, not {len(value)}")
    return b"".join(bytes(value).ljust(_stride(value_size), b"\0") for value in values)

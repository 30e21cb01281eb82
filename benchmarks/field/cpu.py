"""How much processor time a measurement took, with other work on the machine.

    what our programs took        cgroup2's cpu.stat counts it in microseconds, with the interrupts on their time
  + what interrupts took while    every processor's time, less what it idled, less what all processes took:
    nothing else ran              a timer that releases a packet to a sleeping receiver works there

The second part needs the sum over all processes, also those that ended meanwhile: cgroup v1's cpuacct, where it is
mounted, or cpu.stat of all first-level cgroups of a machine that has only cgroup2.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chadthrottle.bpf.cgroupfs import mounts

__all__ = ["Cpu", "cpu_seconds", "read_cpu"]

IDLE, IOWAIT, STEAL = 4, 5, 8  # fields of "cpu" in /proc/stat, proc(5)


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds since some beginning."""

    at: float
    ours: float
    all_processes: float
    idle: float


def cpu_seconds(before: Cpu, after: Cpu, processors: int) -> float:
    """What the traffic took between two readings; never less than what its programs took."""
    ours = after.ours - before.ours
    available = (after.at - before.at) * processors
    unattributed = available - (after.idle - before.idle) - (after.all_processes - before.all_processes)
    return ours + max(0.0, unattributed)


def read_cpu(at: float, cgroups: Iterable[Path]) -> Cpu:
    """Now; `cgroups` hold our programs."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    idle = sum(int(fields[each]) for each in (IDLE, IOWAIT, STEAL)) / os.sysconf("SC_CLK_TCK")
    return Cpu(at, sum(map(_usage, cgroups)), _all_processes(), idle)


def _usage(cgroup: Path) -> float:
    first = (cgroup / "cpu.stat").read_text(encoding="ascii").split()
    return int(first[1]) / 1e6


def _all_processes() -> float:
    for mount in mounts():
        usage = mount.mount_point / "cpuacct.usage"
        if mount.filesystem == "cgroup" and usage.exists():
            return int(usage.read_text(encoding="ascii")) / 1e9
    root = next(mount.mount_point for mount in mounts() if mount.filesystem == "cgroup2")
    own = (root / "cgroup.procs").read_text(encoding="ascii").split()  # kernel threads, mostly
    return sum(_usage(each.parent) for each in root.glob("*/cpu.stat")) + sum(map(_of_process, own))


def _of_process(pid: str) -> float:
    total = 0
    for each in Path("/proc", pid, "task").glob("*/schedstat"):
        try:
            total += int(each.read_text(encoding="ascii").split()[0])
        except OSError:  # ended
            continue
    return total / 1e9

"""Which helpers our programs call."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.spec import ProgramSpec

CALL = 0x85  # BPF_JMP | BPF_CALL
A_HELPER = 0  # not BPF_PSEUDO_CALL, nor a kfunc

# Of include/uapi/linux/bpf.h; refused under lockdown: LOCKDOWN_BPF_READ_KERNEL, LOCKDOWN_BPF_WRITE_USER.
PROBES = {
    4: "probe_read",
    36: "probe_write_user",
    45: "probe_read_str",
    113: "probe_read_kernel",
    115: "probe_read_kernel_str",
}


def called(program: ProgramSpec) -> Iterator[int]:
    for code, registers, _, number in struct.iter_unpack("<BBhi", program.instructions):
        if code == CALL and registers >> 4 == A_HELPER:
            yield number


@pytest.mark.parametrize("name", ["throttle", "queue", "traffic", "trial"])
def test_none_that_lockdown_takes_away(name: str, object_path: Callable[[str], Path]) -> None:
    """So that lockdown is no reason for anything, as doctor's CT-PERM-07 says."""
    programs = open_object(object_path(name)).programs
    found = {each: set(called(program)) for each, program in programs.items()}
    assert any(found.values())
    assert not [each for each, numbers in found.items() if numbers & PROBES.keys()]

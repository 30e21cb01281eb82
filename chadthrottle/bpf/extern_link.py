"""Putting the kernel's answers for `__kconfig` and `__ksym` externs into instructions and maps.

externs.py is imported only when an object has externs: most have none, and it costs milliseconds.
"""

from typing import NamedTuple

from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.btf_fixup import KCONFIG
from chadthrottle.bpf.constants import (
    BPF_PSEUDO_BTF_ID,
    BPF_PSEUDO_KFUNC_CALL,
    BtfKind,
    MapFlag,
    MapType,
)
from chadthrottle.bpf.errors import ObjectFormatError
from chadthrottle.bpf.spec import Extern, MapSpec, ObjectSpec

__all__ = ["Patch", "call_patch", "kconfig_map", "load_patch"]


class Patch(NamedTuple):
    """New fields of an instruction; `high` is the second half of a 64-bit load."""

    source: int
    low: int
    high: int = 0


def call_patch(extern: Extern) -> Patch:
    """For a call to a kfunc. Raises what externs.py raises.

    The kernel takes id 0 for a weak one it lacks, and refuses the program only if the call can be
    reached (kernel commit a5d827275241).
    """
    from chadthrottle.bpf.externs import ksym_function

    return Patch(BPF_PSEUDO_KFUNC_CALL, ksym_function(extern.name, weak=extern.weak))


def load_patch(extern: Extern, btf: Btf) -> Patch:
    """For the address of a kernel function or variable; 0 for a weak one the kernel lacks."""
    from chadthrottle.bpf.externs import ksym_address, ksym_function, ksym_variable

    if btf.type(extern.type_id).kind == BtfKind.BTF_KIND_FUNC:
        type_id = ksym_function(extern.name, weak=extern.weak)
    elif extern.typed:
        type_id = ksym_variable(extern.name, weak=extern.weak)
    else:
        address = ksym_address(extern.name, weak=extern.weak)
        return Patch(0, _signed(address & 0xFFFFFFFF), _signed(address >> 32))
    return Patch(BPF_PSEUDO_BTF_ID if type_id else 0, type_id)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def kconfig_map(spec: ObjectSpec) -> MapSpec:
    """The map behind the object's `__kconfig` variables, filled. Raises what externs.py raises."""
    from chadthrottle.bpf.externs import kconfig_value
    from chadthrottle.bpf.kconfig import value_type

    btf = spec.btf
    if btf is None:  # externs come from BTF alone
        raise ObjectFormatError(f"object {spec.name} has __kconfig variables but no BTF")
    externs = [e for e in spec.externs.values() if e.section == KCONFIG]
    contents = bytearray(max((e.offset + e.size for e in externs), default=0))
    for extern in externs:
        value = kconfig_value(extern.name, value_type(btf, extern.name, extern.type_id), weak=extern.weak)
        contents[extern.offset : extern.offset + extern.size] = value
    return MapSpec(
        name=KCONFIG,
        type=MapType.BPF_MAP_TYPE_ARRAY,
        key_size=4,
        value_size=len(contents),
        max_entries=1,
        flags=MapFlag.BPF_F_RDONLY_PROG,
        btf_value_type_id=btf.datasecs[KCONFIG].id,
        contents=bytes(contents),
        read_only=True,
        kernel_name=spec.name[:7] + KCONFIG,
    )

"""Values for symbols that an object declares and the kernel supplies: `__kconfig` and `__ksym`."""

import os
from collections.abc import Iterable
from pathlib import Path

from chadthrottle.bpf import kconfig
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.errors import NotSupportedError, ObjectFormatError
from chadthrottle.bpf.kernel_btf import KernelBtf, vmlinux
from chadthrottle.bpf.release import kernel_version
from chadthrottle.errors import KernelCannotError

__all__ = ["kconfig_value", "ksym_address", "ksym_addresses", "ksym_function", "ksym_variable"]

_KALLSYMS = Path("/proc/kallsyms")

# include/linux/syscalls.h and arch/*/include/asm/syscall_wrapper.h: how the wrapped system calls begin.
_SYSCALL_PREFIX = {"x86_64": "x64", "i686": "ia32", "aarch64": "arm64", "riscv64": "riscv", "s390x": "s390x"}


def kconfig_value(name: str, wanted: kconfig.ValueType, *, weak: bool) -> bytes:
    """The bytes for `extern … NAME __kconfig`.

    CONFIG_*: see Kconfig.value. LINUX_KERNEL_VERSION: KERNEL_VERSION(a, b, c) of the running kernel, c
    at most 255. LINUX_HAS_BPF_COOKIE, LINUX_HAS_SYSCALL_WRAPPER: 0 or 1. Any other name is zeros if
    weak. Raises KernelCannotError when the kernel has no such value, ObjectNotSupportedError when
    the variable's type does not suit.
    """
    if name.startswith("CONFIG_"):
        return kconfig.running_kconfig().value(name, wanted, weak=weak)
    number = _virtual(name)
    if number is not None:
        if wanted.kind is kconfig.ValueKind.BOOL and number <= 1:
            return number.to_bytes(wanted.size, "little")
        return kconfig.integer(name, number, wanted)
    if weak:
        return bytes(wanted.size)
    raise KernelCannotError(
        f"the object needs {name}, which is not among the values a kernel or this loader has",
        hint="__kconfig variables are CONFIG_*, LINUX_KERNEL_VERSION, LINUX_HAS_BPF_COOKIE and "
        "LINUX_HAS_SYSCALL_WRAPPER.",
    )


def _virtual(name: str) -> int | None:
    if name == "LINUX_KERNEL_VERSION":
        major, minor, patch = kernel_version()
        return major << 16 | minor << 8 | min(patch, 255)
    if name == "LINUX_HAS_BPF_COOKIE":
        from chadthrottle.bpf.features import supported  # few objects ask, and it costs 8 ms

        return int(supported("bpf_cookie"))
    if name == "LINUX_HAS_SYSCALL_WRAPPER":
        return int(_has_syscall_wrapper())
    return None


def _has_syscall_wrapper() -> bool:
    """Whether system calls are functions of one struct pt_regs, named after the architecture."""
    prefix = _SYSCALL_PREFIX.get(os.uname().machine)
    if prefix is None:
        return False
    function = f"__{prefix}_sys_bpf"
    try:
        if vmlinux().find(BtfKind.BTF_KIND_FUNC, function) is not None:
            return True
    except (NotSupportedError, ObjectFormatError):
        pass  # the symbol table says the same, more slowly
    return function in ksym_addresses((function,))


def ksym_function(name: str, *, weak: bool, btf: KernelBtf | None = None) -> int:
    """The BTF id of a kfunc in vmlinux; 0 for a weak one that this kernel lacks.

    Raises KernelCannotError naming the nearest function, NotSupportedError without kernel BTF.
    """
    return _typed(BtfKind.BTF_KIND_FUNC, name, "kernel function", weak, btf)


def ksym_variable(name: str, *, weak: bool, btf: KernelBtf | None = None) -> int:
    """The BTF id of a typed kernel variable in vmlinux; as `ksym_function`."""
    return _typed(BtfKind.BTF_KIND_VAR, name, "typed kernel variable", weak, btf)


def _typed(kind: BtfKind, name: str, what: str, weak: bool, btf: KernelBtf | None) -> int:
    btf = vmlinux() if btf is None else btf
    return (btf.find(kind, name) or 0) if weak else btf.require(kind, name, what)


def ksym_address(name: str, *, weak: bool) -> int:
    """The address of a symbol; 0 for a weak one that this kernel lacks.

    Raises KernelCannotError: no such symbol, several, or addresses are hidden.
    """
    address = ksym_addresses((name,)).get(name)
    if address is not None:
        return address
    if weak:
        return 0
    raise KernelCannotError(f"this kernel has no symbol {name} ({_KALLSYMS})")


def ksym_addresses(names: Iterable[str]) -> dict[str, int]:
    """Addresses of the symbols that exist, modules' included, in one reading (80 ms for 120 000).

    Raises KernelCannotError: a name stands for several addresses, or kernel.kptr_restrict hides them.
    """
    try:
        text = _KALLSYMS.read_bytes()
    except OSError as error:
        raise KernelCannotError(
            f"cannot read {_KALLSYMS}: {error}", hint="It needs CONFIG_KALLSYMS=y, and procfs at /proc."
        ) from error
    return {name: found for name in names if (found := _address(text, name)) is not None}


def _address(text: bytes, name: str) -> int | None:
    # Lines are "ffffffff8202f020 T tcp_v4_connect", with "\t[module]" behind a module's symbol. A search
    # for the name is ten times as fast as an expression for whole lines.
    needle = b" " + name.encode()
    addresses = set()
    at = text.find(needle)
    while at >= 0:
        end = at + len(needle)
        if text[end : end + 1] in (b"\t", b"\n"):
            line = text.rfind(b"\n", 0, at) + 1
            addresses.add(int(text[line:at].split(b" ", 1)[0], 16))
        at = text.find(needle, end)
    if not addresses:
        return None
    if len(addresses) > 1:
        raise KernelCannotError(f"the kernel has {len(addresses)} symbols named {name}: which one is meant?")
    address = addresses.pop()
    if address == 0:
        raise KernelCannotError(
            f"the kernel hides the address of {name}",
            hint="Run as root with kernel.kptr_restrict at most 1 (sysctl kernel.kptr_restrict).",
        )
    return address

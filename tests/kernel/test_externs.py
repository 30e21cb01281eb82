"""`__kconfig` and `__ksym` values of the running kernel."""

import os

import pytest

from chadthrottle.bpf import externs
from chadthrottle.bpf.kconfig import ValueKind, ValueType, running_kconfig
from chadthrottle.bpf.kernel_btf import vmlinux
from chadthrottle.errors import KernelCannotError

BOOL, U32 = ValueType(ValueKind.BOOL, 1), ValueType(ValueKind.INTEGER, 4)


def test_the_kernels_version() -> None:
    number = int.from_bytes(externs.kconfig_value("LINUX_KERNEL_VERSION", U32, weak=False), "little")
    assert os.uname().release.startswith(f"{number >> 16}.{number >> 8 & 0xFF}.")


def test_what_the_kernel_has() -> None:
    assert externs.kconfig_value("LINUX_HAS_BPF_COOKIE", BOOL, weak=False) == b"\1"
    # CONFIG_ARCH_HAS_SYSCALL_WRAPPER: x86 since 4.17, arm64 since 4.19, riscv since 6.6
    expected = os.uname().machine in {"x86_64", "aarch64", "riscv64"}
    assert externs.kconfig_value("LINUX_HAS_SYSCALL_WRAPPER", BOOL, weak=False) == bytes([expected])


def test_its_configuration() -> None:
    if running_kconfig().text is None:
        with pytest.raises(KernelCannotError, match="shows no configuration"):
            externs.kconfig_value("CONFIG_BPF_SYSCALL", BOOL, weak=False)
    else:
        assert externs.kconfig_value("CONFIG_BPF_SYSCALL", BOOL, weak=False) == b"\1"
        hertz = int.from_bytes(externs.kconfig_value("CONFIG_HZ", U32, weak=False), "little")
        assert 100 <= hertz <= 1000


def test_symbols() -> None:
    assert externs.ksym_address("schedule", weak=False) >= 1 << 63
    assert externs.ksym_address("no_such_symbol", weak=True) == 0
    # One of the first kfuncs (5.13).
    assert externs.ksym_function("tcp_reno_cong_avoid", weak=False) == vmlinux().function("tcp_reno_cong_avoid")
    assert externs.ksym_variable("bpf_prog_active", weak=False) > 0
    assert externs.ksym_variable("schedule", weak=True) == 0

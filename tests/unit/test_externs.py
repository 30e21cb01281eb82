"""Values for `__kconfig` and `__ksym` symbols, from texts made for it."""

import gzip
from pathlib import Path

import pytest

from chadthrottle.bpf import externs, release
from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.errors import ObjectFormatError, ObjectNotSupportedError
from chadthrottle.bpf.kconfig import Kconfig, ValueKind, ValueType, encode, value_type
from chadthrottle.bpf.kernel_btf import KernelBtf
from chadthrottle.bpf.release import kernel_version, parse_release
from chadthrottle.bpf.trials import btf_type
from chadthrottle.errors import KernelCannotError

TEXT = """\
# Automatically generated file; DO NOT EDIT.
CONFIG_HZ=250
CONFIG_BPF=y
CONFIG_TUN=m
# CONFIG_NET_SCH_FQ is not set
CONFIG_BASE_SMALL=0
CONFIG_NEGATIVE=-1
CONFIG_PHYSICAL_START=0x1000000
CONFIG_DEFAULT_HOSTNAME="(none)"
CONFIG_EMPTY=""
CONFIG_HZ_250=y
"""
CONFIG = Kconfig(TEXT, "a test")
BOOL = ValueType(ValueKind.BOOL, 1)
TRISTATE = ValueType(ValueKind.TRISTATE, 4)
CHAR = ValueType(ValueKind.CHAR, 1, signed=True)
U32, S32 = ValueType(ValueKind.INTEGER, 4), ValueType(ValueKind.INTEGER, 4, signed=True)
U64 = ValueType(ValueKind.INTEGER, 8)


def text_of(size: int) -> ValueType:
    return ValueType(ValueKind.STRING, size)


@pytest.mark.parametrize(
    ("name", "wanted", "value"),
    [
        ("CONFIG_HZ", U32, b"\xfa\0\0\0"),
        ("CONFIG_HZ", U64, b"\xfa" + bytes(7)),
        ("CONFIG_PHYSICAL_START", U32, b"\0\0\0\x01"),
        ("CONFIG_NEGATIVE", S32, b"\xff\xff\xff\xff"),
        ("CONFIG_BASE_SMALL", CHAR, b"\0"),
        ("CONFIG_BPF", BOOL, b"\1"),
        ("CONFIG_BPF", TRISTATE, b"\1\0\0\0"),
        ("CONFIG_BPF", CHAR, b"y"),
        ("CONFIG_TUN", TRISTATE, b"\2\0\0\0"),
        ("CONFIG_TUN", CHAR, b"m"),
        ("CONFIG_DEFAULT_HOSTNAME", text_of(10), b"(none)\0\0\0\0"),
        ("CONFIG_DEFAULT_HOSTNAME", text_of(7), b"(none)\0"),
        ("CONFIG_DEFAULT_HOSTNAME", text_of(4), b"(no\0"),
        ("CONFIG_EMPTY", text_of(1), b"\0"),
    ],
)
def test_options(name: str, wanted: ValueType, value: bytes) -> None:
    assert CONFIG.value(name, wanted, weak=False) == value


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("CONFIG_HZ", CHAR),  # 250 is no signed char
        ("CONFIG_HZ", BOOL),
        ("CONFIG_HZ", text_of(8)),
        ("CONFIG_NEGATIVE", U32),
        ("CONFIG_TUN", BOOL),  # a module is neither
        ("CONFIG_BPF", U32),
        ("CONFIG_BPF", text_of(8)),
        ("CONFIG_DEFAULT_HOSTNAME", U32),
        ("CONFIG_DEFAULT_HOSTNAME", CHAR),
    ],
)
def test_options_that_do_not_fit_their_variable(name: str, wanted: ValueType) -> None:
    with pytest.raises(ObjectNotSupportedError, match=name):
        CONFIG.value(name, wanted, weak=True)


@pytest.mark.parametrize("name", ["CONFIG_NET_SCH_FQ", "CONFIG_NO_SUCH_THING", "CONFIG_H", "CONFIG_HZ_", "CONFIG_"])
def test_options_that_are_not_set(name: str) -> None:
    assert CONFIG.value(name, U64, weak=True) == bytes(8)
    with pytest.raises(KernelCannotError, match=f"{name}, which is not set in a test"):
        CONFIG.value(name, U64, weak=False)


def test_a_machine_without_a_configuration(tmp_path: Path) -> None:
    places = (tmp_path / "config.gz", tmp_path / "config-1.2.3")
    config = Kconfig.read(places)
    assert config.value("CONFIG_HZ", U32, weak=True) == bytes(4)
    with pytest.raises(KernelCannotError) as caught:
        config.value("CONFIG_HZ", U32, weak=False)
    assert all(str(place) in str(caught.value) for place in places)


def test_the_first_file_that_exists_is_read(tmp_path: Path) -> None:
    packed, plain = tmp_path / "config.gz", tmp_path / "config-1.2.3"
    plain.write_text("CONFIG_HZ=100\n")
    assert Kconfig.read((packed, plain)).option("CONFIG_HZ") == "100"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    assert Kconfig.read((packed, plain)).option("CONFIG_HZ") == "250"
    for damaged in (b"no gzip", gzip.compress(TEXT.encode())[:30], gzip.compress(TEXT.encode())[:-1]):
        packed.write_bytes(damaged)
        with pytest.raises(KernelCannotError, match="cannot read the kernel's configuration"):
            Kconfig.read((packed, plain))


def test_text_that_no_configuration_has() -> None:
    for text in ("", "yes", "0x", "1.5", "--1", '"'):
        with pytest.raises((ObjectFormatError, ObjectNotSupportedError)):
            encode("CONFIG_X", text, U32)


class TestTypes:
    """The C type of a `__kconfig` variable, from the object's BTF."""

    INT = 1 << 24
    NUMBERS = (
        (btf_type(BtfKind.BTF_KIND_INT, 0, 1, 4 << 24 | 8), BOOL),
        (btf_type(BtfKind.BTF_KIND_INT, 0, 0, 4 << 24), None),
        (btf_type(BtfKind.BTF_KIND_INT, 0, 4, 4 << 24 | 32), None),
        (btf_type(BtfKind.BTF_KIND_INT, 0, 1, INT | 8), CHAR),
        (btf_type(BtfKind.BTF_KIND_INT, 0, 4, 32), U32),
        (btf_type(BtfKind.BTF_KIND_INT, 0, 4, INT | 32), S32),
        (btf_type(BtfKind.BTF_KIND_INT, 0, 8, 64), U64),
        (btf_type(BtfKind.BTF_KIND_INT, 0, 16, 128), None),
        (btf_type(BtfKind.BTF_KIND_ENUM, 0, 4), TRISTATE),
        (btf_type(BtfKind.BTF_KIND_ENUM, 0, 4, name=0), None),
        (btf_type(BtfKind.BTF_KIND_PTR, 0, 1), None),
        (btf_type(BtfKind.BTF_KIND_STRUCT, 0, 4), None),
    )

    @pytest.mark.parametrize(("record", "expected"), NUMBERS)
    def test_of_a_variable(self, record: bytes, expected: ValueType | None) -> None:
        const = btf_type(BtfKind.BTF_KIND_CONST, 0, 1, name=0)
        variable = btf_type(BtfKind.BTF_KIND_VAR, 0, 2, 2)
        btf = Btf(record + const + variable, b"\0libbpf_tristate\0")
        for type_id in (1, 2, 3):
            if expected is None:
                with pytest.raises(ObjectNotSupportedError, match="CONFIG_X"):
                    value_type(btf, "CONFIG_X", type_id)
            else:
                assert value_type(btf, "CONFIG_X", type_id) == expected

    @pytest.mark.parametrize(("size", "count", "fits"), [(1, 16, True), (1, 0, False), (4, 16, False)])
    def test_of_an_array(self, size: int, count: int, fits: bool) -> None:
        element = btf_type(BtfKind.BTF_KIND_INT, 0, size, self.INT | 8 * size)
        array = btf_type(BtfKind.BTF_KIND_ARRAY, 0, 0, 1, 1, count, name=0)
        btf = Btf(element + array, b"\0char\0")
        if fits:
            assert value_type(btf, "CONFIG_X", 2) == text_of(count)
        else:
            with pytest.raises(ObjectNotSupportedError):
                value_type(btf, "CONFIG_X", 2)

    def test_an_enum_of_another_name(self) -> None:
        btf = Btf(btf_type(BtfKind.BTF_KIND_ENUM, 0, 4), b"\0colour\0")
        with pytest.raises(ObjectNotSupportedError):
            value_type(btf, "CONFIG_X", 1)


class TestVersions:
    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("6.12.117+deb12", (6, 12, 117)),
            ("6.18.44-fc-v657", (6, 18, 44)),
            ("5.10.0-25-amd64", (5, 10, 0)),
            ("7.0-rc3", (7, 0, 0)),
            ("4.19", (4, 19, 0)),
        ],
    )
    def test_releases(self, text: str, version: tuple[int, int, int]) -> None:
        assert parse_release(text) == version

    @pytest.mark.parametrize("text", ["", "linux", "6", "v6.1", "-6.1"])
    def test_what_is_no_release(self, text: str) -> None:
        with pytest.raises(KernelCannotError, match="does not start with a version"):
            parse_release(text)

    def test_ubuntu_says_the_patch_level_elsewhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        signature = tmp_path / "version_signature"
        monkeypatch.setattr(release, "_UBUNTU_SIGNATURE", signature)
        plain = kernel_version()
        signature.write_text("Ubuntu 5.15.0-78.85-generic 5.15.99\n")
        assert kernel_version() == (5, 15, 99)
        signature.write_text("")
        assert kernel_version() == plain

    def test_as_a_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(externs, "kernel_version", lambda: (5, 10, 300))
        assert externs.kconfig_value("LINUX_KERNEL_VERSION", U32, weak=False) == b"\xff\x0a\x05\0"
        with pytest.raises(ObjectNotSupportedError):
            externs.kconfig_value("LINUX_KERNEL_VERSION", CHAR, weak=False)

    def test_values_nobody_has(self) -> None:
        assert externs.kconfig_value("LINUX_HAS_WINGS", U32, weak=True) == bytes(4)
        with pytest.raises(KernelCannotError, match="LINUX_HAS_WINGS"):
            externs.kconfig_value("LINUX_HAS_WINGS", U32, weak=False)


class TestSymbols:
    @pytest.fixture
    def kallsyms(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        path = tmp_path / "kallsyms"
        path.write_text(
            "ffffffff81000000 T _stext\n"
            "ffffffff81000010 T schedule\n"
            "ffffffff81000020 t schedule_timeout\n"
            "ffffffff81000030 t twice\n"
            "ffffffff81000040 t twice\n"
            "0000000000000000 T hidden\n"
            "ffffffffa0000000 t in_module\t[tun]\n"
            "ffffffffa0000010 t _end"
        )
        monkeypatch.setattr(externs, "_KALLSYMS", path)
        return path

    def test_addresses(self, kallsyms: Path) -> None:
        assert kallsyms.exists()
        assert externs.ksym_address("schedule", weak=False) == 0xFFFFFFFF81000010
        assert externs.ksym_address("_stext", weak=False) == 0xFFFFFFFF81000000
        assert externs.ksym_addresses(["in_module", "schedul", "schedule_timeout"]) == {
            "in_module": 0xFFFFFFFFA0000000,
            "schedule_timeout": 0xFFFFFFFF81000020,
        }

    def test_symbols_without_one(self, kallsyms: Path) -> None:
        assert externs.ksym_address("absent", weak=True) == 0
        with pytest.raises(KernelCannotError, match="no symbol absent"):
            externs.ksym_address("absent", weak=False)
        with pytest.raises(KernelCannotError, match="2 symbols named twice"):
            externs.ksym_address("twice", weak=True)
        with pytest.raises(KernelCannotError, match="kptr_restrict"):
            externs.ksym_address("hidden", weak=True)
        kallsyms.unlink()
        with pytest.raises(KernelCannotError, match="CONFIG_KALLSYMS"):
            externs.ksym_address("schedule", weak=True)

    def test_functions_and_variables(self) -> None:
        types = btf_type(BtfKind.BTF_KIND_INT, 0, 4, 32) + btf_type(BtfKind.BTF_KIND_VAR, 0, 1, 1, name=5)
        types += btf_type(BtfKind.BTF_KIND_FUNC, 1, 1, name=9)
        btf = KernelBtf(Btf(types, b"\0int\0var\0function\0").serialize(), "a test")
        assert externs.ksym_variable("var", weak=False, btf=btf) == 2
        assert externs.ksym_function("function", weak=False, btf=btf) == 3
        assert externs.ksym_function("absent", weak=True, btf=btf) == 0
        assert externs.ksym_variable("function", weak=True, btf=btf) == 0
        with pytest.raises(KernelCannotError, match="no kernel function functoin") as caught:
            externs.ksym_function("functoin", weak=False, btf=btf)
        assert caught.value.hint == "The nearest name is function."

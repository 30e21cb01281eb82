"""The running kernel's build configuration, and values of `extern … __kconfig` variables from it."""

import os
import re
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from chadthrottle.bpf.btf import Btf
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.errors import ObjectFormatError, ObjectNotSupportedError
from chadthrottle.errors import KernelCannotError

__all__ = ["Kconfig", "ValueKind", "ValueType", "encode", "integer", "running_kconfig", "value_type"]

# enum libbpf_tristate, which objects declare and loaders write.
_TRISTATE = {"n": 0, "y": 1, "m": 2}
_MAX_BYTES = 16 << 20


class ValueKind(Enum):
    """How a `__kconfig` variable is written."""

    BOOL = "bool"
    TRISTATE = "enum libbpf_tristate"
    CHAR = "char"
    INTEGER = "integer"
    STRING = "char array"


@dataclass(frozen=True, slots=True)
class ValueType:
    """The C type of a `__kconfig` variable; `size` in bytes."""

    kind: ValueKind
    size: int
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Kconfig:
    """A configuration's text; None when none could be read. `where`: the places looked at."""

    text: str | None
    where: str

    def option(self, name: str) -> str | None:
        """What stands behind `NAME=`, quotes and all; None for an option that is not set."""
        if self.text is None:
            return None
        match = re.search(rf"^{re.escape(name)}=(.*)$", self.text, re.MULTILINE)
        return match[1].strip() if match else None

    @classmethod
    def read(cls, paths: tuple[Path, ...]) -> "Kconfig":
        """The first of these files that exists. Raises KernelCannotError when it cannot be read."""
        for path in paths:
            try:
                text = path.read_bytes()
                if path.suffix == ".gz":
                    text = _unpacked(text)
            except FileNotFoundError:
                continue
            except (OSError, EOFError) as error:
                raise KernelCannotError(f"cannot read the kernel's configuration {path}: {error}") from error
            return cls(text[:_MAX_BYTES].decode("utf-8", "replace"), str(path))
        return cls(None, " or ".join(str(path) for path in paths))

    def value(self, name: str, wanted: ValueType, *, weak: bool) -> bytes:
        """The bytes of the variable `name`. Not set: zeros if weak.

        Raises KernelCannotError if it is not set and not weak, ObjectNotSupportedError if its value
        does not fit the variable's type.
        """
        found = self.option(name)
        if found is not None:
            return encode(name, found, wanted)
        if weak:
            return bytes(wanted.size)
        if self.text is None:
            raise KernelCannotError(
                f"the object needs the kernel's {name}, and this machine shows no configuration ({self.where})",
                hint="Install the kernel's config file in /boot, or declare the extern __weak.",
            )
        raise KernelCannotError(
            f"the object needs the kernel's {name}, which is not set in {self.where}",
            hint="An object that can do without declares the extern __weak.",
        )


def _unpacked(packed: bytes) -> bytes:
    """Raises OSError or EOFError for damaged data. At most _MAX_BYTES come back."""
    import zlib  # most objects ask for nothing

    stream = zlib.decompressobj(wbits=31)  # gzip
    try:
        text = stream.decompress(packed, _MAX_BYTES)
    except zlib.error as error:
        raise OSError(str(error)) from error
    if not stream.eof:
        raise EOFError("it is cut off")
    return text


@cache
def running_kconfig() -> Kconfig:
    """The running kernel's, read once: /proc/config.gz (CONFIG_IKCONFIG_PROC), then where distributions put it."""
    release = os.uname().release
    places = ("/proc/config.gz", f"/boot/config-{release}", f"/lib/modules/{release}/config")
    return Kconfig.read(tuple(map(Path, places)))


def value_type(btf: Btf, name: str, type_id: int) -> ValueType:
    """The type of the `__kconfig` variable `name`. Raises ObjectNotSupportedError, ObjectFormatError."""
    record = btf.resolve(type_id)
    if record.kind == BtfKind.BTF_KIND_VAR:
        record = btf.resolve(record.value)
    if record.kind == BtfKind.BTF_KIND_INT:
        encoding = btf.word(record, 3) >> 24 & 0xF
        signed, boolean = bool(encoding & 1), bool(encoding & 4)  # BTF_INT_SIGNED, BTF_INT_BOOL
        if boolean and record.value == 1:
            return ValueType(ValueKind.BOOL, 1)
        if record.value == 1:
            return ValueType(ValueKind.CHAR, 1, signed)
        if record.value in (2, 4, 8) and not boolean:
            return ValueType(ValueKind.INTEGER, record.value, signed)
    tristate = record.kind == BtfKind.BTF_KIND_ENUM and record.value == 4
    if tristate and btf.string(record.name_offset) == "libbpf_tristate":
        return ValueType(ValueKind.TRISTATE, 4)
    if record.kind == BtfKind.BTF_KIND_ARRAY:
        element = btf.resolve(btf.word(record, 3))
        count = btf.word(record, 5)
        if element.kind == BtfKind.BTF_KIND_INT and element.value == 1 and 0 < count <= _MAX_BYTES:
            return ValueType(ValueKind.STRING, count)
    raise ObjectNotSupportedError(
        f"the __kconfig variable {name} is no bool, integer, char array or enum libbpf_tristate"
    )


def encode(name: str, text: str, wanted: ValueType) -> bytes:
    """An option's text as the variable's bytes. Raises ObjectNotSupportedError when it does not fit."""
    if text in _TRISTATE:
        return _encode_tristate(name, text, wanted)
    if text.startswith('"'):
        return _encode_string(name, text, wanted)
    try:
        number = int(text, 0) if text.lower().lstrip("-").startswith("0x") else int(text)
    except ValueError:
        raise ObjectFormatError(f"{name}={text} is not a value that a kernel configuration has") from None
    return integer(name, number, wanted)


def integer(name: str, number: int, wanted: ValueType) -> bytes:
    """A number as the variable's bytes. Raises ObjectNotSupportedError when it does not fit."""
    if wanted.kind not in (ValueKind.INTEGER, ValueKind.CHAR):
        raise _mismatch(name, str(number), wanted)
    try:
        return number.to_bytes(wanted.size, "little", signed=wanted.signed)
    except OverflowError:
        raise _mismatch(name, str(number), wanted) from None


def _encode_tristate(name: str, text: str, wanted: ValueType) -> bytes:
    if wanted.kind is ValueKind.CHAR:
        return text.encode()
    if wanted.kind is ValueKind.TRISTATE or (wanted.kind is ValueKind.BOOL and text != "m"):
        return _TRISTATE[text].to_bytes(wanted.size, "little")
    raise _mismatch(name, text, wanted)


def _encode_string(name: str, text: str, wanted: ValueType) -> bytes:
    """NUL-terminated, cut to the array when longer, as libbpf does."""
    if wanted.kind is not ValueKind.STRING or len(text) < 2 or not text.endswith('"'):
        raise _mismatch(name, text, wanted)
    return text[1:-1].encode()[: wanted.size - 1].ljust(wanted.size, b"\0")


def _mismatch(name: str, text: str, wanted: ValueType) -> ObjectNotSupportedError:
    sign = "signed " if wanted.signed else ""
    shape = f"{sign}{wanted.kind.value} of {wanted.size} bytes"
    return ObjectNotSupportedError(f"the kernel's {name}={text} does not fit the object's variable, a {shape}")

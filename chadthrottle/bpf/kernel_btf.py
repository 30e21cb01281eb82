"""Names to type ids in the kernel's own BTF, which is never decoded whole.

/sys/kernel/btf/vmlinux is some 5 MB: 100 000 types and more, whose records differ in length, so that a
type's id is known only by counting the records before it. Decoding them all takes Python 0.3 to 0.5 s.
Here a name is looked for as bytes in the string section, its offset as bytes in the type section, and
the records before the hit are stepped over with one table lookup each. The steps are taken once per
process and as far as needed. Format: Documentation/bpf/btf.rst, include/uapi/linux/btf.h.
"""

import mmap
import os
import re
import stat
from bisect import bisect_right
from functools import cache
from pathlib import Path

from chadthrottle.bpf.btf import BTF_HEADER, trailer_bytes
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.errors import NotSupportedError, ObjectFormatError
from chadthrottle.errors import KernelCannotError

__all__ = ["VMLINUX", "KernelBtf", "vmlinux"]

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_MAX_BYTES = 128 << 20
_MARK_EVERY = 256
_MAX_SUGGESTION_POOL = 4000
_MAX_DUPLICATES = 16


class _RecordWords(dict[int, int]):
    """Words of a record by the `info` word of its struct btf_type; few different ones exist."""

    def __missing__(self, info: int) -> int:
        trailer = trailer_bytes(info >> 24 & 0x1F, info & 0xFFFF)
        if trailer is None:
            raise ObjectFormatError(f"the kernel's BTF has a type of unknown kind {info >> 24 & 0x1F}")
        length = self[info] = 3 + trailer // 4  # struct btf_type and what follows it
        return length


class KernelBtf:
    """One BTF blob, asked for ids by name.

    `where` stands in messages. Raises ObjectFormatError, here or from a lookup, when it is damaged.
    """

    def __init__(self, data: "bytes | mmap.mmap", where: str) -> None:
        self._where = where
        size = len(data)
        if size < BTF_HEADER.size:
            raise self._damaged("shorter than its header")
        magic, version, _flags, header_len, type_off, type_len, str_off, str_len = BTF_HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise self._damaged("no little-endian BTF of version 1")
        types, strings = header_len + type_off, header_len + str_off
        if header_len < BTF_HEADER.size or types + type_len > size or strings + str_len > size:
            raise self._damaged("its sections reach past its end")
        if type_off % 4 or type_len % 4:
            raise self._damaged("its types are not aligned")
        # Copies of the two sections (3 ms): searching a bytes object is several times as fast as mmap.
        self._types = data[types : types + type_len]
        self._strings = data[strings : strings + str_len]
        if self._strings[:1] != b"\0" or self._strings[-1:] != b"\0":
            raise self._damaged("its strings are not terminated")
        self._words = memoryview(self._types).cast("I")
        self._lengths = _RecordWords()
        # _marks[i]: the word where record i * _MARK_EVERY starts (counted from 0; its id is one more).
        self._marks = [0]
        self._end_known = False

    @classmethod
    def open(cls, path: Path | str = VMLINUX) -> "KernelBtf":
        """The BTF in a file. Raises NotSupportedError when the kernel shows none, else OSError."""
        try:
            return cls(_read(path), str(path))
        except FileNotFoundError:
            if Path(path) != VMLINUX:
                raise
            hint = f"{VMLINUX} is missing: it needs CONFIG_DEBUG_INFO_BTF=y, and sysfs at /sys."
            raise NotSupportedError("describing its own types (BTF)", "5.4", hint=hint) from None

    def find(self, kind: BtfKind, name: str) -> int | None:
        """The id of the first type of this kind and name; None if there is none.

        The first lookup may walk all types (25 ms for 126 585 of them), later ones take about 5 ms.
        """
        found = None
        for offset in self._name_offsets(name):
            for word in self._words_equal_to(offset):
                if word + 1 < len(self._words) and self._words[word + 1] >> 24 & 0x1F == kind:
                    type_id = self._id_at(word)
                    if type_id is not None and (found is None or type_id < found):
                        found = type_id
        return found

    def require(self, kind: BtfKind, name: str, what: str = "", prefix: str = "") -> int:
        """As `find`; raises KernelCannotError naming the nearest spelling when there is none.

        `what` is the noun for the message ("tracepoint"), `prefix` the part of `name` the user did not
        write ("btf_trace_").
        """
        type_id = self.find(kind, name)
        if type_id is not None:
            return type_id
        shown = name.removeprefix(prefix)
        noun = what or kind.name.removeprefix("BTF_KIND_").lower()
        near = self._nearest(kind, name, prefix)
        hint = f"The nearest name is {near.removeprefix(prefix)}." if near else None
        raise KernelCannotError(
            f"{self._where}: this kernel has no {noun} {shown} (names in modules are not searched)", hint=hint
        )

    def tracepoint(self, name: str) -> int:
        """`attach_btf_id` for tp_btf/NAME: the typedef of the tracepoint's probe. As `require`."""
        return self.require(BtfKind.BTF_KIND_TYPEDEF, f"btf_trace_{name}", "tracepoint", "btf_trace_")

    def iterator(self, name: str) -> int:
        """`attach_btf_id` for iter/NAME. As `require`."""
        return self.require(BtfKind.BTF_KIND_FUNC, f"bpf_iter_{name}", "BPF iterator", "bpf_iter_")

    def lsm_hook(self, name: str) -> int:
        """`attach_btf_id` for lsm/NAME. As `require`."""
        return self.require(BtfKind.BTF_KIND_FUNC, f"bpf_lsm_{name}", "LSM hook", "bpf_lsm_")

    def function(self, name: str) -> int:
        """The id of a kernel function, for fentry/fexit/fmod_ret and kfuncs. As `require`."""
        return self.require(BtfKind.BTF_KIND_FUNC, name, "function")

    def variable(self, name: str) -> int:
        """The id of a kernel variable with a type: the per-CPU ones, on most kernels. As `require`."""
        return self.require(BtfKind.BTF_KIND_VAR, name, "typed variable")

    def _damaged(self, why: str) -> ObjectFormatError:
        return ObjectFormatError(f"{self._where}: damaged BTF: {why}")

    def _name_offsets(self, name: str) -> list[int]:
        """Where the string section holds `name`; once, as strings of a kernel's BTF are unique.

        A tail of a longer string does not count: no writer of kernel BTF shares tails, and short
        names are the tail of thousands.
        """
        needle = b"\0" + name.encode() + b"\0"
        offsets: list[int] = []
        if not name or "\0" in name:
            return []
        at = self._strings.find(needle)
        while at >= 0 and len(offsets) < _MAX_DUPLICATES:
            offsets.append(at + 1)
            at = self._strings.find(needle, at + 1)
        return offsets

    def _words_equal_to(self, value: int) -> list[int]:
        needle, words = value.to_bytes(4, "little"), []
        at = self._types.find(needle)
        while at >= 0:
            if at % 4 == 0:
                words.append(at // 4)
            at = self._types.find(needle, at + 1)
        return words

    def _id_at(self, word: int) -> int | None:
        """The id of the record that starts at this word; None if none starts there."""
        while not self._end_known and self._marks[-1] <= word:
            self._step_on()
        mark = bisect_right(self._marks, word) - 1
        position, number = self._marks[mark], mark * _MARK_EVERY
        while position < word:
            position += self._lengths[self._words[position + 1]]
            number += 1
        return number + 1 if position == word else None

    def _step_on(self) -> None:
        """Find the next mark, or the end."""
        info, words, lengths = self._marks[-1] + 1, self._words, self._lengths
        try:
            for _ in range(_MARK_EVERY):
                info += lengths[words[info]]
        except IndexError:
            self._end_known = True
            if info - 1 != len(words):
                raise self._damaged("a type reaches past the end of its section") from None
        else:
            self._marks.append(info - 1)

    def _nearest(self, kind: BtfKind, name: str, prefix: str) -> str | None:
        """A similar name of the same kind, looked for among those that start alike."""
        import difflib  # for a failure only

        start = (prefix or name[:3]).encode()
        pool = re.findall(rb"(?<=\0)" + re.escape(start) + rb"[\w.]*(?=\0)", self._strings)
        if len(pool) > _MAX_SUGGESTION_POOL:
            return None
        names: list[str] = [entry.decode("ascii", "replace") for entry in pool]
        for candidate in difflib.get_close_matches(name, names, n=3, cutoff=0.8):
            if self.find(kind, candidate) is not None:
                return candidate
        return None


@cache
def vmlinux() -> KernelBtf:
    """The running kernel's BTF, read once per process. Raises NotSupportedError."""
    return KernelBtf.open()


def _read(path: Path | str) -> "bytes | mmap.mmap":
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ObjectFormatError(f"{path} is not a file")
        if status.st_size > _MAX_BYTES:
            raise ObjectFormatError(f"{path} is larger than {_MAX_BYTES >> 20} MiB, too large for BTF")
        if str(path).startswith("/sys/kernel/btf/"):
            # Elsewhere a file may shrink under us, and a mapping then ends the process with SIGBUS.
            try:
                return mmap.mmap(fd, status.st_size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            except (OSError, ValueError):
                pass  # ENODEV before Linux 6.16: read it
        return _read_all(fd)
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    """Everything up to the end; sysfs hands out at most a page per read."""
    parts, total = [], 0
    while total <= _MAX_BYTES and (part := os.read(fd, 1 << 20)):
        parts.append(part)
        total += len(part)
    return b"".join(parts)

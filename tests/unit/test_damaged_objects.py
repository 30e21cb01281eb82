"""Damaged and hostile objects end in a typed error, in time; one case for each fault once found.

The mutants are tools/fuzz_objects.py's. No mutant ever found the cases below: they are small files
that stand for much, made by someone who knows the reader.
"""

import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from chadthrottle.bpf import commands
from chadthrottle.bpf.btf import BTF_HEADER
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.errors import ObjectFormatError
from chadthrottle.bpf.parse import parse_object
from tools import fuzz_trial
from tools.fuzz_mutations import mutate
from tools.fuzz_objects import Corpus, compile_corpus, fuzz, mutant_of
from tools.fuzz_trial import judge

COUNT = 600
# Seconds of CPU for one hostile object, on a machine with other things to do.
SOON = 4.0

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS, SHT_REL = 1, 2, 3, 8, 9
EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
CALL = struct.pack("<BBhi", 0x85, 0x10, 0, -1)
GLOBAL_FUNC = 0x12


class Elf:
    """Writes an object file, section by section. Names, symbols and relocations as the test likes."""

    def __init__(self) -> None:
        self._body, self._names = bytearray(64), bytearray(1)
        self._headers = [bytearray(64)]

    def section(self, name: str, data: bytes = b"", kind: int = SHT_PROGBITS, flags: int = 0, **fields: int) -> int:
        """Its index. Fields: size (of .bss), link, info, entsize."""
        size = fields.get("size", len(data))
        link, info, entsize = (fields.get(field, 0) for field in ("link", "info", "entsize"))
        words = (len(self._names), kind, flags, 0, len(self._body), size, link, info, 1, entsize)
        self._headers.append(bytearray(struct.pack("<IIQQQQIIQQ", *words)))
        self._names += name.encode() + b"\0"
        self._body += data
        return len(self._headers) - 1

    def code(self, name: str, code: bytes) -> int:
        return self.section(name, code, flags=6)

    def functions(self, *functions: tuple[str, int, int, int]) -> None:
        """A symbol table of global functions: name, section, start, size."""
        names, symbols = bytearray(1), bytearray(24)
        for name, section, start, size in functions:
            symbols += struct.pack("<IBBHQQ", len(names), GLOBAL_FUNC, 0, section, start, size)
            names += name.encode() + b"\0"
        link = self.section(".strtab", bytes(names), SHT_STRTAB)
        self.section(".symtab", bytes(symbols), SHT_SYMTAB, link=link, entsize=24)

    def place(self, index: int, offset: int, size: int) -> None:
        """Let a section claim these bytes of the file."""
        struct.pack_into("<QQ", self._headers[index], 24, offset, size)

    def finish(self) -> bytes:
        names = self.section(".shstrtab", bytes(self._names) + b".shstrtab\0", SHT_STRTAB)
        ident = b"\x7fELF\2\1\1" + bytes(9)
        fields = (1, 247, 1, 0, 0, len(self._body), 0, 64, 0, 0, 64, len(self._headers), names)
        struct.pack_into("<16sHHIQQQIHHHHHH", self._body, 0, ident, *fields)
        return bytes(self._body) + b"".join(self._headers)


def btf(types: bytes, strings: bytes) -> bytes:
    header = BTF_HEADER.pack(0xEB9F, 1, 0, BTF_HEADER.size, 0, len(types), len(types), len(strings))
    return header + types + strings


def record(name: int, kind: BtfKind, vlen: int, value: int, *words: int) -> bytes:
    return struct.pack(f"<III{len(words)}I", name, kind << 24 | vlen, value, *words)


def refused(data: bytes) -> str:
    """The message, within the time it may take."""
    started = time.process_time()
    with pytest.raises(ObjectFormatError) as caught:
        parse_object(data, "hostile")
    assert time.process_time() - started < SOON
    return caught.value.message


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return compile_corpus(tmp_path_factory.mktemp("corpus"))


def test_mutants_are_parsed_or_refused(corpus: Corpus, tmp_path: Path) -> None:
    summary = fuzz(corpus, seed=3, numbers=range(COUNT), kernel=False, save=tmp_path)
    assert [f"{f.number}: {f.what}" for f in summary.failures] == []
    assert summary.mutants == COUNT
    # If nearly all were refused at the door, nothing behind it would have been tried.
    assert COUNT // 4 < summary.parsed["ok"] < COUNT * 3 // 4


def test_mutants_are_the_same_in_every_run(corpus: Corpus) -> None:
    assert [mutant_of(corpus, 1, n) for n in range(50)] == [mutant_of(corpus, 1, n) for n in range(50)]
    assert mutate(Random(1), corpus["maps"]) != mutate(Random(2), corpus["maps"])


def test_unharmed_objects_pass(corpus: Corpus) -> None:
    verdicts = {name: judge(layout.data, name, kernel=False) for name, layout in corpus.items()}
    assert {name: v.failure for name, v in verdicts.items() if v.failure} == {}
    assert verdicts["traffic"].parsed == "ok"


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(*_: object) -> None:
    while True:
        pass


def leave_open(*_: object) -> None:
    os.open("/dev/null", os.O_RDONLY)
    raise ObjectFormatError("but a descriptor is left")


def run_out_of_memory(*_: object) -> None:
    try:
        bytearray(8 << 30)
    except MemoryError as error:
        raise ObjectFormatError("damaged") from error


def grow(*_: object) -> None:
    filled = bytearray(b"x") * (100 << 20)
    raise ObjectFormatError(f"{len(filled)} bytes")


def talk(*_: object) -> None:
    raise ObjectFormatError("x" * 100_000)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (die, "the worker died"),
        (hang, "too slow"),
        (leave_open, "1 descriptors left open"),
        (run_out_of_memory, "MemoryError behind it"),
        (grow, "MiB of memory"),
        (talk, "a message of"),
        (lambda *_: 1 // 0, "ZeroDivisionError"),
    ],
    ids=["dies", "hangs", "leaks", "runs-out-of-memory", "grows", "talks", "raises"],
)
def test_the_fuzzer_sees(
    fault: Callable[..., None], said: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fuzzer that finds nothing has to show that it could."""
    monkeypatch.setattr(fuzz_trial, "parse_object", fault)
    monkeypatch.setattr(fuzz_trial, "PARSE_SECONDS", 1.0)
    summary = fuzz(corpus, seed=1, numbers=range(7, 8), kernel=False, save=tmp_path)
    (failure,) = summary.failures
    assert failure.number == 7
    assert said in failure.what
    assert len(list(tmp_path.glob("1-7-*.bpf.o"))) == len(list(tmp_path.glob("1-7-*.txt"))) == 1


def test_sections_that_share_bytes() -> None:
    """3000 headers over one file of 600 KB were 1.8 GB of section contents."""
    elf = Elf()
    shared = [elf.section(f"s{number}") for number in range(3000)]
    elf.section("big", bytes(400_000))
    for index in shared:
        elf.place(index, 1, 400_000)
    assert "overlaps another" in refused(elf.finish())


def test_symbols_named_by_the_tails_of_one_string() -> None:
    """4000 symbols in 484 KB were 1.1 GB of names, and took 8 s."""
    elf = Elf()
    symbols = b"".join(struct.pack("<IBBHQQ", 1 + 50 * n, 2, 0, 1, 0, 8) for n in range(4000))
    strings = elf.section(".strtab", b"\0" + b"a" * 400_000 + b"\0", SHT_STRTAB)
    elf.section(".symtab", symbols, SHT_SYMTAB, link=strings, entsize=24)
    assert "no name ends within 4096 bytes" in refused(elf.finish())


def test_a_million_symbols() -> None:
    """At 50 us each it would have taken most of a minute to find nothing in them."""
    elf = Elf()
    strings = elf.section(".strtab", b"\0", SHT_STRTAB)
    elf.section(".symtab", bytes(24 * 600_000), SHT_SYMTAB, link=strings, entsize=24)
    assert "600000 entries" in refused(elf.finish())


def test_btf_named_by_the_tails_of_one_string() -> None:
    """The same in BTF: 1.1 GB, 5 s."""
    elf = Elf()
    types = b"".join(record(1 + 50 * n, BtfKind.BTF_KIND_FUNC, 0, 1) for n in range(4000))
    elf.section(".BTF", btf(types, b"\0" + b"a" * 400_000 + b"\0"))
    assert "no BTF string ends within 4096 bytes" in refused(elf.finish())


def test_much_bss() -> None:
    """1500 sections of 4 MiB that take no byte of the file ended in a MemoryError."""
    elf = Elf()
    for number in range(1500):
        elf.section(f".bss.{number}", kind=SHT_NOBITS, size=4 << 20)
    assert "the data sections take more than" in refused(elf.finish())


def test_kconfig_variables_of_any_size() -> None:
    """A char array of 2 GiB was allocated by the loader before its type was looked at."""
    elf = Elf()
    symbol = struct.pack("<IBBHQQ", 1, 0x10, 0, 0, 0, 0)
    strings = elf.section(".strtab", b"\0CONFIG_X\0", SHT_STRTAB)
    elf.section(".symtab", bytes(24) + symbol, SHT_SYMTAB, link=strings, entsize=24)
    types = record(0, BtfKind.BTF_KIND_INT, 0, 1, 8) + record(0, BtfKind.BTF_KIND_ARRAY, 0, 0, 1, 1, 1 << 31)
    types += record(1, BtfKind.BTF_KIND_VAR, 0, 2, 2) + record(10, BtfKind.BTF_KIND_DATASEC, 1, 0, 3, 0, 0)
    elf.section(".BTF", btf(types, b"\0CONFIG_X\0.kconfig\0"))
    assert "the .kconfig variables take 2147483648 bytes" in refused(elf.finish())


def test_many_programs_that_call_one_large_function() -> None:
    """Each takes a copy: a file of 8 MB could stand for 80 GB of instructions."""
    elf, count, length = Elf(), 300, 20_000
    text = elf.code(".text", EXIT * length)
    programs = elf.code("tc", (CALL + EXIT) * count)
    elf.functions(
        ("shared", text, 0, 8 * length), *((f"p{number}", programs, 16 * number, 16) for number in range(count))
    )
    relocations = b"".join(struct.pack("<QQ", 16 * number, 1 << 32 | 10) for number in range(count))
    elf.section(".reltc", relocations, SHT_REL, info=programs, link=4, entsize=16)
    assert "more than 2000000 instructions together" in refused(elf.finish())


def extension(table: int, record_size: int, groups: bytes) -> bytes:
    """A .BTF.ext with one table: 0 func_info, 1 line_info, 2 core_relo."""
    data = struct.pack("<I", record_size) + groups
    places = [0, 0, 0, 0, 0, 0]
    places[2 * table + 1] = len(data)
    return struct.pack("<HBBI6I", 0xEB9F, 1, 0, 32, *places) + data


def test_line_info_in_a_hundred_thousand_groups() -> None:
    """Appending each to what was there took 35 s."""
    elf = Elf()
    groups = (struct.pack("<II", 1, 1) + bytes(16)) * 100_000
    code = elf.code("tc", EXIT)
    elf.functions(("program", code, 0, 8))
    elf.section(".BTF", btf(b"", b"\0tc\0"))
    elf.section(".BTF.ext", extension(1, 16, groups))
    assert "has more debug information than instructions" in refused(elf.finish())


def test_core_access_through_a_large_struct() -> None:
    """200 accesses of 300 steps, each listing 60 000 members, took minutes to explain."""
    elf = Elf()
    members = 60_000
    struct_of_itself = record(1, BtfKind.BTF_KIND_STRUCT, members, 8) + struct.pack("<III", 1, 1, 0) * members
    strings = b"\0A\0tc\0" + b":".join([b"59999"] * 300) + b"\0"
    code = elf.code("tc", EXIT)
    elf.functions(("program", code, 0, 8))
    elf.section(".BTF", btf(struct_of_itself, strings))
    elf.section(".BTF.ext", extension(2, 16, struct.pack("<II", 3, 200) + struct.pack("<IIII", 0, 1, 6, 0) * 200))
    started = time.process_time()
    lines = commands.dump(parse_object(elf.finish(), "hostile")).lines()
    assert time.process_time() - started < SOON
    assert sum("the offset of type 1, access '59999:59999:" in line for line in lines) == 200


def map_object(*members: tuple[str, int, int], types: bytes = b"") -> bytes:
    """One map `m` of a struct of (name, type id, times); type 1 is int, 2 the struct, 3 m, 4 .maps."""
    names = b"\0m\0.maps\0"
    listed = b""
    total = 0
    for name, type_id, times in members:
        listed += struct.pack("<III", len(names), type_id, 0) * times
        names += name.encode() + b"\0"
        total += times
    records = record(0, BtfKind.BTF_KIND_INT, 0, 4, 32)
    records += record(0, BtfKind.BTF_KIND_STRUCT, total, 8) + listed
    records += record(1, BtfKind.BTF_KIND_VAR, 0, 2, 1)
    records += record(3, BtfKind.BTF_KIND_DATASEC, 1, 8, 3, 0, 8) + types
    elf = Elf()
    section = elf.section(".maps", bytes(8))
    strings = elf.section(".strtab", b"\0m\0", SHT_STRTAB)
    symbol = struct.pack("<IBBHQQ", 1, 0x11, 0, section, 0, 8)
    elf.section(".symtab", bytes(24) + symbol, SHT_SYMTAB, link=strings, entsize=24)
    elf.section(".BTF", btf(records, names))
    return elf.finish()


def test_a_map_with_thousands_of_attributes() -> None:
    """Times thousands of maps of that one struct: a quarter of an hour for 1.4 MB."""
    assert "is no struct of a map's attributes" in refused(map_object(("type", 1, 60_000)))


def test_a_map_size_beyond_32_bits() -> None:
    """ctypes cut 2**32 + 8 down to 8: a map of another size than the spec said."""
    types = record(0, BtfKind.BTF_KIND_ENUM64, 1, 8, 0, 1, 0)  # 5: one value, 1
    types += record(0, BtfKind.BTF_KIND_ENUM64, 1, 8, 0, 8, 1)  # 6: one value, 2**32 + 8
    assert "max_entries of 4294967304 does not fit 32 bits" in refused(
        map_object(("type", 5, 1), ("max_entries", 6, 1), types=types)
    )
    assert parse_object(map_object(("type", 5, 1), ("map_extra", 6, 1), types=types), "m").maps["m"].map_extra


def test_one_kfunc_listed_many_times() -> None:
    """65535 mentions of a function with 60 000 parameters: each was gone through each time."""
    elf = Elf()
    strings = elf.section(".strtab", b"\0f\0", SHT_STRTAB)
    symbol = struct.pack("<IBBHQQ", 1, 0x10, 0, 0, 0, 0)
    elf.section(".symtab", bytes(24) + symbol, SHT_SYMTAB, link=strings, entsize=24)
    types = record(0, BtfKind.BTF_KIND_INT, 0, 4, 32)
    types += record(0, BtfKind.BTF_KIND_FUNC_PROTO, 60_000, 1) + struct.pack("<II", 1, 1) * 60_000
    types += record(1, BtfKind.BTF_KIND_FUNC, 2, 2)
    types += record(3, BtfKind.BTF_KIND_DATASEC, 60_000, 0) + struct.pack("<III", 3, 0, 0) * 60_000
    elf.section(".BTF", btf(types, b"\0f\0.ksyms\0"))
    started = time.process_time()
    assert list(parse_object(elf.finish(), "hostile").externs) == ["f"]
    assert time.process_time() - started < SOON

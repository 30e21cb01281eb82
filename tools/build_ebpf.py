"""Compiles BPF C sources into CO-RE objects: the one build function.

tasks.py, the wheel's build hook and the tests call it. Standard library only, because a build hook
runs before anything else is installed.

    SOURCE_DIR/NAME.bpf.c ── clang ──> OUTPUT_DIR/NAME.bpf.o     (release: then llvm-strip)

Every object carries a section `.chadthrottle` that says what it was made of:

    sources=sha256:<hex>     source_hash(): the source, all headers, the flags, the flavour
    flavour=release
    clang=19.1.7

An object is rebuilt when one of the three differs, never because of a file's time. The bytes depend
on those three alone: clang runs in the source root with relative paths, without host headers.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = [
    "EBPF",
    "OBJECTS",
    "ROOT",
    "BuildError",
    "Built",
    "Clang",
    "CompileError",
    "Flavour",
    "Stamp",
    "ToolError",
    "build",
    "build_project",
    "find_clang",
    "project_hash",
    "read_stamp",
    "source_hash",
]

Flavour = Literal["debug", "release"]

ROOT = Path(__file__).resolve().parents[1]
EBPF = ROOT / "ebpf"
OBJECTS = ROOT / "chadthrottle" / "objects"

OLDEST_CLANG = 14
NEWEST_KNOWN_CLANG = 22
RELEASE_CLANG = 19

COMPILE_FLAGS = (
    "--target=bpfel",  # little-endian whatever the host: one object serves x86-64, arm64, riscv64, …
    "-mcpu=v3",  # 32-bit arithmetic and jumps: Linux 5.1
    "-std=gnu11",  # clang's own default changes with its version
    "-O2",
    "-g",  # BTF, and the source lines that verifier logs quote
    "-Wall",
    "-Wextra",
    "-Werror",
    "-nostdinc",  # no header of the host takes part, not even clang's own
    "-fno-addrsig",  # a table for linkers, which no BPF loader reads
    # BTF names files by joining this and the relative path. Mapping prefixes instead would hide the
    # files from clang, which reads them again for the source lines it puts into BTF.
    "-fdebug-compilation-dir=.",
)

# Debug objects are what clang wrote: DWARF for llvm-objdump -S, local labels, 2-3 times the size.
# Release objects lose both; instructions, symbols, relocations, .BTF and .BTF.ext are the same, so
# that what the tests ran is what ships, and verifier logs show source lines in either.
STRIP_FLAGS = ("--strip-debug", "--wildcard", "--strip-symbol=LBB*", "--strip-symbol=.L*")

# Variables by which clang would take headers or options from the caller's environment.
CLANG_VARIABLES = frozenset({"CPATH", "C_INCLUDE_PATH", "CCC_OVERRIDE_OPTIONS", "COMPILER_PATH"})

STAMP_HEADER = Path(__file__).with_name("stamp.h")
STAMP = re.compile(rb"sources=sha256:([0-9a-f]{64})\nflavour=(debug|release)\nclang=([0-9.]+)\n")


class BuildError(Exception):
    """An object could not be built; the message is for the user and says what to do."""


class ToolError(BuildError):
    """clang or llvm-strip is missing, too old or of the wrong version."""


class CompileError(BuildError):
    """clang or llvm-strip refused a source; the message has all it printed."""


class Clang(NamedTuple):
    """A compiler that was found and asked for its version."""

    path: str
    version: str  # "19.1.7"

    @property
    def major(self) -> int:
        """The number in the names of Debian's packages."""
        return int(self.version.partition(".")[0])


class Stamp(NamedTuple):
    """What an object says about its making."""

    sources: str  # 64 hexadecimal digits
    flavour: str
    clang: str


class Built(NamedTuple):
    """One object that is now there and up to date."""

    path: Path
    rebuilt: bool


def build(
    source_dir: Path,
    include_dirs: Sequence[Path],
    output_dir: Path,
    flavour: Flavour,
    *,
    clang: Clang | None = None,
) -> list[Built]:
    """Bring the object of every SOURCE_DIR/*.bpf.c up to date, and return them sorted by name.

    Headers are looked for beside the source and in include_dirs. All objects are replaced, each in
    one step, or on an error none. Raises ToolError and CompileError.
    """
    clang = clang or find_clang(flavour)
    sources = sorted(source_dir.glob("*.bpf.c"))
    output_dir.mkdir(parents=True, exist_ok=True)
    wanted = {
        output_dir / f"{source.stem}.o": (
            source,
            Stamp(source_hash(source, include_dirs, flavour), flavour, clang.version),
        )
        for source in sources
    }
    outdated = [path for path, (_, stamp) in wanted.items() if read_stamp(path) != stamp]
    if outdated:
        strip = find_strip(clang) if flavour == "release" else None
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".build-") as scratch:

            def make(path: Path) -> None:
                source, stamp = wanted[path]
                _compile(clang, source, include_dirs, stamp, Path(scratch, path.name))
                if strip is not None:
                    _run([strip, *STRIP_FLAGS, str(Path(scratch, path.name))], path)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(make, outdated))
            for path in outdated:
                Path(scratch, path.name).replace(path)
    return [Built(path, path in outdated) for path in wanted]


def build_project(flavour: Flavour, output_dir: Path = OBJECTS) -> list[Built]:
    """Build ebpf/ into output_dir, remove objects whose source is gone, and say what was done.

    Raises as build() does.
    """
    clang = find_clang(flavour)
    if flavour == "release" and clang.major != RELEASE_CLANG:
        print(
            f"WARNING: releases are built with clang-{RELEASE_CLANG}, this one is built with {clang.path} "
            f"{clang.version}: its objects will differ from the released ones.",
            file=sys.stderr,
        )
    results = build(EBPF, [EBPF], output_dir, flavour, clang=clang)
    for orphan in sorted(set(output_dir.glob("*.bpf.o")) - {result.path for result in results}):
        orphan.unlink()
        print(f"removed {_relative(orphan)}: it has no source any more")
    for path, rebuilt in results:
        done = f"built with {clang.path} {clang.version}" if rebuilt else "up to date"
        print(f"{_relative(path)} ({flavour}): {done}")
    return results


def project_hash(name: str, flavour: Flavour) -> str:
    """Hash of what ebpf/NAME.bpf.c would be built from now. Raises OSError when it is not there."""
    return source_hash(EBPF / f"{name}.bpf.c", [EBPF], flavour)


def source_hash(source: Path, include_dirs: Sequence[Path], flavour: Flavour) -> str:
    """SHA-256, in hexadecimal, of everything but the compiler that decides an object's bytes.

    All headers count, included or not: to know which are, the compiler would have to be run. Names
    count relative to their directory, so that the hash is the same wherever the checkout lies.
    """
    flags = COMPILE_FLAGS + (STRIP_FLAGS if flavour == "release" else ())
    parts = [("flags", "\0".join((flavour, *flags)).encode())]
    parts += [(path.name, path.read_bytes()) for path in (STAMP_HEADER, source)]
    for directory in dict.fromkeys((source.parent, *include_dirs)):
        headers = sorted(directory.rglob("*.h"))
        parts += [(path.relative_to(directory).as_posix(), path.read_bytes()) for path in headers]
    digest = hashlib.sha256()
    for label, content in parts:
        digest.update(f"{label}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def read_stamp(path: Path) -> Stamp | None:
    """What the object at path says of itself; None when it is missing or not one of ours.

    Searched in the bytes, not by way of the section table: 64 hexadecimal digits between these words
    stand nowhere else in an object.
    """
    try:
        found = STAMP.search(path.read_bytes())
    except FileNotFoundError:
        return None
    return Stamp(*(group.decode() for group in found.groups())) if found else None


def find_clang(flavour: Flavour) -> Clang:
    """The compiler to use: $CLANG, else the first usable of clang, clang-22, …, clang-14.

    For a release clang-19 comes first. Raises ToolError when $CLANG will not do, or nothing is found.
    """
    if asked := os.environ.get("CLANG"):
        version = _clang_version(asked)
        if version is None or Clang(asked, version).major < OLDEST_CLANG:
            raise ToolError(
                f"$CLANG is {asked!r}: {f'clang {version} is too old' if version else 'no clang runs there'}.\n"
                f"Set it to clang {OLDEST_CLANG} or newer, or unset it."
            )
        return Clang(asked, version)
    names = ["clang", *(f"clang-{major}" for major in range(NEWEST_KNOWN_CLANG, OLDEST_CLANG - 1, -1))]
    if flavour == "release":
        names.insert(0, f"clang-{RELEASE_CLANG}")
    too_old = ""
    for name in names:
        version = _clang_version(name)
        if version and Clang(name, version).major >= OLDEST_CLANG:
            return Clang(name, version)
        if version:
            too_old = f" ({name} is {version})"
    raise ToolError(
        f"No clang {OLDEST_CLANG} or newer found{too_old}; it compiles the BPF programs.\n"
        f"Debian, Ubuntu: apt-get install clang-{RELEASE_CLANG} llvm-{RELEASE_CLANG}\n"
        "Fedora: dnf install clang llvm\n"
        "Or set $CLANG to the one to use."
    )


def find_strip(clang: Clang) -> str:
    """The llvm-strip of clang's own version. Raises ToolError when there is none."""
    beside = subprocess.run(
        [clang.path, "--print-prog-name=llvm-strip"], capture_output=True, text=True, check=False
    ).stdout.strip()
    for candidate in filter(None, (beside, f"llvm-strip-{clang.major}")):
        version = _version(candidate, r"LLVM version (\d+\.\d+\.\d+)")
        if version and version.partition(".")[0] == str(clang.major):
            return candidate
    raise ToolError(
        f"No llvm-strip {clang.major} found, to go with {clang.path} {clang.version}; a release needs it.\n"
        f"Debian, Ubuntu: apt-get install llvm-{clang.major}\n"
        "Fedora: dnf install llvm"
    )


def _compile(clang: Clang, source: Path, include_dirs: Iterable[Path], stamp: Stamp, output: Path) -> None:
    # Two levels of quoting: a C string literal whose value is the text of an assembler string.
    text = f"sources=sha256:{stamp.sources}\\\\nflavour={stamp.flavour}\\\\nclang={stamp.clang}\\\\n"
    command = [clang.path, *COMPILE_FLAGS]
    command += [f"-I{_relative(directory)}" for directory in include_dirs]
    command += ["-include", _relative(STAMP_HEADER), f'-DCHADTHROTTLE_STAMP="{text}"']
    _run([*command, "-c", _relative(source), "-o", str(output.resolve())], source)


def _run(command: list[str], about: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in CLANG_VARIABLES}
    environment["CLANG_NO_DEFAULT_CONFIG"] = "1"  # from clang 16 on: no options from /etc/clang
    try:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ToolError(f"{command[0]}: {error.strerror}") from error
    if result.returncode:
        output = (result.stdout + result.stderr).rstrip()
        raise CompileError(f"{command[0]} failed on {_relative(about)}:\n{output}")
    sys.stderr.write(result.stderr)


def _clang_version(name: str) -> str | None:
    return _version(name, r"clang version (\d+\.\d+\.\d+)")


def _version(program: str, pattern: str) -> str | None:
    if shutil.which(program) is None:
        return None
    try:
        result = subprocess.run([program, "--version"], capture_output=True, text=True, errors="replace", check=False)
    except OSError:  # there, but not a program of this machine
        return None
    found = re.search(pattern, result.stdout)
    return found[1] if found else None


def _relative(path: Path) -> str:
    """Path as seen from ROOT, where clang runs."""
    return os.path.relpath(path.resolve(), ROOT)

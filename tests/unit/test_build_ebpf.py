"""tools/build_ebpf.py: what gets rebuilt, what an object says of itself, and what it must not depend on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tools import build_ebpf
from tools.build_ebpf import BuildError, Clang, CompileError, ToolError, build, find_clang, find_strip, read_stamp

SOURCE = """\
#include "answer.h"
#define SEC(name) __attribute__((section(name), used))
static __attribute__((noinline)) int twice(int number) { volatile int result = number; return result * 2; }
SEC("socket") int first(void *context) { if (!context) return 0; return twice(ANSWER); }
char LICENSE[] SEC("license") = "Dual MIT/GPL";
"""

# What loaders read; all else may go in a release.
LOADED = (".text", "socket", "license", ".relsocket", ".BTF", ".rel.BTF", ".BTF.ext", ".rel.BTF.ext", ".symtab")


class Project:
    """A source, a header directory and a place for objects."""

    def __init__(self, root: Path) -> None:
        self.sources, self.headers, self.objects = root / "src", root / "include", root / "objects"
        self.sources.mkdir()
        self.headers.mkdir()
        self.source = self.sources / "first.bpf.c"
        self.header = self.headers / "answer.h"
        self.object = self.objects / "first.bpf.o"
        self.source.write_text(SOURCE)
        self.header.write_text("#define ANSWER 42\n")

    def build(self, flavour: build_ebpf.Flavour = "debug", clang: Clang | None = None) -> list[str]:
        """Names of the objects that were rebuilt."""
        results = build(self.sources, [self.headers], self.objects, flavour, clang=clang)
        return [result.path.name for result in results if result.rebuilt]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def installed_clangs() -> list[Clang]:
    found = []
    for major in range(build_ebpf.OLDEST_CLANG, build_ebpf.NEWEST_KNOWN_CLANG + 1):
        if path := shutil.which(f"clang-{major}"):
            output = subprocess.run([path, "-dumpversion"], capture_output=True, text=True, check=True).stdout
            found.append(Clang(path, output.strip()))
    return found or [find_clang("debug")]


each_clang = pytest.mark.parametrize("clang", installed_clangs(), ids=lambda clang: f"clang-{clang.major}")


def sections(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        return {section.name: section.data() for section in ELFFile(file).iter_sections()}


def symbols(path: Path) -> set[str]:
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {symbol.name for symbol in table.iter_symbols()}


def test_rebuilds_only_what_changed(project: Project) -> None:
    (project.sources / "second.bpf.c").write_text(SOURCE)
    assert project.build() == ["first.bpf.o", "second.bpf.o"]
    assert project.build() == []
    os.utime(project.header)
    assert project.build() == []
    project.source.write_text(SOURCE + "int more;\n")
    assert project.build() == ["first.bpf.o"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda project: project.header.write_text("#define ANSWER 43\n"), id="header"),
        pytest.param(lambda project: (project.headers / "new.h").touch(), id="new header"),
        pytest.param(lambda project: (project.sources / "beside.h").touch(), id="header beside the source"),
        pytest.param(lambda project: project.object.unlink(), id="object gone"),
        pytest.param(lambda project: project.object.write_bytes(b"not ours"), id="object of someone else"),
    ],
)
def test_rebuilds_when(project: Project, change: Callable[[Project], object]) -> None:
    project.build()
    change(project)
    assert project.build() == ["first.bpf.o"]
    assert project.build() == []


def test_another_flavour_or_flag_or_compiler_is_another_object(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.build("debug")
    assert project.build("release") == ["first.bpf.o"]
    assert project.build("debug") == ["first.bpf.o"]
    monkeypatch.setattr(build_ebpf, "COMPILE_FLAGS", (*build_ebpf.COMPILE_FLAGS, "-DMORE"))
    assert project.build("debug") == ["first.bpf.o"]
    other = find_clang("debug")._replace(version="14.0.99")
    assert project.build("debug", other) == ["first.bpf.o"]
    assert project.build("debug", other) == []


@each_clang
def test_object_says_what_it_was_made_of(project: Project, clang: Clang) -> None:
    for flavour in get_args(build_ebpf.Flavour):
        project.build(flavour, clang)
        sources = build_ebpf.source_hash(project.source, [project.headers], flavour)
        text = f"sources=sha256:{sources}\nflavour={flavour}\nclang={clang.version}\n"
        assert sections(project.object)[".chadthrottle"] == text.encode()
        assert read_stamp(project.object) == (sources, flavour, clang.version)


@each_clang
def test_release_has_the_same_programs_without_debug_information(project: Project, clang: Clang) -> None:
    project.build("debug", clang)
    debug, debug_symbols = sections(project.object), symbols(project.object)
    project.build("release", clang)
    release = sections(project.object)
    assert set(LOADED) <= set(release)
    assert not [name for name in release if "debug" in name or "addrsig" in name]
    assert [name for name in debug if ".debug_info" in name]
    # Relocations against symbols carry their numbers, which change with the symbol table.
    same = set(LOADED) - {".symtab"} - {name for name in LOADED if name.startswith(".rel")}
    assert {name: release[name] for name in same} == {name: debug[name] for name in same}
    assert {"first", "twice", "LICENSE"} <= symbols(project.object) <= debug_symbols
    assert not [name for name in symbols(project.object) if name.startswith("LBB")]


@each_clang
def test_bytes_do_not_depend_on_where_the_checkout_lies(tmp_path: Path, clang: Clang) -> None:
    for flavour in ("debug", "release"):
        built = []
        for place in ("here", "there/further/down"):
            root = tmp_path / flavour / place
            for folder in ("tools", "ebpf"):
                shutil.copytree(build_ebpf.ROOT / folder, root / folder)
            command = "import sys, build_ebpf; build_ebpf.build_project(sys.argv[1])"
            environment = os.environ | {"PYTHONPATH": str(root / "tools"), "CLANG": clang.path}
            subprocess.run([sys.executable, "-c", command, flavour], env=environment, cwd=tmp_path, check=True)
            built.append({path.name: path.read_bytes() for path in (root / "chadthrottle/objects").iterdir()})
        assert built[0] == built[1]
        assert built[0]
        assert not [name for name, content in built[0].items() if os.fsencode(tmp_path) in content]


def test_no_header_of_the_host_takes_part(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "host.h").write_text("int from_host;\n")
    for variable in ("CPATH", "C_INCLUDE_PATH"):
        monkeypatch.setenv(variable, str(tmp_path))
    for header in ("host.h", "stddef.h", "linux/bpf.h"):
        project.source.write_text(f"#include <{header}>\n" + SOURCE)
        with pytest.raises(CompileError, match=f"'{header}' file not found"):
            project.build()


def test_verifier_logs_will_find_their_source_lines(project: Project) -> None:
    project.build("release")
    assert b"return twice(ANSWER)" in sections(project.object)[".BTF"]


def test_a_failure_leaves_everything_as_it_was(project: Project) -> None:
    project.build()
    before = project.object.read_bytes()
    project.header.write_text("#define ANSWER 43\n")
    (project.sources / "wrong.bpf.c").write_text("int unused(int argument) { return 0; }\n")
    with pytest.raises(CompileError, match=r"wrong\.bpf\.c:1:16: error: unused parameter"):
        project.build()
    assert project.object.read_bytes() == before
    assert list(project.objects.iterdir()) == [project.object]


def test_project_build_removes_objects_without_source(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(project.header, project.sources)
    monkeypatch.setattr(build_ebpf, "EBPF", project.sources)
    project.objects.mkdir()
    orphan = project.objects / "renamed.bpf.o"
    orphan.touch()
    build_ebpf.build_project("debug", project.objects)
    assert list(project.objects.iterdir()) == [project.object]
    assert "renamed.bpf.o: it has no source any more" in capsys.readouterr().out


class Tools:
    """The only programs on $PATH, each answering --version."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, name: str, version: str) -> str:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\necho '{version}'\n")
        path.chmod(0o755)
        return str(path)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CLANG", raising=False)
    return Tools(tmp_path)


def test_clang_is_preferred_then_the_newest_version(tools: Tools) -> None:
    tools.add("clang-14", "Debian clang version 14.0.6")
    assert find_clang("debug") == ("clang-14", "14.0.6")
    tools.add("clang-16", "Debian clang version 16.0.6 (15~deb12u1)")
    assert find_clang("debug") == ("clang-16", "16.0.6")
    tools.add("clang", "clang version 17.0.1")
    assert find_clang("debug") == ("clang", "17.0.1")
    assert find_clang("release") == ("clang", "17.0.1")
    tools.add("clang-19", "clang version 19.1.7")
    assert find_clang("debug") == ("clang", "17.0.1")
    assert find_clang("release") == ("clang-19", "19.1.7")


def test_asked_for_clang_is_taken_or_refused(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools.add("clang", "clang version 19.1.7")
    monkeypatch.setenv("CLANG", tools.add("my-clang", "clang version 15.0.0"))
    assert find_clang("release").version == "15.0.0"
    monkeypatch.setenv("CLANG", tools.add("old", "clang version 11.0.1"))
    with pytest.raises(ToolError, match=r"clang 11\.0\.1 is too old"):
        find_clang("debug")
    monkeypatch.setenv("CLANG", tools.add("gcc", "gcc (Debian 12.2.0-14) 12.2.0"))
    with pytest.raises(ToolError, match="no clang runs there"):
        find_clang("debug")
    monkeypatch.setenv("CLANG", "/nowhere/clang")
    with pytest.raises(ToolError, match="no clang runs there"):
        find_clang("debug")


def test_too_old_clang_is_passed_over(tools: Tools) -> None:
    tools.add("clang", "clang version 11.0.1")
    with pytest.raises(ToolError, match=r"clang is 11\.0\.1"):
        find_clang("debug")
    tools.add("clang-15", "clang version 15.0.0")
    assert find_clang("debug") == ("clang-15", "15.0.0")


@pytest.mark.usefixtures("tools")
def test_missing_clang_names_the_packages() -> None:
    with pytest.raises(ToolError, match="apt-get install clang-19 llvm-19\nFedora: dnf install clang"):
        find_clang("release")


def test_strip_is_of_the_compilers_version(tools: Tools) -> None:
    other = tools.add("llvm-strip", "llvm-strip, compatible with GNU strip\nDebian LLVM version 14.0.6")
    clang = Clang(tools.add("clang-19", other), "19.1.7")  # its answer to --print-prog-name=llvm-strip
    with pytest.raises(ToolError, match="apt-get install llvm-19"):
        find_strip(clang)
    tools.add("llvm-strip-19", "Debian LLVM version 19.1.7")
    assert find_strip(clang) == "llvm-strip-19"
    assert find_strip(clang._replace(version="14.0.6")) == other


def test_release_with_another_clang_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(project.header, project.sources)
    monkeypatch.setattr(build_ebpf, "EBPF", project.sources)
    monkeypatch.setattr(build_ebpf, "RELEASE_CLANG", 99)
    build_ebpf.build_project("release", project.objects)
    assert "WARNING: releases are built with clang-99" in capsys.readouterr().err


def test_errors_are_one_family() -> None:
    assert issubclass(ToolError, BuildError)
    assert issubclass(CompileError, BuildError)

"""chadthrottle/artifacts.py: finding the objects, and refusing stale ones in a checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chadthrottle import artifacts
from chadthrottle.artifacts import MissingObjectError, StaleObjectError, check_fresh, flavour, object_path
from tools import build_ebpf


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose only program, `one`, has a debug object."""
    shutil.copytree(build_ebpf.ROOT / "tools", tmp_path / "tools")
    ebpf = tmp_path / "ebpf"
    ebpf.mkdir()
    (ebpf / "one.h").write_text("#define RESULT 1\n")
    (ebpf / "one.bpf.c").write_text('#include "one.h"\nint one(void) { return RESULT; }\n')
    objects = tmp_path / "chadthrottle" / "objects"
    monkeypatch.setattr(artifacts, "SOURCE_ROOT", tmp_path)
    monkeypatch.setattr(artifacts, "OBJECTS", objects)
    build_ebpf.build(ebpf, [ebpf], objects, "debug")
    return tmp_path


def test_object_built_from_these_sources_is_fresh(checkout: Path) -> None:
    check_fresh("one")
    assert object_path("one") == checkout / "chadthrottle" / "objects" / "one.bpf.o"


@pytest.mark.parametrize("changed", ["ebpf/one.bpf.c", "ebpf/one.h", "ebpf/new.h", "tools/stamp.h"])
def test_changed_source_makes_it_stale(checkout: Path, changed: str) -> None:
    with (checkout / changed).open("a") as file:
        file.write("/* changed */\n")
    with pytest.raises(StaleObjectError, match=r"(?s)one\.bpf\.o is stale.*invoke build-ebpf"):
        check_fresh("one")


def test_changed_flags_make_it_stale(checkout: Path) -> None:
    tool = checkout / "tools" / "build_ebpf.py"
    tool.write_text(tool.read_text().replace('"-O2"', '"-O1"'))
    with pytest.raises(StaleObjectError, match="compile flags"):
        check_fresh("one")


def test_object_without_source_is_stale(checkout: Path) -> None:
    (checkout / "ebpf" / "one.bpf.c").unlink()
    with pytest.raises(StaleObjectError, match=r"one\.bpf\.c is gone"):
        check_fresh("one")


@pytest.mark.parametrize("content", [b"", b"\x7fELF sources=sha256:12\nflavour=debug\n"])
def test_object_that_does_not_say_is_stale(checkout: Path, content: bytes) -> None:
    (checkout / "chadthrottle/objects/one.bpf.o").write_bytes(content)
    with pytest.raises(StaleObjectError, match="does not say"):
        check_fresh("one")


def test_installed_package_is_not_checked(checkout: Path) -> None:
    (checkout / "ebpf" / "one.h").write_text("#define RESULT 2\n")
    shutil.rmtree(checkout / "tools")
    check_fresh("one")


def test_missing_object_says_how_to_get_it(checkout: Path) -> None:
    with pytest.raises(MissingObjectError, match=r"(?s)two\.bpf\.o is missing.*invoke build-ebpf"):
        check_fresh("two")
    shutil.rmtree(checkout / "ebpf")
    with pytest.raises(MissingObjectError, match="Install chadthrottle again"):
        object_path("two")


def test_flavour(checkout: Path) -> None:
    ebpf, objects = checkout / "ebpf", checkout / "chadthrottle" / "objects"
    assert flavour() == "debug"
    build_ebpf.build(ebpf, [ebpf], objects, "release")
    check_fresh("one")
    assert flavour() == "release"
    build_ebpf.build(ebpf, [ebpf], checkout, "debug")
    (checkout / "one.bpf.o").rename(objects / "two.bpf.o")
    assert flavour() == "debug and release"
    shutil.rmtree(objects)
    assert flavour() == "not built"


def test_import_is_cheap() -> None:
    expensive = "elftools", "subprocess", "hashlib", "tempfile", "click"
    program = f"import sys, chadthrottle.artifacts; sys.exit(str({expensive} & sys.modules.keys() or ''))"
    program = program.replace(str(expensive), str(set(expensive)))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""

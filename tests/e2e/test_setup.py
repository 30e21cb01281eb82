"""tools/setup.sh: changes nothing when all is there, and says what is missing when it cannot get it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools import build_ebpf

SCRIPT = build_ebpf.ROOT / "tools" / "setup.sh"


@pytest.mark.skipif(not (build_ebpf.ROOT / ".venv" / "setup-stamp").exists(), reason=".venv is not made by setup.sh")
def test_says_nothing_when_all_is_there() -> None:
    result = subprocess.run([SCRIPT, "test"], capture_output=True, text=True, check=True, timeout=10)
    assert result.stdout + result.stderr == ""


def test_names_what_is_missing_where_there_is_no_apt(tmp_path: Path) -> None:
    checkout, programs = tmp_path / "checkout", tmp_path / "bin"
    (checkout / "tools").mkdir(parents=True)
    programs.mkdir()
    shutil.copy(SCRIPT, checkout / "tools")
    for name in ("sh", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    command = [str(checkout / "tools" / "setup.sh"), "build"]
    result = subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "  clang: compiles the BPF programs, llvm-strip strips them; 14 or newer\n" in result.stdout
    assert result.stderr == "setup: Install these with your package manager, then run make again.\n"


def test_wrong_use_is_refused() -> None:
    result = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "setup: usage: tools/setup.sh build|test\n")

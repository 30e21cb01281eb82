"""What is in the wheel and the sdist, and that either can be made from the other's sources."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tools import build_ebpf


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with sdist and wheel, the wheel built from the unpacked sdist, as releases are."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(build_ebpf.ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return directory


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def test_wheel_is_pure_and_has_release_objects(wheel: Path, tmp_path: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        requires = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []
        objects = {name: archive.read(name) for name in names if name.startswith("chadthrottle/objects/")}
    assert {name for name in names if ".dist-info/" not in name and not name.startswith("chadthrottle/")} == set()
    assert {name.split(">")[0] for name in requires if "extra ==" not in name} == {
        "click",
        "psutil",
        "pyelftools",
        "pyroute2",
    }

    built = build_ebpf.build(build_ebpf.EBPF, [build_ebpf.EBPF], tmp_path, "release")
    # The same bytes from another directory: the wheel was built in a temporary one.
    assert objects == {f"chadthrottle/objects/{path.name}": path.read_bytes() for path, _ in built}


def test_sdist_has_sources_and_no_objects(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"LICENSE", "Makefile", "pyproject.toml", "tasks.py", "tools/build_ebpf.py", "tools/stamp.h"}
    assert needed | {f"ebpf/{path.name}" for path in build_ebpf.EBPF.iterdir()} <= names
    assert not [name for name in names if name.endswith((".o", ".pyc")) or name.startswith((".venv", "build/"))]


def test_installed_wheel_knows_its_flavour(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False)
    command = [sys.executable, "-m", "pip", "--python", str(tmp_path / "bin" / "python"), "install"]
    subprocess.run([*command, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    program = "from chadthrottle import artifacts; print(artifacts.flavour(), artifacts.in_checkout())"
    python = [str(tmp_path / "bin" / "python"), "-I", "-c", program]
    assert subprocess.run(python, capture_output=True, text=True, check=True).stdout == "release False\n"

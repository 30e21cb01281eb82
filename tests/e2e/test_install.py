"""tools/install.py: what it makes, that it removes exactly that, and that it touches nothing of others."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import build_ebpf

PROGRAM = """\
import sys
def program() -> None:
    print(VERSION, sys.argv[1:], sys.flags.isolated)
    sys.exit(3)
"""


def make_wheels(directory: Path, version: str, *requires: str) -> Path:
    """Directory with the wheel of a chadthrottle that prints its version."""
    info = f"chadthrottle-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {name}\n" for name in requires)
    files = {
        "chadthrottle/__init__.py": "",
        "chadthrottle/__main__.py": PROGRAM.replace("VERSION", repr(version)),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: chadthrottle\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nchadthrottle = chadthrottle.__main__:program\n",
    }
    record = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(content.encode())}\n")
    wheels = directory / f"wheels-{version}"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / f"chadthrottle-{version}-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(record) + f"{info}/RECORD,,\n")
    return wheels


class Prefix:
    """Where a test installs to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = root / "lib" / "chadthrottle"
        self.link = root / "bin" / "chadthrottle"

    def call(self, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = build_ebpf.ROOT / "tools" / "install.py"
        command = [sys.executable, str(script), action, "--prefix", str(self.root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def install(self, wheels: Path) -> None:
        result = self.call("install", "--wheels", str(wheels))
        assert result.returncode == 0, result.stderr

    def run(self) -> str:
        result = subprocess.run([str(self.link), "a", "b c"], capture_output=True, text=True, check=False)
        assert result.returncode == 3, result.stderr
        return result.stdout

    def content(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    (tmp_path / "usr").mkdir()
    return Prefix(tmp_path / "usr")


def test_install_upgrade_uninstall(prefix: Prefix, tmp_path: Path) -> None:
    prefix.install(make_wheels(tmp_path, "1.0"))
    assert prefix.run() == "1.0 ['a', 'b c'] 1\n"
    prefix.install(make_wheels(tmp_path, "2.0"))
    assert prefix.run() == "2.0 ['a', 'b c'] 1\n"
    assert {path.name for path in prefix.tree.iterdir()} == {"made-by-chadthrottle-install", "bin", "packages"}
    for message in (f"Removed {prefix.tree} and {prefix.link}.", f"Nothing at {prefix.tree}."):
        result = prefix.call("uninstall")
        assert (result.returncode, result.stdout.strip()) == (0, message)
        assert prefix.content() == {"lib", "bin"}


def test_can_be_moved(prefix: Prefix, tmp_path: Path) -> None:
    stage = Prefix(tmp_path / "stage" / str(prefix.root).lstrip("/"))
    result = prefix.call("install", "--destdir", str(tmp_path / "stage"), "--wheels", str(make_wheels(tmp_path, "1.0")))
    assert result.returncode == 0, result.stderr
    assert prefix.content() == set()
    stage.root.rename(tmp_path / "final")
    assert Prefix(tmp_path / "final").run() == "1.0 ['a', 'b c'] 1\n"


def test_failed_upgrade_leaves_the_old_version(prefix: Prefix, tmp_path: Path) -> None:
    prefix.install(make_wheels(tmp_path, "1.0"))
    before = prefix.content()
    result = prefix.call("install", "--wheels", str(make_wheels(tmp_path, "2.0", "no-such-distribution")))
    assert result.returncode == 1
    assert "install failed: pip could not install" in result.stderr
    assert prefix.run() == "1.0 ['a', 'b c'] 1\n"
    assert prefix.content() == before


@pytest.mark.parametrize("theirs", ["lib/chadthrottle/precious", "bin/chadthrottle"])
def test_leaves_alone_what_it_did_not_make(prefix: Prefix, tmp_path: Path, theirs: str) -> None:
    path = prefix.root / theirs
    path.parent.mkdir(parents=True)
    path.write_text("theirs")
    before = prefix.content()
    for arguments in (["uninstall"], ["install", "--wheels", str(make_wheels(tmp_path, "1.0"))]):
        result = prefix.call(*arguments)
        assert result.returncode == 1
        assert "was not made by `make install`: left as it is" in result.stderr
        assert prefix.content() == before
    assert path.read_text() == "theirs"


def test_link_to_something_else_is_left_alone(prefix: Prefix, tmp_path: Path) -> None:
    prefix.install(make_wheels(tmp_path, "1.0"))
    prefix.link.unlink()
    prefix.link.symlink_to("/bin/true")
    assert prefix.call("uninstall").returncode == 1
    assert prefix.tree.is_dir()
    assert str(prefix.link.readlink()) == "/bin/true"


def test_relative_prefix_is_refused() -> None:
    script = build_ebpf.ROOT / "tools" / "install.py"
    command = [sys.executable, str(script), "uninstall", "--prefix", "usr"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "must be an absolute path" in result.stderr

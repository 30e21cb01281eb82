"""tools/vm: which package is taken, what is kept of it, and how the command gets into the guest."""

import subprocess
from pathlib import Path

import pytest

from tools.vm import initramfs, kernels
from tools.vm.errors import VmError
from tools.vm.kernels import pick, wants

LISTED = [
    "linux-image-6.1.0-9-amd64",
    "linux-image-6.1.0-56-amd64",
    "linux-image-6.1.0-57-amd64-unsigned",
    "linux-image-6.1.0-57-cloud-amd64",
    "linux-image-6.1.0-57-rt-amd64",
    "linux-image-6.12-amd64",
    "linux-image-6.12.99+deb12-amd64",
    "linux-image-6.12.117+deb12-amd64",
    "linux-image-6.12.118+deb12-amd64.partial",
]


@pytest.mark.parametrize(
    ("version", "package"),
    [("6.1", "linux-image-6.1.0-56-amd64"), ("6.12", "linux-image-6.12.117+deb12-amd64")],
)
def test_the_newest_package_of_the_standard_kernel(version: str, package: str) -> None:
    assert pick(version, LISTED) == package


def test_a_version_that_apt_does_not_have_is_named() -> None:
    with pytest.raises(VmError, match=r"linux-image-6\.12\.\*-amd64.*apt-get update"):
        pick("6.12", LISTED[:5])


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("boot/vmlinuz-6.1.0-56-amd64", True),
        ("boot/System.map-6.1.0-56-amd64", False),
        ("lib/modules/6.1.0-56-amd64/modules.builtin", True),
        ("lib/modules/6.1.0-56-amd64/kernel/fs/9p/9p.ko", True),
        ("lib/modules/6.12.117+deb12-amd64/kernel/drivers/net/veth.ko.xz", True),
        ("lib/modules/6.12.117+deb12-amd64/kernel/drivers/net/wireguard/wireguard.ko.xz", True),
        ("lib/modules/6.12.117+deb12-amd64/kernel/drivers/net/ethernet/intel/e1000/e1000.ko.xz", False),
        ("share/doc/linux-image-6.1.0-56-amd64/copyright", False),
    ],
)
def test_what_is_unpacked(path: str, wanted: bool) -> None:
    assert wants(path) is wanted


def test_a_kernel_unpacked_with_other_modules_is_unpacked_again(tmp_path: Path) -> None:
    kernel = kernels.Kernel("6.1.0-56-amd64", tmp_path)
    assert not kernels.is_whole(kernel)
    kernel.image.parent.mkdir()
    kernel.image.touch()
    assert not kernels.is_whole(kernel)
    (tmp_path / kernels.CHOSEN).write_text(kernels.MODULES.pattern)
    assert kernels.is_whole(kernel)
    (tmp_path / kernels.CHOSEN).write_text("(net|lib)/.*")
    assert not kernels.is_whole(kernel)


def test_the_command_arrives_word_for_word(tmp_path: Path) -> None:
    directory = tmp_path / "it's here"
    directory.mkdir()
    words = ("/bin/sh", "-c", 'pwd; echo "$A" "$1"; env', "sh", "* $HOME 'x'")
    script = initramfs.script(words, directory, {"A": "b c"})
    out = subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True, text=True).stdout.splitlines()
    assert out[:2] == [str(directory), "b c * $HOME 'x'"]
    assert not any(line.startswith("HOME=") for line in out)


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kernels, "CACHE", tmp_path / "vm")
    with pytest.raises(VmError, match="busybox-static"):
        initramfs.pack(kernels.Kernel("6.1.0-56-amd64", tmp_path), "true", tmp_path / "initramfs")
    with pytest.raises(VmError, match=r"6\.1"):
        kernels.get("6.1")

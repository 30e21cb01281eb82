"""Debian's kernel packages, fetched with apt-get and unpacked; nothing is installed."""

import lzma
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

from tools.build_ebpf import ROOT
from tools.vm.errors import VmError, find

CACHE = ROOT / "build" / "vm"

VERSIONS = ("6.1", "6.12")

# What the guest boots with and what the tests may ask for; a whole package is ten times as much.
MODULES = re.compile(
    r"(net|lib|crypto|arch/x86/crypto|fs/(9p|netfs|fscache|overlayfs)|drivers/virtio)/.*"
    r"|drivers/net/(veth|ifb|dummy|tun|macvlan|geneve|(bonding|vxlan|wireguard)/[^/]+)\.ko(\.xz)?"
)
CHOSEN = "chosen-modules"


class Kernel(NamedTuple):
    """An unpacked package."""

    release: str
    """As `uname -r` says: 6.1.0-56-amd64."""
    directory: Path
    """Holds boot/vmlinuz-RELEASE, boot/config-RELEASE and lib/modules/RELEASE/."""

    @property
    def image(self) -> Path:
        """What qemu boots."""
        return self.directory / "boot" / f"vmlinuz-{self.release}"


def get(version: str) -> Kernel:
    """The newest packaged kernel of a version ("6.1"), unpacked; downloaded if it is not there yet.

    Raises VmError.
    """
    package = pick(version, _packages())
    kernel = Kernel(package.removeprefix("linux-image-"), CACHE / package)
    if not is_whole(kernel):
        _make(package, kernel)
    return kernel


def is_whole(kernel: Kernel) -> bool:
    """Whether it is there, with all the modules that are wanted by now."""
    chosen = kernel.directory / CHOSEN
    return kernel.image.exists() and chosen.exists() and chosen.read_text(encoding="ascii") == MODULES.pattern


def pick(version: str, packages: list[str]) -> str:
    """The newest of the version's standard kernels: neither cloud (it has no 9p) nor rt. Raises VmError."""
    standard = re.compile(rf"linux-image-{re.escape(version)}[.][^-]+(-\d+)?-amd64")
    found = [name for name in packages if standard.fullmatch(name)]
    if not found:
        raise VmError(
            f"apt knows no package linux-image-{version}.*-amd64. Is this a release of Debian that has it "
            f"(6.1: Debian 12; 6.12: Debian 12's security archive, Debian 13), and was apt-get update run?"
        )
    return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def wants(path: str) -> bool:
    """Whether we need a file of a package."""
    if path.startswith("boot/"):
        return not path.startswith("boot/System.map")
    if not path.startswith("lib/modules/"):
        return False
    module = path.split("/", maxsplit=3)[3]
    return module.startswith("modules.") or MODULES.fullmatch(module.removeprefix("kernel/")) is not None


def _packages() -> list[str]:
    """Names in apt's lists, and those unpacked earlier."""
    names = [path.name for path in CACHE.glob("linux-image-*")]
    if apt_cache := shutil.which("apt-cache"):
        listed = subprocess.run([apt_cache, "pkgnames", "linux-image-"], capture_output=True, text=True, check=False)
        names += listed.stdout.split()
    return names


def _make(package: str, kernel: Kernel) -> None:
    """Download and unpack, whole or not at all."""
    tools = {tool: find(tool) for tool in ("apt-get", "dpkg-deb", "busybox")}
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = CACHE / f"{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    print(f"Downloading {package} into {CACHE}", flush=True)
    if subprocess.run([tools["apt-get"], "-qq", "download", package], cwd=partial, check=False).returncode:
        raise VmError(f"apt-get could not download {package}. If its lists are old: apt-get update")
    archive = next(partial.glob("*.deb"))
    _unpack(tools["dpkg-deb"], archive, partial)
    archive.unlink()
    # The package does this when it is installed.
    subprocess.run([tools["busybox"], "depmod", "-b", str(partial), kernel.release], check=True)
    (partial / CHOSEN).write_text(MODULES.pattern, encoding="ascii")
    shutil.rmtree(kernel.directory, ignore_errors=True)
    partial.rename(kernel.directory)


def _unpack(dpkg_deb: str, archive: Path, directory: Path) -> None:
    """The kernel, its configuration and the modules we want, these uncompressed: busybox loads no others."""
    with subprocess.Popen([dpkg_deb, "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as files:
            for member in files:
                name = member.name.removeprefix("./").removeprefix("usr/")
                content = files.extractfile(member) if member.isfile() and wants(name) else None
                if content is None:
                    continue
                data = content.read()
                if name.endswith(".xz"):
                    name, data = name.removesuffix(".xz"), lzma.decompress(data)
                target = directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
    if process.returncode:
        raise VmError(f"{archive.name} could not be unpacked; was its download complete?")

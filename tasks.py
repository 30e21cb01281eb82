"""What a developer does, as Invoke tasks. `invoke --list` shows them; the Makefile calls them."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from tools import build_ebpf as tool

ROOT = tool.ROOT

COMPARISON = ROOT / "benchmarks" / "bench.py"

LEFTOVERS = (
    "build",
    "dist",
    "chadthrottle/objects",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
)

# For commands run through sudo: no caches of root's in the user's checkout.
NOTHING_LEFT_BY_ROOT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTEST_ADDOPTS": "-p no:cacheprovider",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/root/.cache/hypothesis",
}


@task(help={"release": "stripped objects, as they are shipped (else with debug information)"})
def build_ebpf(_: Context, release: bool = False) -> None:
    """Compile ebpf/*.bpf.c into chadthrottle/objects/, as far as something changed."""
    try:
        tool.build_project("release" if release else "debug")
    except tool.BuildError as error:
        raise Exit(str(error)) from error


@task
def build(_: Context) -> None:
    """Debug objects, and this checkout installed as an editable package."""
    # The wheel's build hook builds the objects. Without isolation: hatchling is here, pinned.
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *install)


@task
def build_release(context: Context) -> None:
    """Release objects; wheel and sdist in dist/, the wheel built from the sdist."""
    build_ebpf(context, release=True)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", ".")


@task
def clean(_: Context) -> None:
    """Remove what builds and tools left; .venv stays."""
    caches = [path for path in ROOT.rglob("__pycache__") if ".venv" not in path.parts]
    for path in (*(ROOT / name for name in LEFTOVERS), *caches):
        if path.exists():
            try:
                shutil.rmtree(path)
            except PermissionError as error:
                raise Exit(f"Cannot remove {error.filename}: made by root? Then: sudo make clean") from error


@task(pre=[build_ebpf], help={"args": "arguments for pytest, as one string, instead of all tests"})
def test(_: Context, args: str = "") -> None:
    """Run the tests, as root: those of the kernel too, none of which may be skipped; but for the long ones."""
    _run_tests(*(("-m", "pytest", *shlex.split(args)) if args else ("tests/run.py",)))


@task(pre=[build_ebpf], name="test-long")
def long_tests(_: Context) -> None:
    """Run the tests that take long, as root: stress, faults at every step, the demo, the benchmarks' own."""
    _run_tests("-m", "pytest", "tests/kernel", "-m", "long")


def _run_tests(*words: str) -> None:
    environment = {"CHADTHROTTLE_REQUIRE_KERNEL_TESTS": "1", "PATH": _path()}
    run(sys.executable, *words, root=True, namespaces=True, env=environment)


@task
def lint(_: Context) -> None:
    """Check style with ruff and types with mypy."""
    run(sys.executable, "-m", "ruff", "check", ".")
    run(sys.executable, "-m", "ruff", "format", "--check", ".")
    run(sys.executable, "-m", "mypy")


@task(pre=[build_ebpf])
def demo(_: Context) -> None:
    """Show on a transfer of its own what chadthrottle does."""
    run(sys.executable, "-m", "tools.demo", root=True, env={"PATH": _path()})


@task(
    pre=[build_ebpf],
    help={
        "quick": "six cells, five minutes; else every cell, an hour and a half",
        "cells": "only cells whose title matches this regular expression",
        "only": "only these limiters, with commas between them",
        "seconds": "how long each is measured",
        "install": "first install the limiters that are not here, from Debian's packages and PyPI",
        "add": "keep the last run's numbers of whatever is not measured now",
        "output": "where page and picture go, instead of docs/; '-' for nowhere",
        "others": "run every other benchmark in benchmarks/ instead",
    },
)
def bench(
    _: Context,
    quick: bool = False,
    cells: str = "",
    only: str = "",
    seconds: int = 0,
    install: bool = False,
    add: bool = False,
    output: str = "",
    others: bool = False,
) -> None:
    """Measure chadthrottle beside what a user would pick instead, for docs/accuracy.md."""
    if others:
        for script in sorted(set((ROOT / "benchmarks").glob("*.py")) - {COMPARISON}):
            run(sys.executable, str(script.relative_to(ROOT)), root=True, env={"PATH": _path()})
        return
    flags = [f"--{name}" for name, given in (("quick", quick), ("install", install), ("add", add)) if given]
    values = {"cells": cells, "only": only, "seconds": str(seconds or ""), "output": output}
    flags += [f"--{name}={value}" for name, value in values.items() if value]
    run(sys.executable, str(COMPARISON.relative_to(ROOT)), *flags, root=True, env={"PATH": _path()})


@task(
    pre=[build_ebpf],
    help={"seconds": "how long rules come and go", "seed": "repeat the decisions of a run that said it"},
)
def stress(_: Context, seconds: int = 60, seed: int = 0) -> None:
    """Set and end limits at random under many programs and sockets; then every counter has to add up."""
    words = ("--seconds", str(seconds), *(("--seed", str(seed)) if seed else ()))
    run(sys.executable, "-m", "tools.stress", *words, root=True, namespaces=True, env={"PATH": _path()})


@task(
    pre=[build_ebpf],
    help={
        "kernel": "6.1, 6.12 or all",
        "args": "further arguments for pytest, as one string",
        "minutes": "when to give up on a kernel",
    },
)
def vm(_: Context, kernel: str = "all", args: str = "", minutes: int = 30) -> None:
    """Run the kernel tests on Debian's other kernels, under qemu (docs/other-kernels.md)."""
    from tests.support.objects import build_objects
    from tools.vm import guest, kernels
    from tools.vm.errors import VmError

    if kernel != "all" and kernel not in kernels.VERSIONS:
        raise Exit(f"--kernel is one of {', '.join(kernels.VERSIONS)}, all; not {kernel!r}", code=2)
    color = "yes" if sys.stdout.isatty() else "no"
    command = (sys.executable, "-m", "pytest", "tests/kernel", "tests/vm", f"--color={color}", *shlex.split(args))
    objects = kernels.CACHE / "objects"
    build_objects(objects)  # here, because the guest needs minutes for it
    environment = {
        "PATH": _path(),
        "HOME": "/root",
        "COLUMNS": "120",
        "CHADTHROTTLE_TEST_OBJECTS": str(objects),
        "CHADTHROTTLE_TEST_SLOWNESS": "20",
    }
    failed = 0
    for version in kernels.VERSIONS if kernel == "all" else [kernel]:
        try:
            found = kernels.get(version)
            print(f"+ on Linux {found.release}: {shlex.join(command)}", flush=True)
            status = guest.run(found, command, environment, minutes * 60)
        except VmError as error:
            raise Exit(str(error)) from error
        failed = failed or status
    if failed:
        raise Exit(code=failed)


@task(help={"prefix": "where to install", "destdir": "directory to put before prefix, for packagers"})
def install(_: Context, prefix: str = "/usr/local", destdir: str = "") -> None:
    """Install a release build into PREFIX/lib/chadthrottle, with a link in PREFIX/bin."""
    with tempfile.TemporaryDirectory(prefix="chadthrottle-install-") as scratch:
        # All that comes over the network is fetched here, as the caller and with the caller's settings.
        fetch = ("wheel", "--quiet", "--no-build-isolation", "--constraint", "constraints-dev.txt")
        run(sys.executable, "-m", "pip", "--disable-pip-version-check", *fetch, "--wheel-dir", scratch, ".")
        arguments = ("--prefix", prefix, "--destdir", destdir, "--wheels", scratch)
        run(sys.executable, "tools/install.py", "install", *arguments, root=not _writable(destdir + prefix))


@task(help={"prefix": "as given to install", "destdir": "as given to install"})
def uninstall(_: Context, prefix: str = "/usr/local", destdir: str = "") -> None:
    """Remove what install made, and nothing else."""
    arguments = ("--prefix", prefix, "--destdir", destdir)
    run(sys.executable, "tools/install.py", "uninstall", *arguments, root=not _writable(destdir + prefix))


def run(*command: str, root: bool = False, namespaces: bool = False, env: dict[str, str] | None = None) -> None:
    """Run a command in the source root, on this terminal; when it fails, end the task with its status.

    With root=True through sudo, unless we are root already. Not Context.run: that copies the output
    through pipes, and the tools then show neither colours nor progress. `namespaces`: it changes mount
    namespaces by ip(8) or unshare(1), which want a root directory that is a mount.
    """
    if namespaces and not _root_is_a_mount():
        command = ("tools/own_root.sh", *command)
    if root and os.geteuid() != 0:
        settings = NOTHING_LEFT_BY_ROOT | (env or {})
        command = ("sudo", "env", *(f"{name}={value}" for name, value in settings.items()), *command)
    print("+", shlex.join(command), flush=True)
    try:
        status = subprocess.run(command, cwd=ROOT, env=os.environ | (env or {}), check=False).returncode
    except FileNotFoundError as error:
        raise Exit(f"{error.filename} is not here; run it as root, or install it.", code=3) from error
    if status:
        raise Exit(code=status if status > 0 else 128 - status)


def _path() -> str:
    """$PATH with this environment first and the administrator's directories, where ip and bpftool are, last."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def _root_is_a_mount() -> bool:
    """False in a plain chroot. os.path.ismount() cannot tell: the root directory's parent is itself."""
    try:
        return any(line.split(" ")[4] == "/" for line in Path("/proc/self/mountinfo").read_text().splitlines())
    except OSError:
        return True  # no /proc: worse is to come, and will say so


def _writable(path: str) -> bool:
    """Whether we may make things in path, or in what is there of it."""
    present = next(parent for parent in (Path(path).absolute(), *Path(path).absolute().parents) if parent.exists())
    return os.access(present, os.W_OK)

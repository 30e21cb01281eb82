"""Installs chadthrottle from wheels where `sudo chadthrottle` finds it, and removes it again.

    PREFIX/lib/chadthrottle/            made and removed as a whole; MARKER says that it is ours
        made-by-chadthrottle-install
        bin/chadthrottle                starts the program with the system's Python
        packages/                       chadthrottle and what it depends on
    PREFIX/bin/chadthrottle             link to the above: under /usr/local it is in sudo's secure_path

Not a virtual environment, because that cannot be moved (DESTDIR) and breaks when the distribution's
Python is upgraded. Not the system's site-packages, because those belong to the package manager.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

MARKER = "made-by-chadthrottle-install"
LINK_TARGET = "../lib/chadthrottle/bin/chadthrottle"

# -I: a program for root takes no module from the current directory, $PYTHONPATH or a home directory.
LAUNCHER = """\
#!{python} -I
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "packages"))

from chadthrottle.__main__ import program

program()
"""


class InstallError(Exception):
    """Message for the user."""


class Layout(NamedTuple):
    """The two paths an installation consists of."""

    tree: Path
    link: Path

    @classmethod
    def under(cls, prefix: str, destdir: str) -> "Layout":
        """The paths for PREFIX, put below DESTDIR if that is given. Raises InstallError."""
        if not Path(prefix).is_absolute():
            raise InstallError(f"PREFIX must be an absolute path, not {prefix!r}.")
        # Not resolve(): a link in the prefix is the administrator's, and stays in what we say and do.
        base = Path(os.path.normpath(destdir + prefix)).absolute()
        return cls(base / "lib" / "chadthrottle", base / "bin" / "chadthrottle")


def install(layout: Layout, wheels: Path) -> None:
    """Install what is in the directory wheels, in place of what an earlier run installed.

    Raises InstallError and OSError.
    """
    check_ours(layout)
    old = layout.tree.with_name("chadthrottle.old")
    if layout.tree.exists():
        layout.tree.rename(old)
    try:
        fill(layout.tree, wheels)
    except BaseException:
        shutil.rmtree(layout.tree, ignore_errors=True)
        if old.exists():
            old.rename(layout.tree)
        raise
    if old.exists():
        shutil.rmtree(old)
    layout.link.parent.mkdir(parents=True, exist_ok=True)
    if not layout.link.is_symlink():
        layout.link.symlink_to(LINK_TARGET)
    print(f"Installed {layout.tree} and {layout.link}.")


def fill(tree: Path, wheels: Path) -> None:
    """Make the tree. Raises InstallError and OSError."""
    tree.mkdir(parents=True)
    (tree / MARKER).write_text("Made by chadthrottle's `make install`; `make uninstall` removes all of it.\n")
    packages = tree / "packages"
    # Isolated and without index: root fetches nothing, and no configuration of root's interferes.
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--root-user-action", "ignore", "--no-index", "--find-links", str(wheels)]
    command += ["--target", str(packages), "chadthrottle"]
    if subprocess.run(command, check=False).returncode:
        raise InstallError(f"pip could not install from {wheels}; its message is above.")
    shutil.rmtree(packages / "bin", ignore_errors=True)  # scripts that name the Python that ran pip
    launcher = tree / "bin" / "chadthrottle"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER.format(python=system_python()))
    launcher.chmod(0o755)


def uninstall(layout: Layout) -> None:
    """Remove the tree and the link, as far as they are there. Raises InstallError and OSError."""
    check_ours(layout)
    present = [path for path in layout if os.path.lexists(path)]
    if layout.link in present:
        layout.link.unlink()
    if layout.tree in present:
        shutil.rmtree(layout.tree)
    print("Removed " + " and ".join(map(str, present)) + "." if present else f"Nothing at {layout.tree}.")


def check_ours(layout: Layout) -> None:
    """Raise InstallError if one of the paths exists and was not made by install()."""
    tree, link = layout
    ours = {
        tree: (tree / MARKER).is_file() and not tree.is_symlink(),
        link: link.is_symlink() and str(link.readlink()) == LINK_TARGET,
    }
    for path in layout:
        if os.path.lexists(path) and not ours[path]:
            raise InstallError(f"{path} was not made by `make install`: left as it is. Remove or move it yourself.")


def system_python() -> str:
    """The distribution's Python when it is new enough, since root trusts it; else the one we run on."""
    system = "/usr/bin/python3"
    check = [system, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if os.access(system, os.X_OK) and subprocess.run(check, check=False).returncode == 0:
        return system
    return os.path.realpath(sys.executable)


def main() -> int:
    """Command line: install.py install|uninstall. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["install", "uninstall"])
    parser.add_argument("--prefix", default="/usr/local")
    parser.add_argument("--destdir", default="")
    parser.add_argument("--wheels", type=Path, help="directory with the wheels to install")
    options = parser.parse_args()
    if options.action == "install" and options.wheels is None:
        parser.error("install needs --wheels")
    os.umask(0o022)  # root's own may keep other users from reading what root installs
    try:
        layout = Layout.under(options.prefix, options.destdir)
        if options.action == "install":
            install(layout, options.wheels)
        else:
            uninstall(layout)
    except (InstallError, OSError) as error:
        print(f"{options.action} failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The package where everybody may read it: a checkout may lie where nobody but root can."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["readable_package"]

PACKAGE = Path(__file__).parents[2] / "chadthrottle"


@contextmanager
def readable_package() -> Iterator[Path]:
    """A directory, for PYTHONPATH, with a copy of the package and its objects in it."""
    with tempfile.TemporaryDirectory(prefix="ct-test-package-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        for each in (directory / PACKAGE.name, *(directory / PACKAGE.name).rglob("*")):
            each.chmod(0o755 if each.is_dir() else 0o644)  # the checkout's umask may have been 077
        yield directory

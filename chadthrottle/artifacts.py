"""The BPF objects that belong to this package: where they are, and whether they match their sources."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from chadthrottle.errors import ChadthrottleError

__all__ = ["MissingObjectError", "StaleObjectError", "check_fresh", "flavour", "object_path"]

PACKAGE = Path(__file__).resolve().parent
OBJECTS = PACKAGE / "objects"
SOURCE_ROOT = PACKAGE.parent

REBUILD = "Rebuild with: make build (or invoke build-ebpf, in .venv)"

# The text of an object's .chadthrottle section (see tools/build_ebpf.py). Searched in the bytes: it
# stands nowhere else in an object, and reading ELF properly would cost the import of elftools.
STAMP = re.compile(rb"sources=sha256:([0-9a-f]{64})\nflavour=(debug|release)\n")


class MissingObjectError(ChadthrottleError):
    """A BPF object that belongs to the package is not there."""


class StaleObjectError(ChadthrottleError):
    """A BPF object was not built from the sources beside it."""


def object_path(name: str) -> Path:
    """Path of the object NAME.bpf.o. Raises MissingObjectError."""
    path = OBJECTS / f"{name}.bpf.o"
    if not path.is_file():
        hint = REBUILD if in_checkout() else "Install chadthrottle again."
        raise MissingObjectError(f"The BPF object {path} is missing.", hint=hint)
    return path


def flavour() -> str:
    """`release`, `debug` or `not built`; for a mixture, which no build leaves, all that were found."""
    stamps = (STAMP.search(path.read_bytes()) for path in OBJECTS.glob("*.bpf.o"))
    found = {stamp[2].decode() for stamp in stamps if stamp}
    return " and ".join(sorted(found)) or "not built"


def check_fresh(name: str) -> None:
    """In a development checkout, make sure that NAME.bpf.o was built from the sources as they are now.

    An installed package has no sources to compare with, and is not checked. Raises MissingObjectError
    and StaleObjectError.
    """
    path = object_path(name)
    if not in_checkout():
        return
    stamp = STAMP.search(path.read_bytes())
    if stamp is None:
        raise StaleObjectError(f"The BPF object {path} does not say what it was built from.", hint=REBUILD)
    try:
        expected = _build_tool().project_hash(name, stamp[2].decode())
    except FileNotFoundError as error:
        message = f"The BPF object {path} has no source: {error.filename} is gone."
        raise StaleObjectError(message, hint=REBUILD) from error
    if stamp[1].decode() != expected:
        message = f"The BPF object {path} is stale: its sources or compile flags changed."
        raise StaleObjectError(message, hint=REBUILD)


def in_checkout() -> bool:
    """Whether the package lies beside the sources of its objects."""
    return (SOURCE_ROOT / "ebpf").is_dir() and (SOURCE_ROOT / "tools" / "build_ebpf.py").is_file()


def _build_tool() -> Any:  # noqa: ANN401 - a module that only a checkout has
    # By path: the checkout's root need not be on the import path, and tools is a common name.
    spec = importlib.util.spec_from_file_location("build_ebpf", SOURCE_ROOT / "tools" / "build_ebpf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

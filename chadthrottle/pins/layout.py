"""The directory of pins:

    /sys/fs/bpf/chadthrottle/         0700; its flock is the lock of all commands
      v3/                             what version 3 of the ABI pinned, complete; never half of it
        links/NAME  programs/NAME  maps/NAME       a program below links/ is attached without a link
      v3-part/                        being made or being removed, when a command was killed

A pin cannot hold text, so the version is in the name. Every version of chadthrottle, past and future,
keeps to this arrangement and changes only what N stands for: that is how each can clear away another's.
Names in bpffs have no dots (bpf_lookup() of kernel/bpf/inode.c).
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from chadthrottle.bpf.descriptor import Descriptor
from chadthrottle.bpf.errors import BpfError
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.programs import Program
from chadthrottle.pins.errors import ForeignContentError, refused
from chadthrottle.pins.files import KINDS, delete, foreign, listing, make, rename, require_ours
from chadthrottle.pins.lock import locked
from chadthrottle.pins.mount import default_base, ensure_mounted, is_bpffs

__all__ = ["Pins", "Stage"]

VERSION = re.compile(r"v(0|[1-9][0-9]*)")
PART = re.compile(r"v(0|[1-9][0-9]*)-part")
_Opened = TypeVar("_Opened")

PIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Pins:
    """The pins of all versions; reading and pinning is in `version`'s own. All methods want the lock.

    `base` is the directory, by default where pid 1 sees /sys/fs/bpf/chadthrottle; its parent is where
    a bpffs is mounted if there is none. `before_removal` is called with the directory of a version
    whose pins are about to go. OSErrors of bpffs become what `errors.refused` says.
    """

    def __init__(
        self, version: int, base: Path | None = None, before_removal: Callable[[Path], None] | None = None
    ) -> None:
        self.version = version
        self._before_removal = before_removal
        self.base = default_base() if base is None else base

    @property
    def directory(self) -> Path:
        """Where this version's pins are."""
        return self.base / f"v{self.version}"

    @property
    def current(self) -> bool:
        """This version's pins are there, and complete."""
        return self.version in self.versions()

    def lock(self, *, create: bool, timeout_s: float = 10) -> AbstractContextManager[bool]:
        """Keep other commands out. False (and no lock) if nothing is there and `create` is false.

        `create` mounts bpffs and makes the directory if missing; left empty, it is removed in the end.
        Raises as `lock.locked`.
        """
        if create:
            ensure_mounted(self.base.parent)
        elif _is_elsewhere(self.base):
            raise ForeignContentError(f"{self.base} is not on a bpffs: it is not chadthrottle's; nothing was changed")
        return locked(self.base, create=create, timeout_s=timeout_s)

    def versions(self) -> list[int]:
        """The versions whose pins are there."""
        return self._numbers(VERSION)

    def unfinished(self) -> list[int]:
        """Versions a killed command left half made or half removed."""
        return self._numbers(PART)

    def names(self, kind: str) -> list[str]:
        """The pins of a kind (KINDS)."""
        return listing(self.directory / kind)

    def map(self, name: str) -> Map | None:
        """The map of that name, or None. Raises BpfError when it is no map."""
        return _or_none(lambda: Map.open_pinned(self._path("maps", name)))

    def program(self, name: str) -> Program | None:
        """The program of that name, or None. Raises BpfError."""
        return _or_none(lambda: Program.open_pinned(self._path("programs", name)))

    def link(self, name: str) -> Link | None:
        """The link of that name, or None. Raises BpfError when it is no link."""
        return _or_none(lambda: Link.open_pinned(self._path("links", name)))

    def pin(self, item: Map | Program | Link, name: str) -> None:
        """Add a pin to what is there. Raises BpfError (EEXIST), KernelCannotError."""
        _pin(item, self._path(_kind(item), name))

    def unpin(self, kind: str, name: str) -> bool:
        """Remove a pin; False if there was none."""
        path = self._path(kind, name)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise refused("remove", path, error.errno or errno.EIO) from error
        return True

    @contextmanager
    def stage(self) -> Iterator["Stage"]:
        """Make this version's pins: all of them appear when the block ends, or none.

        They are pinned beside and then renamed; killed on the way, they are `unfinished`, which the next
        `sweep` removes. Raises FileExistsError when the version is there already.
        """
        if self.current:
            raise FileExistsError(errno.EEXIST, "this version is pinned already", str(self.directory))
        self.sweep()
        stage = Stage(self._part(self.version))
        try:
            stage.make()
            yield stage
            rename(stage.directory, self.directory)
            stage.moved(self.directory)
        except BaseException:
            self.sweep()
            raise

    def sweep(self) -> list[int]:
        """Remove what killed commands left unfinished; which versions it was."""
        found = self.unfinished()
        for version in found:
            require_ours(self._part(version))
            self._delete(self._part(version))
        return found

    def remove(self, version: int) -> bool:
        """Remove a version's pins, this or another; False if there are none. Idle kernel objects end with them.

        It is first renamed, so that no other command takes the rest for the whole; then links go, then
        programs, then maps. Raises ForeignContentError, before anything is touched, when something lies
        there that chadthrottle does not make.
        """
        if version not in self.versions():
            return False
        self.sweep()
        directory = self.base / f"v{version}"
        require_ours(directory)
        rename(directory, self._part(version))
        self._delete(self._part(version))
        return True

    def remove_all(self) -> None:
        """Remove every version; the directory itself goes with the lock. Raises as `remove`, before anything
        is touched.
        """
        strange = [name for name in listing(self.base) if not (VERSION.fullmatch(name) or PART.fullmatch(name))]
        if strange:
            raise foreign(self.base, strange)
        for name in listing(self.base):
            require_ours(self.base / name)
        self.sweep()
        for version in self.versions():
            self.remove(version)

    def _delete(self, directory: Path) -> None:
        if self._before_removal is not None:
            self._before_removal(directory)
        delete(directory)

    def _part(self, version: int) -> Path:
        return self.base / f"v{version}-part"

    def _path(self, kind: str, name: str) -> Path:
        return _checked(self.directory, kind, name)

    def _numbers(self, pattern: re.Pattern[str]) -> list[int]:
        return sorted(int(match[1]) for match in map(pattern.fullmatch, listing(self.base)) if match)


class Stage:
    """Pins that nobody sees yet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._links: list[Link] = []

    def pin(self, item: Map | Program | Link, name: str) -> None:
        """Pin it for the commit. Raises BpfError, KernelCannotError."""
        _pin(item, _checked(self.directory, _kind(item), name))
        if isinstance(item, Link):
            self._links.append(item)

    def record(self, program: Program, name: str) -> Path:
        """Pin a program that is going to be attached without a link, in the place of one; where. Raises as `pin`."""
        path = _checked(self.directory, "links", name)
        _pin(program, path)
        return path

    def make(self) -> None:
        """Make the empty directories."""
        for directory in (self.directory, *(self.directory / kind for kind in KINDS)):
            make(directory)

    def moved(self, directory: Path) -> None:
        """Tell the links where their pins are now: detach() removes them by path."""
        for link in self._links:
            if link.pinned_at is not None:
                link.pinned_at = directory / "links" / link.pinned_at.name


def _is_elsewhere(base: Path) -> bool:
    """Whether it is there, but on another filesystem. One that is not there, any more, is not elsewhere."""
    try:
        return not is_bpffs(base)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refused("statfs", base, error.errno or errno.EIO) from error


def _kind(item: Map | Program | Link) -> str:
    return "maps" if isinstance(item, Map) else "programs" if isinstance(item, Program) else "links"


def _checked(directory: Path, kind: str, name: str) -> Path:
    if kind not in KINDS or not PIN_NAME.fullmatch(name):
        raise ValueError(f"no name for a pin: {kind}/{name}")
    return directory / kind / name


def _pin(item: Descriptor, path: Path) -> None:
    try:
        item.pin(path)
    except BpfError as error:
        if error.errno in (errno.EROFS, errno.ENOSPC, errno.ENOMEM, errno.EDQUOT):
            raise refused("pin", path, error.errno) from error
        raise


def _or_none(open_pinned: Callable[[], _Opened]) -> _Opened | None:
    try:
        return open_pinned()
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise

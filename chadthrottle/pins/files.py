"""Files and directories of the layout: each failure a typed error, nothing removed that is not ours."""

import errno
import os
import stat
from pathlib import Path

from chadthrottle.pins.errors import ForeignContentError, refused

__all__ = ["KINDS", "delete", "foreign", "is_there", "listing", "make", "rename", "require_ours", "rmdir"]

KINDS = ("links", "programs", "maps")
"""In the order of removal: what links attach stops first, and no program runs without its maps' pins."""


def is_there(directory: Path) -> bool:
    """Whether there is anything of that name."""
    try:
        directory.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refused("stat", directory, error.errno or errno.EIO) from error
    return True


def make(directory: Path) -> None:
    """Make it, for us alone."""
    try:
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise refused("mkdir", directory, error.errno or errno.EIO) from error


def require_ours(directory: Path) -> None:
    """Only directories KINDS in it, and in them only plain pins that belong to us.

    Raises ForeignContentError naming whatever else there is.
    """
    strange = [name for name in listing(directory) if name not in KINDS]
    for kind in KINDS:
        for name in listing(directory / kind):
            about = (directory / kind / name).stat(follow_symlinks=False)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
                strange.append(f"{kind}/{name}")
    if strange:
        raise foreign(directory, strange)


def listing(directory: Path) -> list[str]:
    """The names in a directory; none if it is not there."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise foreign(directory.parent, [directory.name]) from None
    except OSError as error:
        raise refused("read", directory, error.errno or errno.EIO) from error


def rename(old: Path, new: Path) -> None:
    """All at once, which is what makes it a commit (simple_rename() of fs/libfs.c)."""
    try:
        old.rename(new)
    except OSError as error:
        raise refused("rename", old, error.errno or errno.EIO) from error


def delete(directory: Path) -> None:
    """Remove the pins of one version, in the order of KINDS, and the directories."""
    for kind in KINDS:
        for name in listing(directory / kind):
            path = directory / kind / name
            try:
                path.unlink()
            except OSError as error:
                raise refused("remove", path, error.errno or errno.EIO) from error
        if is_there(directory / kind):
            rmdir(directory / kind)
    rmdir(directory)


def rmdir(directory: Path) -> None:
    """Remove it; it must be empty."""
    try:
        directory.rmdir()
    except OSError as error:
        raise refused("rmdir", directory, error.errno or errno.EIO) from error


def foreign(directory: Path, names: list[str]) -> ForeignContentError:
    """The error for things in `directory` that are not ours."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return ForeignContentError(
        f"{directory} holds what chadthrottle did not make: {shown}; nothing was removed",
        hint=f"See what it is: sudo ls -laR {directory}   and if nobody needs it, remove it with rm.",
    )

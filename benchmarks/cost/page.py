"""A page of results whose sections are measured one at a time."""

from collections.abc import Iterable, Sequence

__all__ = ["merged"]


def merged(page: str, section: Sequence[str], title: str, headings: Iterable[str]) -> str:
    """`page` with `section`, whose first line is its heading, in the place of the one it had before.

    The sections of `headings` stay, in that order; everything else on the page goes.
    """
    found: dict[str, list[str]] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line
        found.setdefault(heading, []).append(line)
    found[section[0]] = [*section]
    parts = [title, *("\n".join(found[each]).rstrip() for each in headings if each in found)]
    return "\n\n".join(parts) + "\n"

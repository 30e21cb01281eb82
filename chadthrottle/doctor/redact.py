"""What identifies a machine or its users leaves a text: names become words for what they stood for. Pure.

Each value becomes the same word with a number throughout, ADDRESS-2 is one address wherever it stands: what belongs
together can be seen, what it is cannot.
"""

import re
from collections.abc import Callable, Iterable
from ipaddress import AddressValueError, IPv4Address, IPv6Address

__all__ = ["Redactor"]

_MAC = re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f.]*:)[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*[0-9A-Fa-f:](?![0-9A-Za-z:])")
_IPV4 = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.]*[0-9])")
_HOME = re.compile(r"(?<![\w.-])(?:/home/[^/\s:;,'\"()]+|/root)(?![\w.-])")
_COMMAND_LINE = re.compile(r"((?:[Cc]ommand line|cmdline|BOOT_IMAGE)\s*[:=]\s*).*")
_LONGEST_NUMBERED = 9999


class Redactor:
    """Counts what it takes out, by kind."""

    def __init__(self, hosts: Iterable[str] = (), users: Iterable[str] = (), homes: Iterable[str] = ()) -> None:
        """The names of this machine, of its people, and their home directories outside of /home."""
        self._words: dict[str, dict[str, str]] = {}
        self.counts: dict[str, int] = {}
        """By kind: how many places."""
        self._names: list[tuple[re.Pattern[str], str]] = []
        for kind, names in ("HOME", homes), ("HOST", hosts), ("USER", users):
            # "localhost" says nothing, and root is everybody's.
            wanted = {each for each in names if len(each) > 1 and each not in ("localhost", "root", "/", "/root")}
            for name in sorted(wanted, key=len, reverse=True):
                self._names.append((re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])"), kind))

    def __call__(self, text: str) -> str:
        """The text without."""
        text = _COMMAND_LINE.sub(lambda found: found[1] + self._word("COMMAND LINE", found[0]), text)
        text = _HOME.sub(lambda found: self._word("HOME", found[0]), text)
        text = _MAC.sub(lambda found: self._word("MAC", found[0].lower()), text)
        text = _IPV6.sub(self._if_address(IPv6Address), text)
        text = _IPV4.sub(self._if_address(IPv4Address), text)
        for pattern, kind in self._names:
            text = pattern.sub(lambda found, kind=kind: self._word(kind, found[0]), text)  # type: ignore[misc]
        return text

    def summary(self) -> str:
        """A sentence."""
        found = ", ".join(f"{kind} in {count} places" for kind, count in sorted(self.counts.items()))
        return f"Replaced: {found}." if found else "Nothing had to be replaced."

    def _if_address(self, kind: type[IPv4Address | IPv6Address]) -> Callable[[re.Match[str]], str]:
        def replace(found: re.Match[str]) -> str:
            try:
                address = kind(found[0])
            except (AddressValueError, ValueError):
                return found[0]
            # "0::/user.slice" is a line of /proc/PID/cgroup, and ::, 0.0.0.0 and loopback are everybody's.
            if address.is_loopback or int(address) == 0:
                return found[0]
            return self._word("ADDRESS", str(address))

        return replace

    def _word(self, kind: str, value: str) -> str:
        known = self._words.setdefault(kind, {})
        if value not in known:
            known[value] = f"{kind}-{min(len(known) + 1, _LONGEST_NUMBERED)}"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return known[value]

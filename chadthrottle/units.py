"""Rates, sizes and spans of time: as people type them, and as they read them.

    RATE      10mbit  512kbit/s  1.25MB/s  1MiB/s  300KB  "10 Mbit/s"
    DURATION  90s  5m  1h30m  2d

Every message begins with the text it is about, so that a caller can put the option's name before it.
Arithmetic is on integers: exact, and importing `fractions` costs more than most commands have.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from chadthrottle.errors import UsageError

__all__ = [
    "MAX_DURATION_S",
    "MAX_RATE_BYTES_PER_S",
    "MIN_RATE_BYTES_PER_S",
    "format_bytes",
    "format_duration",
    "format_measured_rate",
    "format_rate",
    "parse_duration",
    "parse_rate",
    "rate_in_bits",
    "rate_in_bytes",
]

MIN_RATE_BYTES_PER_S = 1_000
MAX_RATE_BYTES_PER_S = 12_500_000_000
LOWEST, HIGHEST = "8kbit", "100gbit"

MAX_DURATION_S = 365 * 86_400
SHORTEST, LONGEST = "1s", "365d"

# More than any sensible rate or duration needs; what is longer is not looked at any further.
MAX_CHARACTERS = 32

# Patterns are compiled when they are first used: who only prints rates does not pay for them.
NUMBER = r"(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?"
RATE = NUMBER + r" *(?P<prefix>[kKmMgGtT]i?)?(?P<unit>bit|B)(?:/s)?"
# What people write elsewhere: never accepted, only answered with what to write instead. (i: any case;
# a: only in ASCII, else the Kelvin sign is a k.)
NEARLY_RATE = rf"(?ia){NUMBER} *(?P<prefix>[kmgt]i?)?(?P<unit>bits?|bytes?|b)?(?P<per>/s|/sec|/second| per second|ps)?"
DURATION = r"(?:([0-9]+)d)? *(?:([0-9]+)h)? *(?:([0-9]+)m)? *(?:([0-9]+)s)?"
SECONDS_PER = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

RATE_HINT = f"Write a number and a unit, from {LOWEST} to {HIGHEST}: 10mbit, 512kbit/s, 1.25MB/s, 1MiB/s."
DURATION_HINT = f"Write whole numbers with d, h, m, s, from {SHORTEST} to {LONGEST}: 90s, 5m, 1h30m, 2d."

COMPLAINTS = (
    (r"[-\u2212].*", "it cannot be negative"),
    (r"(?i)\+?(nan|inf).*", "it has to be a number"),
    (r"(?i)[0-9.]+e[-+]?[0-9]+.*", "no exponents, please"),
    (r"[0-9.]+[,_'][0-9].*", "decimals come after a point, and digits are not grouped"),
)

DECIMAL_PREFIXES = ("", "k", "M", "G", "T")
LONG_PREFIXES = {
    "": "", "k": "kilo", "m": "mega", "g": "giga", "t": "tera", "ki": "kibi", "mi": "mebi", "gi": "gibi", "ti": "tebi",
}  # fmt: skip


def parse_rate(text: str) -> int:
    """A rate in bytes per second, from 1 000 (8 kbit/s) to 12 500 000 000 (100 Gbit/s).

    A number, with decimals or not, then an optional prefix (k, M, G, T: powers of 1000; Ki, Mi, Gi, Ti:
    of 1024; the case of the letter does not matter), then `bit` or `B`, then `/s` or not. What is not a
    whole number of bytes is rounded to the nearest, a half upwards: at most 0.05 % off.

    Raises UsageError, which says what to write instead, for everything else: `10mbps`, `1M`, `500`,
    which have two readings, and what is out of range before it is rounded.
    """
    stripped = text.strip()
    if len(stripped) > MAX_CHARACTERS:
        raise UsageError(f"{_shown(stripped)}: a rate has at most {MAX_CHARACTERS} characters", hint=RATE_HINT)
    if match := re.fullmatch(RATE, stripped):
        rate = _Rate.of(match, match["prefix"] or "", bits=match["unit"] == "bit")
        _refuse_out_of_range(stripped, rate)
        return rate.bytes_per_s()
    if match := re.fullmatch(NEARLY_RATE, stripped):
        _refuse_with_readings(stripped, match)
    raise UsageError(f"{_shown(stripped)}: {_complaint(stripped, 'that is no rate')}", hint=RATE_HINT)


def format_rate(bytes_per_s: int) -> str:
    """Both forms of a rate, exact: "1.25 MB/s = 10 Mbit/s"."""
    return f"{rate_in_bytes(bytes_per_s)} = {rate_in_bits(bytes_per_s)}"


def rate_in_bytes(bytes_per_s: int) -> str:
    """A rate, exact, as "1.25 MB/s"; parse_rate gives the same rate back."""
    return _scaled(bytes_per_s, "B/s")


def rate_in_bits(bytes_per_s: int) -> str:
    """A rate, exact, as "10 Mbit/s"; parse_rate gives the same rate back."""
    return _scaled(8 * bytes_per_s, "bit/s")


def format_measured_rate(bytes_per_s: int) -> str:
    """A rate to three digits, as "9.97 Mbit/s": for what was measured, where more would be noise."""
    return _scaled(_three_digits(8 * bytes_per_s), "bit/s")


def format_bytes(count: int) -> str:
    """An amount of data to three digits, as "1.25 MB" (powers of 1000, as rates are)."""
    return _scaled(_three_digits(count), "B")


def parse_duration(text: str) -> int:
    """A span of time in seconds, from 1 to a year of 365 days.

    Whole numbers with d, h, m, s, the larger unit first: `90s`, `1h30m`, `1h 30m`.

    Raises UsageError for everything else; a bare number has two readings (sleep(1) counts seconds,
    shutdown(8) minutes), so it is refused too.
    """
    stripped = text.strip()
    if len(stripped) > MAX_CHARACTERS:
        raise UsageError(f"{_shown(stripped)}: a duration has at most {MAX_CHARACTERS} characters", hint=DURATION_HINT)
    bare = re.fullmatch("[0-9]+", stripped)
    match = re.fullmatch(DURATION, stripped + "s" if bare else stripped)
    if not stripped or match is None:
        raise UsageError(f"{_shown(stripped)}: {_complaint(stripped, 'that is no duration')}", hint=DURATION_HINT)
    seconds = sum(int(count or 0) * size for count, size in zip(match.groups(), SECONDS_PER.values(), strict=True))
    if seconds < 1:
        raise UsageError(f"{stripped} is below the shortest duration, {SHORTEST}", hint=f"Write {SHORTEST} or more.")
    if seconds > MAX_DURATION_S:
        raise UsageError(f"{stripped} is above the longest duration, {LONGEST}", hint=f"Write {LONGEST} or less.")
    if bare:
        too_long = " (too long)" if seconds * 60 > MAX_DURATION_S else ""
        readings = f"{stripped} seconds is {stripped}s, {stripped} minutes is {stripped}m{too_long}"
        raise UsageError(f"{stripped}: {readings}", hint="Write the one you mean.")
    return seconds


def format_duration(seconds: int) -> str:
    """A span of time as "1h30m", "0s" for none; parse_duration gives any but that back."""
    if seconds < 0:
        raise ValueError(f"a duration is not negative: {seconds}")
    parts = []
    for letter, size in SECONDS_PER.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{letter}")
    return "".join(parts) or "0s"


class _Rate(NamedTuple):
    """`numerator / denominator` bits per second, exactly as written."""

    numerator: int
    denominator: int

    @classmethod
    def of(cls, number: re.Match[str], prefix: str, *, bits: bool) -> "_Rate":
        """`number` is a match of NUMBER."""
        fraction = number["fraction"] or ""
        base = 1024 if prefix.endswith(("i", "I")) else 1000
        unit = base ** " kmgt".index(prefix[0].lower()) if prefix else 1
        return cls(int(number["whole"] + fraction) * unit * (1 if bits else 8), 10 ** len(fraction))

    def bytes_per_s(self) -> int:
        """To the nearest, a half upwards."""
        return (2 * self.numerator + 8 * self.denominator) // (16 * self.denominator)

    def too_slow(self) -> bool:
        return self.numerator < 8 * MIN_RATE_BYTES_PER_S * self.denominator

    def too_fast(self) -> bool:
        return self.numerator > 8 * MAX_RATE_BYTES_PER_S * self.denominator


def _refuse_out_of_range(text: str, rate: _Rate) -> None:
    if rate.numerator == 0:
        raise UsageError(
            f"{text} is below the lowest rate, {LOWEST}",
            hint=f"Write {LOWEST} or more; to lift a limit: chadthrottle release PID",
        )
    if rate.too_slow():
        raise UsageError(f"{text} is below the lowest rate, {LOWEST}", hint=f"Write {LOWEST} or more.")
    if rate.too_fast():
        raise UsageError(f"{text} is above the highest rate, {HIGHEST}", hint=f"Write {HIGHEST} or less.")


def _refuse_with_readings(text: str, match: re.Match[str]) -> None:
    """`match` is of NEARLY_RATE. Raises UsageError, which spells out what may have been meant."""
    prefix, unit, per = (match["prefix"] or "").lower(), match["unit"] or "", match["per"] or ""
    if not prefix and not unit:
        prefix = _likely_prefix(match)
    readings = [(bits, _Rate.of(match, prefix, bits=bits)) for bits in _units_meant(unit, per)]
    if all(rate.too_slow() or rate.too_fast() for _, rate in readings):
        _refuse_out_of_range(text, readings[0][1])
    number = match["whole"] + (f".{match['fraction']}" if match["fraction"] else "")
    if len(readings) == 1:
        ((bits, _),) = readings
        raise UsageError(f"{text} is not how a rate is written", hint=f"Write {_to_type(number, prefix, bits=bits)}.")
    spelled = ", ".join(_spelled(number, prefix, rate, bits=bits) for bits, rate in readings)
    raise UsageError(f"{text}: {spelled}", hint="Write the one you mean.")


def _likely_prefix(number: re.Match[str]) -> str:
    """Whoever types `500` means no 500 bits per second: the first prefix that gives a legal rate."""
    prefixes = [prefix.lower() for prefix in DECIMAL_PREFIXES]
    return next((prefix for prefix in prefixes if not _Rate.of(number, prefix, bits=True).too_slow()), "")


def _units_meant(unit: str, per: str) -> Iterable[bool]:
    """True for bits, False for bytes; both where the spelling does not tell.

    `B` means bytes, but not in `MBPS`, where everything is upper case; tc(8)'s `mbps` is megabytes and
    everyone else's is megabits.
    """
    if unit.lower().startswith("bit"):
        return (True,)
    if unit.lower().startswith("byte") or (unit == "B" and per != "PS"):
        return (False,)
    return (True, False)


def _to_type(number: str, prefix: str, *, bits: bool) -> str:
    """What parse_rate takes, in the customary case: 10mbit, 10MB/s, 10MiB/s."""
    if bits:
        return f"{number}{prefix.capitalize() if len(prefix) == 2 else prefix}bit"
    return f"{number}{prefix.capitalize()}B/s"


def _spelled(number: str, prefix: str, rate: _Rate, *, bits: bool) -> str:
    unit = LONG_PREFIXES[prefix] + ("bit" if bits else "byte") + ("" if number == "1" else "s")
    remark = " (too slow)" if rate.too_slow() else " (too fast)" if rate.too_fast() else ""
    return f"{number} {unit} per second is {_to_type(number, prefix, bits=bits)}{remark}"


def _complaint(text: str, otherwise: str) -> str:
    return next((complaint for pattern, complaint in COMPLAINTS if re.fullmatch(pattern, text)), otherwise)


def _shown(text: str) -> str:
    """Fit for a message: in one line, not endless, and visible."""
    short = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."
    return short if short and short.isprintable() else ascii(short)


def _three_digits(count: int) -> int:
    """Rounded to three significant digits, a half upwards."""
    step: int = 10 ** max(0, len(str(count)) - 3)
    return (count + step // 2) // step * step


def _scaled(count: int, unit: str) -> str:
    """Exactly `count`, with the largest prefix that leaves a digit before the point."""
    if count < 0:
        raise ValueError(f"neither rates nor sizes are negative: {count} {unit}")
    power = min((len(str(count)) - 1) // 3, len(DECIMAL_PREFIXES) - 1)
    whole, rest = divmod(count, 1000**power)
    decimals = f"{rest:0{3 * power}}".rstrip("0") if rest else ""
    number = f"{whole}.{decimals}" if decimals else str(whole)
    return f"{number} {DECIMAL_PREFIXES[power]}{unit}"

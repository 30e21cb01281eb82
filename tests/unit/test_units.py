"""Rates, sizes and durations: every accepted form and its value, every refused one and its cure."""

import re
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chadthrottle import units
from chadthrottle.errors import UsageError
from chadthrottle.units import (
    MAX_DURATION_S,
    MAX_RATE_BYTES_PER_S,
    MIN_RATE_BYTES_PER_S,
    format_bytes,
    format_duration,
    format_measured_rate,
    format_rate,
    parse_duration,
    parse_rate,
    rate_in_bits,
    rate_in_bytes,
)

LEGAL_RATES = st.integers(MIN_RATE_BYTES_PER_S, MAX_RATE_BYTES_PER_S)
FACTORS = {
    **{letter: 1000**power for power, letter in enumerate("kmgt", 1)},
    **{letter + "i": 1024**power for power, letter in enumerate("kmgt", 1)},
    "": 1,
}


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("10mbit", 1_250_000),
        ("10Mbit", 1_250_000),
        ("10mbit/s", 1_250_000),
        ("10 Mbit/s", 1_250_000),
        ("  10   Mbit/s ", 1_250_000),
        ("512kbit/s", 64_000),
        ("512Kbit", 64_000),
        ("1.25MB/s", 1_250_000),
        ("1.25 MB/s", 1_250_000),
        ("1mB", 1_000_000),
        ("1MiB/s", 1_048_576),
        ("1miB/s", 1_048_576),
        ("300KB", 300_000),
        ("300kB", 300_000),
        ("300KiB", 307_200),
        ("8Kibit", 1024),
        ("1Mibit", 131_072),
        ("1Gibit", 134_217_728),
        ("8000bit", 1000),
        ("1000B/s", 1000),
        ("0.000001TB", 1_000_000),
        ("0010mbit", 1_250_000),
        # The ends of the range, each in several forms.
        ("8kbit", 1000),
        ("1KB", 1000),
        ("0.008mbit", 1000),
        ("100Gbit", 12_500_000_000),
        ("12.5GB/s", 12_500_000_000),
        ("0.1tbit", 12_500_000_000),
        # Rounded to the nearest byte, a half upwards.
        ("8003bit", 1000),
        ("8004bit", 1001),
        ("8005bit", 1001),
        ("1000.49B", 1000),
        ("1000.5B", 1001),
        # What doubles tend to get wrong.
        ("99.99999999999999999999gbit", 12_500_000_000),
        ("1.1MB", 1_100_000),
        ("4.35MB", 4_350_000),
    ],
)
def test_rates(text: str, bytes_per_s: int) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10mbps", "10mbps: 10 megabits per second is 10mbit, 10 megabytes per second is 10MB/s"),
        ("10Mbps", "10Mbps: 10 megabits per second is 10mbit, 10 megabytes per second is 10MB/s"),
        ("10MBPS", "10MBPS: 10 megabits per second is 10mbit, 10 megabytes per second is 10MB/s"),
        ("1M", "1M: 1 megabit per second is 1mbit, 1 megabyte per second is 1MB/s"),
        ("500K", "500K: 500 kilobits per second is 500kbit, 500 kilobytes per second is 500KB/s"),
        ("500k/s", "500k/s: 500 kilobits per second is 500kbit, 500 kilobytes per second is 500KB/s"),
        ("1.5 Gi", "1.5 Gi: 1.5 gibibits per second is 1.5Gibit, 1.5 gibibytes per second is 1.5GiB/s"),
        ("2Mib", "2Mib: 2 mebibits per second is 2Mibit, 2 mebibytes per second is 2MiB/s"),
        ("300Kb/s", "300Kb/s: 300 kilobits per second is 300kbit, 300 kilobytes per second is 300KB/s"),
        # A bare number: the first unit that makes sense of it.
        ("500", "500: 500 kilobits per second is 500kbit, 500 kilobytes per second is 500KB/s"),
        ("2", "2: 2 megabits per second is 2mbit, 2 megabytes per second is 2MB/s"),
        ("1000000", "1000000: 1000000 bits per second is 1000000bit, 1000000 bytes per second is 1000000B/s"),
        # One of the readings would not be taken.
        ("1k", "1k: 1 kilobit per second is 1kbit (too slow), 1 kilobyte per second is 1KB/s"),
        ("90Gbps", "90Gbps: 90 gigabits per second is 90gbit, 90 gigabytes per second is 90GB/s (too fast)"),
    ],
)
def test_rates_with_two_readings(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_rate(text)
    assert refused.value.message == message
    assert refused.value.hint == "Write the one you mean."


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("10Mbits", "10mbit"),
        ("10MBit/s", "10mbit"),
        ("10MBIT", "10mbit"),
        ("10mbitps", "10mbit"),
        ("10 Mbit per second", "10mbit"),
        ("10Mbit/sec", "10mbit"),
        ("1KIBIT", None),
        ("8KIBIT", "8Kibit"),
        ("300kbytes", "300KB/s"),
        ("1 MByte/s", "1MB/s"),
        ("10MBps", "10MB/s"),
        ("10MIB/s", "10MiB/s"),
        ("1.25MB/S", "1.25MB/s"),
    ],
)
def test_rates_with_one_reading_in_another_spelling(text: str, cure: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        parse_rate(text)
    if cure is None:
        assert refused.value.message == f"{text} is below the lowest rate, 8kbit"
    else:
        assert refused.value.message == f"{text} is not how a rate is written"
        assert refused.value.hint == f"Write {cure}."
        parse_rate(cure)


@pytest.mark.parametrize(
    "text", ["7kbit", "7999bit", "7999.9999bit", "999B/s", "1bit", "0.001kbit", "10bps", "0.0000000001k"]
)
def test_too_slow(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_rate(text)
    assert refused.value.message == f"{text} is below the lowest rate, 8kbit"
    assert refused.value.hint == "Write 8kbit or more."


@pytest.mark.parametrize("text", ["0", "0mbit", "0.000MB/s", "0k", "00 Gbps"])
def test_zero(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_rate(text)
    assert refused.value.message == f"{text} is below the lowest rate, 8kbit"
    assert refused.value.hint == "Write 8kbit or more; to lift a limit: chadthrottle release PID"


@pytest.mark.parametrize(
    "text", ["101gbit", "100000000001bit", "12.5000000001GB", "1TB", "1000G", "999999999999999999999", "12GiB/s"]
)
def test_too_fast(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_rate(text)
    assert refused.value.message == f"{text} is above the highest rate, 100gbit"
    assert refused.value.hint == "Write 100gbit or less."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'': that is no rate"),
        ("   ", "'': that is no rate"),
        ("fast", "fast: that is no rate"),
        ("mbit", "mbit: that is no rate"),
        (".5mbit", ".5mbit: that is no rate"),
        ("5.mbit", "5.mbit: that is no rate"),
        ("+5mbit", "+5mbit: that is no rate"),
        ("1.2.3mbit", "1.2.3mbit: that is no rate"),
        ("0x10mbit", "0x10mbit: that is no rate"),
        ("10 m bit", "10 m bit: that is no rate"),
        ("10mbit/min", "10mbit/min: that is no rate"),
        ("10Pbit", "10Pbit: that is no rate"),
        ("10mbit 20mbit", "10mbit 20mbit: that is no rate"),
        ("1.25 MB/s = 10 Mbit/s", "1.25 MB/s = 10 Mbit/s: that is no rate"),
        ("-5mbit", "-5mbit: it cannot be negative"),
        ("\u22125mbit", "\u22125mbit: it cannot be negative"),
        ("nan", "nan: it has to be a number"),
        ("NaNmbit", "NaNmbit: it has to be a number"),
        ("inf", "inf: it has to be a number"),
        ("-inf", "-inf: it cannot be negative"),
        ("1e6bit", "1e6bit: no exponents, please"),
        ("1.5E+3kbit", "1.5E+3kbit: no exponents, please"),
        ("1,5mbit", "1,5mbit: decimals come after a point, and digits are not grouped"),
        ("1_000kbit", "1_000kbit: decimals come after a point, and digits are not grouped"),
        ("\u0663mbit", "\u0663mbit: that is no rate"),
        ("10\u212abit", "10\u212abit: that is no rate"),
        ("10mbit\0", "'10mbit\\x00': that is no rate"),
        ("10\nmbit", "'10\\nmbit': that is no rate"),
        ("10mbit\udcff", "'10mbit\\udcff': that is no rate"),
        ("9" * 33 + "bit", "9" * 32 + "...: a rate has at most 32 characters"),
        ("1" * 1_000_000, "1" * 32 + "...: a rate has at most 32 characters"),
        ("\n" + "\x1b" * 99, "'" + "\\x1b" * 32 + "...': a rate has at most 32 characters"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_no_rates(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_rate(text)
    assert refused.value.message == message
    assert refused.value.hint == (
        "Write a number and a unit, from 8kbit to 100gbit: 10mbit, 512kbit/s, 1.25MB/s, 1MiB/s."
    )


def test_what_messages_recommend_is_taken() -> None:
    assert parse_rate(units.LOWEST) == MIN_RATE_BYTES_PER_S
    assert parse_rate(units.HIGHEST) == MAX_RATE_BYTES_PER_S
    assert parse_duration(units.SHORTEST) == 1
    assert parse_duration(units.LONGEST) == MAX_DURATION_S
    examples = units.RATE_HINT.partition(": ")[2].rstrip(".").split(", ")
    assert [parse_rate(example) for example in examples] == [1_250_000, 64_000, 1_250_000, 1_048_576]
    examples = units.DURATION_HINT.partition(": ")[2].rstrip(".").split(", ")
    assert [parse_duration(example) for example in examples] == [90, 300, 5400, 172_800]


@given(LEGAL_RATES)
def test_rates_survive_being_written_and_read(bytes_per_s: int) -> None:
    assert parse_rate(rate_in_bytes(bytes_per_s)) == bytes_per_s
    assert parse_rate(rate_in_bits(bytes_per_s)) == bytes_per_s
    assert format_rate(bytes_per_s) == f"{rate_in_bytes(bytes_per_s)} = {rate_in_bits(bytes_per_s)}"


@given(
    number=st.decimals(min_value=0, max_value=10**12, places=6),
    prefix=st.sampled_from(list(FACTORS)),
    upper=st.booleans(),
    unit=st.sampled_from(["bit", "B"]),
    blank=st.sampled_from(["", " "]),
    per=st.sampled_from(["", "/s"]),
)
def test_rates_are_exact_or_refused(number: object, prefix: str, upper: bool, unit: str, blank: str, per: str) -> None:
    exact = Fraction(str(number)) * FACTORS[prefix] / (8 if unit == "bit" else 1)
    written = f"{number:f}{blank}{prefix[:1].upper() if upper else prefix[:1]}{prefix[1:]}{unit}{per}"
    assume(len(written) <= units.MAX_CHARACTERS)
    if MIN_RATE_BYTES_PER_S <= exact <= MAX_RATE_BYTES_PER_S:
        assert -Fraction(1, 2) < parse_rate(written) - exact <= Fraction(1, 2)
    else:
        with pytest.raises(UsageError, match="lowest rate" if exact < MIN_RATE_BYTES_PER_S else "highest rate"):
            parse_rate(written)


RATE_LIKE = st.from_regex(units.NEARLY_RATE, fullmatch=True)


def refusal(parse: Callable[[str], int], text: str) -> UsageError | None:
    try:
        parse(text)
    except UsageError as error:
        return error
    return None


@given(st.one_of(st.text(max_size=40), RATE_LIKE, st.text(alphabet="0123456789.-+eEkKmMgGtTiIbBytps/ ", max_size=20)))
def test_whatever_is_typed_gives_a_rate_or_a_message(text: str) -> None:
    error = refusal(parse_rate, text)
    if error is None:
        assert MIN_RATE_BYTES_PER_S <= parse_rate(text) <= MAX_RATE_BYTES_PER_S
    else:
        assert error.hint
        assert error.message.isprintable()
        assert len(error.message) < 300


@given(RATE_LIKE)
def test_what_a_message_says_to_write_is_taken(text: str) -> None:
    error = refusal(parse_rate, text)
    assume(error is not None and "at most 32 characters" not in error.message)
    assert error is not None
    readings = re.findall(r"per second is ([^, ]+)(?! \(too)(?:,|$)", error.message)
    cures = readings or re.findall(r"^Write ([^ ;]+?)\.?(?: or|$)", error.hint or "")
    assert cures
    for cure in cures:
        # "kbps" becomes "kbit" and "KB/s": the latter can be too long to be typed.
        assert len(cure) > units.MAX_CHARACTERS or parse_rate(cure)


@pytest.mark.parametrize(
    ("bytes_per_s", "text"),
    [
        (1_250_000, "1.25 MB/s = 10 Mbit/s"),
        (1000, "1 kB/s = 8 kbit/s"),
        (12_500_000_000, "12.5 GB/s = 100 Gbit/s"),
        (64_000, "64 kB/s = 512 kbit/s"),
        (1_048_576, "1.048576 MB/s = 8.388608 Mbit/s"),
        (125_000, "125 kB/s = 1 Mbit/s"),
        (1_000_001, "1.000001 MB/s = 8.000008 Mbit/s"),
        (999, "999 B/s = 7.992 kbit/s"),
        (0, "0 B/s = 0 bit/s"),
        (10**18, "1000000 TB/s = 8000000 Tbit/s"),
    ],
)
def test_both_forms(bytes_per_s: int, text: str) -> None:
    assert format_rate(bytes_per_s) == text


@pytest.mark.parametrize(
    ("bytes_per_s", "text"),
    [
        (0, "0 bit/s"),
        (1, "8 bit/s"),
        (125, "1 kbit/s"),
        (1_246_789, "9.97 Mbit/s"),
        (1_250_000, "10 Mbit/s"),
        (124_999, "1 Mbit/s"),  # rounding reaches the next prefix
        (15_437_500, "124 Mbit/s"),  # 123.5: a half upwards
    ],
)
def test_measured_rates(bytes_per_s: int, text: str) -> None:
    assert format_measured_rate(bytes_per_s) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (1235, "1.24 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (5_000_000_000, "5 GB"),
        (1 << 64, "18400000 TB"),
    ],
)
def test_amounts(count: int, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(0, 1 << 64))
def test_three_digits_are_within_half_a_percent(count: int) -> None:
    number, unit = format_bytes(count).split()
    shown = Fraction(number) * FACTORS[unit.removesuffix("B").lower()]
    assert abs(shown - count) <= Fraction(count, 200)


def test_nothing_negative_is_formatted() -> None:
    for formatted in (format_rate, format_measured_rate, format_bytes, format_duration):
        with pytest.raises(ValueError, match="negative"):
            formatted(-1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("90s", 90),
        (" 5m ", 300),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("2d", 172_800),
        ("1d2h3m4s", 93_784),
        ("1d 4s", 86_404),
        ("120m", 7200),
        ("0h5m", 300),
        ("365d", MAX_DURATION_S),
        ("31536000s", MAX_DURATION_S),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("90", "90: 90 seconds is 90s, 90 minutes is 90m", "Write the one you mean."),
        (
            "600000",
            "600000: 600000 seconds is 600000s, 600000 minutes is 600000m (too long)",
            "Write the one you mean.",
        ),
        ("0", "0 is below the shortest duration, 1s", "Write 1s or more."),
        ("0s", "0s is below the shortest duration, 1s", "Write 1s or more."),
        ("0d0h", "0d0h is below the shortest duration, 1s", "Write 1s or more."),
        ("366d", "366d is above the longest duration, 365d", "Write 365d or less."),
        ("365d1s", "365d1s is above the longest duration, 365d", "Write 365d or less."),
        ("99999999999", "99999999999 is above the longest duration, 365d", "Write 365d or less."),
        ("", "'': that is no duration", units.DURATION_HINT),
        ("  ", "'': that is no duration", units.DURATION_HINT),
        ("soon", "soon: that is no duration", units.DURATION_HINT),
        ("1.5h", "1.5h: that is no duration", units.DURATION_HINT),
        ("1.5", "1.5: that is no duration", units.DURATION_HINT),
        ("1h30", "1h30: that is no duration", units.DURATION_HINT),
        ("30m1h", "30m1h: that is no duration", units.DURATION_HINT),
        ("1m1m", "1m1m: that is no duration", units.DURATION_HINT),
        ("5M", "5M: that is no duration", units.DURATION_HINT),
        ("500ms", "500ms: that is no duration", units.DURATION_HINT),
        ("2w", "2w: that is no duration", units.DURATION_HINT),
        ("5 m", "5 m: that is no duration", units.DURATION_HINT),
        ("-5m", "-5m: it cannot be negative", units.DURATION_HINT),
        ("inf", "inf: it has to be a number", units.DURATION_HINT),
        ("1e3s", "1e3s: no exponents, please", units.DURATION_HINT),
        ("\u0665m", "\u0665m: that is no duration", units.DURATION_HINT),
        ("9" * 40 + "s", "9" * 32 + "...: a duration has at most 32 characters", units.DURATION_HINT),
    ],
)
def test_no_durations(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_duration(text)
    assert (refused.value.message, refused.value.hint) == (message, hint)


@given(st.integers(1, MAX_DURATION_S))
def test_durations_survive_being_written_and_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.one_of(st.text(max_size=40), st.text(alphabet="0123456789dhms .-", max_size=20)))
def test_whatever_is_typed_gives_a_duration_or_a_message(text: str) -> None:
    error = refusal(parse_duration, text)
    if error is None:
        assert 1 <= parse_duration(text) <= MAX_DURATION_S
    else:
        assert error.hint
        assert error.message.isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (5400, "1h30m"), (172_800, "2d"), (93_784, "1d2h3m4s")]
)
def test_durations_as_text(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text

"""Setting knobs and sizes before load: in the right place and width, or refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.spec import ObjectSpec
from chadthrottle.errors import UsageError


@pytest.fixture
def spec(object_path: Callable[[str], Path]) -> ObjectSpec:
    return open_object(object_path("globals"))


def stored(spec: ObjectSpec, name: str) -> bytes:
    holder = next(m for m in spec.maps.values() if name in m.variables)
    variable = holder.variables[name]
    assert holder.contents is not None
    return holder.contents[variable.offset : variable.offset + variable.size]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("knob_u8", 255, b"\xff"),
        ("knob_u16", 0x1234, b"\x34\x12"),
        ("knob_s32", -2, b"\xfe\xff\xff\xff"),
        ("knob_u64", 1 << 63, b"\0" * 7 + b"\x80"),
        ("knob_bool", False, b"\0"),
        ("knob_mode", 7, b"\x07\0\0\0"),
        ("knob_name", b"x" * 16, b"x" * 16),
        ("data_static", 5, b"\x05" + b"\0" * 7),
        ("calls", 9, b"\x09" + b"\0" * 7),
    ],
)
def test_values_are_written_in_the_variables_width(
    spec: ObjectSpec, name: str, value: int | bytes, expected: bytes
) -> None:
    changed = spec.with_constants({name: value})
    assert stored(changed, name) == expected
    untouched = [v for m in spec.maps.values() for v in m.variables if v != name]
    assert all(stored(changed, other) == stored(spec, other) for other in untouched)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("knob_u8", 256, "does not fit knob_u8: unsigned, 1 bytes"),
        ("knob_u8", -1, "does not fit"),
        ("knob_s32", 1 << 31, "does not fit knob_s32: signed, 4 bytes"),
        ("knob_name", 5, "no integer"),
        ("knob_name", b"short", "is 16 bytes, not 5"),
        ("knob_point", 1, "no integer"),
        ("nothing", 1, "no variable 'nothing'"),
    ],
)
def test_values_that_do_not_fit_are_refused(spec: ObjectSpec, name: str, value: int | bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        spec.with_constants({name: value})


def test_the_original_is_not_changed(spec: ObjectSpec) -> None:
    before = stored(spec, "knob_u32")
    spec.with_constants({"knob_u32": 99})
    assert stored(spec, "knob_u32") == before


@pytest.mark.parametrize("count", [0, -1, 1 << 32])
def test_impossible_sizes_are_refused(object_path: Callable[[str], Path], count: int) -> None:
    with pytest.raises(UsageError, match="must be 1 to 4294967295"):
        open_object(object_path("maps")).with_map_sizes({"flows": count})


def test_data_maps_have_no_size_to_set(spec: ObjectSpec) -> None:
    with pytest.raises(UsageError, match=r"no map '\.data' to resize"):
        spec.with_map_sizes({".data": 2})

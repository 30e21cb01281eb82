"""Loading whole objects: what the programs then do, what the maps then are, and undoing."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle.bpf import map_load, prog_load
from chadthrottle.bpf.constants import AttachType, MapFlag, MapType
from chadthrottle.bpf.errors import BpfError, IncompatibleMapError, ObjectNotSupportedError
from chadthrottle.bpf.loader import Loader, load
from chadthrottle.bpf.maps import Map
from chadthrottle.bpf.parse import open_object
from chadthrottle.errors import UsageError
from tests.support.objects import RETURNS, skb_packet

ObjectPath = Callable[[str], Path]


@pytest.mark.parametrize("name", RETURNS)
def test_programs_compute_what_their_source_says(name: str, object_path: ObjectPath) -> None:
    with load(open_object(object_path(name))) as loaded:
        for program, expected in RETURNS[name].items():
            # enum64 needs clang 15; with clang 14 the object lacks that program.
            if program in loaded.programs:
                assert loaded.programs[program].test_run(skb_packet()).retval == expected, program


def test_knobs_are_set_before_load(object_path: ObjectPath) -> None:
    spec = open_object(object_path("globals")).with_constants(
        {"knob_u32": 1003, "knob_s32": -1005, "knob_bool": False, "knob_name": b"A".ljust(16, b"\0")}
    )
    with load(spec) as loaded:
        # 11154 by default; +1000, -1000, -1, and 'A' (65) for 'd' (100).
        assert loaded.programs["sum_rodata"].test_run(skb_packet()).retval == 11154 - 1 - 35


def test_data_sections_become_maps_and_read_only_ones_are_frozen(object_path: ObjectPath) -> None:
    with load(open_object(object_path("globals"))) as loaded:
        constants, variables = loaded.maps[".rodata"], loaded.maps[".bss"]
        assert constants.info().name == "globals.rodata"
        assert constants.info().flags & MapFlag.BPF_F_RDONLY_PROG
        with pytest.raises(BpfError, match="EPERM"):
            constants.update(bytes(4), bytes(constants.value_size))
        variables.update(bytes(4), bytes(variables.value_size))


def test_maps_are_what_the_object_declares(object_path: ObjectPath) -> None:
    with load(open_object(object_path("maps"))) as loaded:
        info = {name: held.info() for name, held in loaded.maps.items()}
    assert info["flows"].type == MapType.BPF_MAP_TYPE_HASH
    assert info["flows"].flags == MapFlag.BPF_F_NO_PREALLOC
    assert (info["flows"].key_size, info["flows"].value_size, info["flows"].max_entries) == (8, 8, 128)
    assert info["flows"].btf_key_type_id
    assert info["untyped"].btf_id == 0
    assert info["seen"].map_extra == 3
    assert info["odd_events"].max_entries == 131072
    assert info["a_name_longer_than_the_kernel_keeps"].name == "a_name_longer_t"


def test_sizes_left_open_are_set_before_load(object_path: ObjectPath) -> None:
    spec = open_object(object_path("map_zero_entries"))
    with pytest.raises(BpfError, match=r"sized_by_user(.|\n)*may lack max_entries"):
        load(spec)
    with load(spec.with_map_sizes({"sized_by_user": 77})) as loaded:
        assert loaded.maps["sized_by_user"].info().max_entries == 77


def test_optional_programs_load_when_named(object_path: ObjectPath) -> None:
    spec = open_object(object_path("optional"))
    with load(spec) as loaded:
        assert list(loaded.programs) == ["always"]
    with load(spec, programs=["when_asked"]) as loaded:
        assert list(loaded.programs) == ["when_asked"]
        assert loaded.programs["when_asked"].expected_attach_type == AttachType.BPF_CGROUP_INET_EGRESS


def test_unknown_program_is_a_usage_error(object_path: ObjectPath) -> None:
    with pytest.raises(UsageError, match="no program 'nonsense'"):
        load(open_object(object_path("minimal")), programs=["nonsense"])


def test_a_program_that_cannot_be_linked_stops_the_load_before_it_begins(object_path: ObjectPath) -> None:
    with pytest.raises(ObjectNotSupportedError, match="defined_nowhere"):
        load(open_object(object_path("fail_extern_missing")))


def test_maps_can_be_lent(object_path: ObjectPath) -> None:
    spec = open_object(object_path("sk_storage"))
    with load(spec) as first:
        tags = first.maps["tags"]
        with load(spec, reuse={"tags": tags}) as second:
            assert second.maps["tags"] is tags
            assert tags.info().id in second.programs[next(iter(second.programs))].info().map_ids
        assert not tags.closed


def test_a_lent_map_must_fit(object_path: ObjectPath) -> None:
    spec = open_object(object_path("sk_storage"))
    with (
        Map.create("other", MapType.BPF_MAP_TYPE_ARRAY, 4, 8, 1) as other,
        pytest.raises(IncompatibleMapError, match="type"),
    ):
        load(spec, reuse={"tags": other})


def test_maps_declared_with_pinning_are_shared(object_path: ObjectPath, bpffs: Path) -> None:
    spec, pins = open_object(object_path("pinning")), bpffs / "pins"
    pins.mkdir()
    for expected in (3, 5, 7):
        with load(spec, pin_root=pins) as loaded:
            assert loaded.programs["count"].test_run(skb_packet()).retval == expected
    assert [pin.name for pin in pins.iterdir()] == ["ct_test_pinned"]
    with pytest.raises(IncompatibleMapError, match=str(pins / "ct_test_pinned")):
        load(open_object(object_path("pinning_other")), pin_root=pins)
    (pins / "ct_test_pinned").unlink()


def test_a_map_that_would_take_too_much_memory_is_refused(object_path: ObjectPath) -> None:
    spec = open_object(object_path("map_zero_entries")).with_map_sizes({"sized_by_user": 0xFFFFFFFF})
    with pytest.raises(UsageError, match="MiB, more than the limit of 1024"):
        load(spec)


class InjectedError(Exception):
    pass


def fail_at(monkeypatch: pytest.MonkeyPatch, module: object, name: str, count: int) -> None:
    """Let the `count`-th call of a step of the load fail."""
    original, calls = getattr(module, name), 0

    def failing(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == count:
            raise InjectedError
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize("count", range(1, 7))
def test_failing_at_any_map_undoes_all(count: int, object_path: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    # The fixture nothing_left_behind is the assertion.
    fail_at(monkeypatch, map_load, "_create", count)
    with pytest.raises(InjectedError):
        load(open_object(object_path("globals")))


@pytest.mark.parametrize("count", range(1, 5))
def test_failing_at_any_program_undoes_all(
    count: int, object_path: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, prog_load, "_attempt", count)
    with pytest.raises(InjectedError):
        load(open_object(object_path("globals")))


@pytest.mark.parametrize("step", ["fill_slots", "pin_shared"])
def test_failing_after_the_programs_undoes_all(
    step: str, object_path: ObjectPath, bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, Loader, step, 1)
    pins = bpffs / "pins"
    pins.mkdir()
    with pytest.raises(InjectedError):
        load(open_object(object_path("pinning")), pin_root=pins)
    assert list(pins.iterdir()) == []


def test_filling_a_frozen_map_that_fails_closes_it(object_path: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, Map, "freeze", 1)
    with pytest.raises(InjectedError):
        load(open_object(object_path("globals")))


def test_the_btf_of_a_loaded_object_shows_source_lines(object_path: ObjectPath) -> None:
    with load(open_object(object_path("minimal"))) as loaded:
        program = next(iter(loaded.programs.values()))
        shown = subprocess.run(
            ["bpftool", "prog", "dump", "xlated", "id", str(program.info().id), "linum"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    assert "return 1;" in shown

"""chadthrottle/abi.py, and doctor/trial_abi.py, against the BTF of the objects they describe."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle import abi
from chadthrottle.abi import TrafficCount, TrafficDirection
from chadthrottle.bpf.btf import Btf, BtfType
from chadthrottle.bpf.constants import BtfKind
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.spec import ObjectSpec
from chadthrottle.doctor import trial_abi

Fields = list[tuple[str, int, int]]

# Every structure of the two: the object it comes from, and its name in C.
STRUCTURES: dict[type[ctypes.Structure], tuple[str, str]] = {
    TrafficCount: ("traffic", "traffic_count"),
    abi.ThrottleCount: ("throttle", "throttle_count"),
    abi.ThrottleDevice: ("throttle", "throttle_device"),
    abi.ThrottleQueue: ("throttle", "throttle_queue"),
    abi.ThrottleHolder: ("throttle", "throttle_holder"),
    abi.ThrottleMembership: ("throttle", "throttle_membership"),
    abi.ThrottleMeter: ("throttle", "throttle_meter"),
    abi.ThrottleProcess: ("throttle", "throttle_process"),
    abi.ThrottleRate: ("throttle", "throttle_rate"),
    abi.ThrottleRule: ("throttle", "throttle_rule"),
    abi.ThrottleSharing: ("throttle", "throttle_sharing"),
    abi.ThrottleSocket: ("throttle", "throttle_socket"),
    abi.ThrottleTag: ("throttle", "throttle_tag"),
    trial_abi.TrialSocket: ("trial", "trial_socket"),
}


@pytest.fixture
def traffic(object_path: Callable[[str], Path]) -> ObjectSpec:
    return open_object(object_path("traffic"))


def find(btf: Btf, kind: BtfKind, name: str) -> BtfType:
    return next(record for record in btf.table if record.kind == kind and btf.name(record.id) == name)


def layout_in_btf(btf: Btf, record: BtfType) -> Fields:
    assert not record.kind_flag, "bit fields: offsets are encoded otherwise"
    return [(m.name, m.bit_offset // 8, btf.size(m.type_id)) for m in btf.members(record)]


def layout_in_ctypes(structure: type[ctypes.Structure]) -> Fields:
    fields = [(field[0], getattr(structure, field[0])) for field in structure._fields_]
    return [(name, descriptor.offset, descriptor.size) for name, descriptor in fields]


def test_every_structure_is_compared() -> None:
    both = (getattr(module, name) for module in (abi, trial_abi) for name in module.__all__)
    exported = {each for each in both if isinstance(each, type)}
    assert {each for each in exported if issubclass(each, ctypes.Structure)} == STRUCTURES.keys()


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.__name__)
def test_structure_has_the_layout_of_the_object(
    structure: type[ctypes.Structure], object_path: Callable[[str], Path]
) -> None:
    name, in_c = STRUCTURES[structure]
    btf = open_object(object_path(name)).btf
    assert btf is not None
    record = find(btf, BtfKind.BTF_KIND_STRUCT, in_c)
    assert layout_in_ctypes(structure) == layout_in_btf(btf, record)
    assert ctypes.sizeof(structure) == record.value


def test_map_has_these_keys_and_values(traffic: ObjectSpec) -> None:
    declared = traffic.maps["traffic"]
    assert declared.max_entries == len(TrafficDirection)
    assert declared.value_size == ctypes.sizeof(TrafficCount)
    assert {declared.key_size} == {len(direction.key) for direction in TrafficDirection}
    assert traffic.btf is not None
    value = traffic.btf.resolve(declared.btf_value_type_id)
    assert traffic.btf.name(value.id) == "traffic_count"


def test_keys_are_what_the_header_says() -> None:
    """Not from BTF: the programs use the enumerators as numbers, so clang leaves the enum out."""
    header = (Path(__file__).parents[2] / "ebpf" / "traffic.h").read_text(encoding="utf-8")
    for direction in TrafficDirection:
        assert f"\tTRAFFIC_{direction.name} = {direction.value},\n" in header
    assert f"\tTRAFFIC_DIRECTIONS = {len(TrafficDirection)},\n" in header


def test_throttle_numbers_are_what_the_header_says() -> None:
    header = (Path(__file__).parents[2] / "ebpf" / "throttle.h").read_text(encoding="utf-8")
    assert f"#define THROTTLE_ABI_VERSION {abi.THROTTLE_ABI_VERSION}\n" in header
    assert f"#define THROTTLE_MAX_PROCESSES {abi.THROTTLE_MAX_PROCESSES}\n" in header
    for direction in abi.ThrottleDirection:
        assert f"\tTHROTTLE_{direction.name} = {direction.value}," in header
    for scope in abi.ThrottleScope:
        assert f"\tTHROTTLE_{scope.name} = {scope.value}," in header
    for each in abi.ThrottleClass:
        assert f"\tTHROTTLE_CLASS_{each.name} = {each.value}," in header
    for why in abi.ThrottleWhy:
        assert f"\tTHROTTLE_WHY_{why.name} = {why.value}," in header
    assert f"#define THROTTLE_MAX_QUEUES {abi.THROTTLE_MAX_QUEUES}\n" in header
    assert f"#define THROTTLE_QUEUE_MAJOR {abi.THROTTLE_QUEUE_MAJOR:#x}\n" in header
    assert f"#define THROTTLE_QUEUE_CLASSES {abi.THROTTLE_QUEUE_CLASSES}\n" in header


def test_trial_numbers_are_what_the_header_says() -> None:
    header = (Path(__file__).parents[2] / "ebpf" / "trial.h").read_text(encoding="utf-8")
    assert f"#define TRIAL_DROPPED_BYTES {trial_abi.TRIAL_DROPPED_BYTES}\n" in header
    for direction in trial_abi.TrialDirection:
        assert f"\tTRIAL_{direction.name} = {direction.value},\n" in header


def test_throttle_maps_hold_these_structures(object_path: Callable[[str], Path]) -> None:
    maps = open_object(object_path("throttle")).maps
    held = {
        "processes": abi.ThrottleProcess,
        "tags": abi.ThrottleTag,
        "rules": abi.ThrottleRule,
        "meters": abi.ThrottleMeter,
        "holders": abi.ThrottleHolder,
    }
    assert {name: spec.value_size for name, spec in maps.items() if name in held} == {
        name: ctypes.sizeof(structure) for name, structure in held.items()
    }


def test_total_adds_up_the_cpus() -> None:
    copies = [bytes(TrafficCount(1, 20, 300, 4000)), bytes(TrafficCount(2, 30, 400, 5000))]
    total = TrafficCount.total(copies)
    assert (total.packets, total.ip_bytes, total.wire_bytes, total.errors) == (3, 50, 700, 9000)


def test_total_refuses_what_is_too_short() -> None:
    with pytest.raises(ValueError, match="31"):
        TrafficCount.total([bytes(31)])

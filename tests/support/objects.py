"""The objects of tests/objects and ebpf/: building them, and what is expected of them."""

import subprocess
from pathlib import Path

from chadthrottle.artifacts import MissingObjectError, StaleObjectError, check_fresh
from tools import build_ebpf

__all__ = ["RETURNS", "SAME_AS_LIBBPF", "SOURCES", "build_objects", "built_objects", "skb_packet"]

SOURCES = Path(__file__).parents[1] / "objects"

SAME_AS_LIBBPF = (
    "minimal",
    "sections",
    "tcx_as_tc",
    "maps",
    "map_spellings",
    "sk_storage",
    "map_in_map",
    "prog_array",
    "globals",
    "data_relocation",
    "subprogs",
    "callbacks",
    "locks",
    "core",
    "core_types",
    "btf_kinds",
    "kfunc",
    "ksym",
    "kconfig",
    "licence_missing",
    "many_programs",
    "no_btf",
    "traffic",
)
"""Objects that both libbpf 1.1 and this runtime load as they are."""

RETURNS = {
    "map_in_map": {"follow": 41},
    "prog_array": {"jump_to_early": 100, "jump_to_late": 300, "jump_to_nowhere": 2},
    "globals": {"sum_rodata": 11154, "sum_data": 122, "sum_bss": 4, "print": 10},
    "data_relocation": {"is_set": 0},
    "subprogs": {"first": 314, "second": 321, "third": 214},
    "map_spellings": {"count": 2},
    "callbacks": {"loop": 90, "for_each": 96, "set_timer": 0},
    "core": {"field_facts": 55},
    "core_types": {"type_facts": 15, "enum_facts": 13, "newer_facts": 7},
    "btf_kinds": {"use_kinds": 3},
    "ksym": {"addresses": 3},
    "kconfig": {"facts": 15},
}
"""What each program returns under BPF_PROG_TEST_RUN with `skb_packet`, run once each in this order."""


def skb_packet() -> bytes:
    """The least BPF_PROG_TEST_RUN takes for an skb, with room to spare."""
    return bytes(64)


def built_objects(*names: str) -> None:
    """The package's own objects of these names are there and fit the sources, of either flavour."""
    try:
        for name in names:
            check_fresh(name)
    except (MissingObjectError, StaleObjectError):
        build_ebpf.build_project("debug")


def build_objects(output: Path) -> dict[str, Path]:
    """Compile tests/objects and ebpf/ into debug objects below `output`; the paths by object name."""
    built = {}
    for sources in (SOURCES, build_ebpf.EBPF):
        for each in build_ebpf.build(sources, [build_ebpf.EBPF], output / sources.name, "debug"):
            built[each.path.name.removesuffix(".bpf.o")] = each.path
    clang = build_ebpf.find_clang("debug")
    without_btf = [flag for flag in build_ebpf.COMPILE_FLAGS if flag != "-g"]
    for name in (name for name in built if "no_btf" in name):
        source = SOURCES / f"{name}.bpf.c"
        options = [*without_btf, f"-I{build_ebpf.EBPF}", "-c", str(source), "-o", str(built[name])]
        subprocess.run([clang.path, *options], check=True)
    return built

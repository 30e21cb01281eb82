"""doctor, conflicts: which programs refuse others, and which would be silenced (hierarchy_allows_attach())."""

from pathlib import Path

import pytest

from chadthrottle.bpf.constants import AttachFlag, AttachType
from chadthrottle.bpf.query import AttachedProgram
from chadthrottle.doctor.conflicts import _refusing, _silenced
from chadthrottle.doctor.programs_on import HookOn, detach_command

ROOT, MIDDLE, LEAF = Path("/cg"), Path("/cg/middle"), Path("/cg/middle/leaf")
WAY = [LEAF, MIDDLE, ROOT]
EGRESS, DEVICE = AttachType.BPF_CGROUP_INET_EGRESS, AttachType.BPF_CGROUP_DEVICE
EXCLUSIVE, OVERRIDE, MULTI = AttachFlag(0), AttachFlag.BPF_F_ALLOW_OVERRIDE, AttachFlag.BPF_F_ALLOW_MULTI


def on(path: Path, flags: AttachFlag, hook: AttachType = EGRESS) -> HookOn:
    return HookOn(path, hook, flags, (AttachedProgram(7, "fw", "tag"),), {})


@pytest.mark.parametrize(
    ("found", "refusing", "silenced"),
    [
        ([], [], []),
        ([on(LEAF, MULTI), on(ROOT, MULTI)], [], []),
        ([on(LEAF, EXCLUSIVE)], [LEAF], []),
        ([on(LEAF, OVERRIDE)], [LEAF], []),
        ([on(MIDDLE, EXCLUSIVE)], [MIDDLE], []),
        ([on(MIDDLE, OVERRIDE)], [], [MIDDLE]),
        # Whoever sits on the leaf has silenced it already.
        ([on(LEAF, MULTI), on(MIDDLE, OVERRIDE)], [], []),
        # The nearest above decides: under MULTI nothing farther up is asked.
        ([on(MIDDLE, MULTI), on(ROOT, MULTI)], [], []),
        ([on(ROOT, EXCLUSIVE)], [ROOT], []),
        ([on(ROOT, OVERRIDE)], [ROOT], []),
        # Not a hook that limits take.
        ([on(LEAF, EXCLUSIVE, DEVICE), on(MIDDLE, OVERRIDE, DEVICE)], [], []),
    ],
)
def test_who_is_in_the_way(found: list[HookOn], refusing: list[Path], silenced: list[Path]) -> None:
    assert [each.path for each in _refusing(WAY, found)] == refusing
    assert [each.path for each in _silenced(WAY, found)] == silenced


def test_without_a_target_the_root_alone_counts() -> None:
    assert [each.path for each in _refusing([ROOT], [on(ROOT, OVERRIDE)])] == [ROOT]
    assert _silenced([ROOT], [on(ROOT, OVERRIDE)]) == []
    assert _refusing([ROOT], [on(ROOT, MULTI)]) == []


def test_a_link_is_detached_by_its_own_id() -> None:
    legacy = on(LEAF, MULTI)
    assert detach_command(legacy, legacy.programs[0]) == f"sudo bpftool cgroup detach {LEAF} cgroup_inet_egress id 7"
    assert detach_command(legacy._replace(links={7: 9}), legacy.programs[0]) == "sudo bpftool link detach id 9"


def test_systemds_names_survive_a_shell() -> None:
    odd = on(Path(r"/cg/dev-disk-by\x2duuid.slice"), MULTI)
    assert r"'/cg/dev-disk-by\x2duuid.slice'" in detach_command(odd, odd.programs[0])

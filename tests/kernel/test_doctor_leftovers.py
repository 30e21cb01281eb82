"""Faults for the family leftovers: doctor names each, and --fix removes it, and nothing else."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chadthrottle.bpf import attr
from chadthrottle.bpf.cgroup_link import attach_cgroup
from chadthrottle.bpf.cgroupfs import open_cgroup
from chadthrottle.bpf.constants import AttachType, BpfCmd
from chadthrottle.bpf.errors import AttachError
from chadthrottle.bpf.links import Link
from chadthrottle.bpf.loader import load
from chadthrottle.bpf.parse import open_object
from chadthrottle.bpf.query import program_ids
from chadthrottle.bpf.syscall import bpf
from chadthrottle.doctor import Status, examine, orphans
from chadthrottle.doctor.catalogue import CHECKS
from chadthrottle.doctor.orphans import attachments
from chadthrottle.enforce.hooks import pins_of_this_version
from chadthrottle.model import Engine
from tests.support.cgroups import cgroup2_root
from tests.support.command import Command
from tests.support.doctor import diagnose
from tests.support.killed import killer
from tests.support.queued import DEVICE, ip, tc, traffic_control
from tests.support.rates import rate, within
from tests.support.throttled import LIMIT, Program, Scene

EGRESS = AttachType.BPF_CGROUP_INET_EGRESS


def here(stage: Scene) -> Path:
    return pins_of_this_version(stage.base).directory


def remove_by_hand(stage: Scene) -> None:
    shutil.rmtree(stage.base)


BY_TRANSFER = ("CT-ENF-02", "CT-ENF-03", "CT-ENF-04", "CT-ENF-05")
WITHOUT_A_TRANSFER = tuple(each for each in CHECKS if each.id not in BY_TRANSFER)


def fix(chadthrottle: Command, check_id: str, *words: str, as_started: bool = False) -> None:
    """It says what it removes, and then all is well: with a measured limit in that run, and without one after it."""
    fixed = diagnose(chadthrottle, "--fix", as_started=as_started)
    fixed.is_well(check_id)
    assert fixed[check_id]["summary"].startswith("removed"), fixed[check_id]
    for word in words:
        assert word in fixed[check_id]["summary"]
    report = examine(base=chadthrottle.bpffs / "chadthrottle", checks=WITHOUT_A_TRANSFER)
    assert [each for each in report.findings if each.is_cause] == []
    assert next(each for each in report.findings if each.id == check_id).outcome.status is Status.OK


def test_half_made_pins(chadthrottle: Command, stage: Scene) -> None:
    program = stage.start()
    with killer(stage) as command:
        assert command.throttle(program, 1)
    part = f"{here(stage).name}-part"
    assert (stage.base / part).exists()
    diagnose(chadthrottle).names_only("CT-LEFT-01", part, status=0)
    assert (stage.base / part).exists(), "without --fix nothing is changed"
    fix(chadthrottle, "CT-LEFT-01", part, as_started=True)
    assert not stage.base.exists()


def test_pins_of_another_version(chadthrottle: Command, stage: Scene) -> None:
    """With a queue, which goes with them."""
    before = traffic_control(stage.here)
    stage.throttle(stage.start())
    here(stage).rename(stage.base / "v2")
    diagnose(chadthrottle).names_only("CT-LEFT-02", "v2", "1 limits", status=0)
    fix(chadthrottle, "CT-LEFT-02", "v2")
    assert not stage.base.exists()
    assert traffic_control(stage.here) == before


def test_pins_removed_in_part(chadthrottle: Command, stage: Scene) -> None:
    before = traffic_control(stage.here)
    stage.throttle(stage.start())
    (here(stage) / "maps" / "rules").unlink()
    diagnose(chadthrottle).names_only("CT-LEFT-03", "maps/rules", status=0)
    fix(chadthrottle, "CT-LEFT-03", "maps/rules")
    assert not stage.base.exists()
    assert traffic_control(stage.here) == before


@pytest.mark.parametrize("attach", ["link", "legacy"])
def test_cgroup_of_the_hooks_removed(attach: str, chadthrottle: Command, stage: Scene) -> None:
    inner = stage.cgroup / "inner"
    program = stage.start()
    home, stage.cgroup = stage.cgroup, inner
    inner.mkdir()
    stage.throttle(program, attach=attach)
    inner.rmdir()
    stage.cgroup = home
    diagnose(chadthrottle).names_only("CT-LEFT-04", "was removed", str(program.pid), status=0)
    fix(chadthrottle, "CT-LEFT-04")
    assert not stage.base.exists()


def test_hook_detached_by_force(chadthrottle: Command, stage: Scene) -> None:
    stage.throttle(stage.start())
    with Link.open_pinned(here(stage) / "links" / "egress") as link:
        bpf(BpfCmd.BPF_LINK_DETACH, attr.LinkFd(link_fd=link.fd))
    diagnose(chadthrottle).names_only("CT-LEFT-04", "egress", status=0)
    fix(chadthrottle, "CT-LEFT-04")
    assert not stage.base.exists()


@pytest.mark.parametrize("attach", ["link", "legacy"])
def test_hooks_without_a_limit(attach: str, chadthrottle: Command, stage: Scene) -> None:
    program = stage.start()
    stage.throttle(program, attach=attach)
    program.kill()
    assert within(3, lambda: not stage.limited())
    diagnose(chadthrottle).names_only("CT-LEFT-05", f"by {attach}", status=0)
    fix(chadthrottle, "CT-LEFT-05")
    assert not stage.base.exists()


def test_orphaned_legacy_programs(chadthrottle: Command, stage: Scene, object_path: Callable[[str], Path]) -> None:
    """Their pins are gone, and a stranger's program is beside them."""
    spec = open_object(object_path("minimal"))
    (name,) = (name for name, each in spec.programs.items() if each.expected_attach_type == EGRESS)
    with load(spec) as strangers, attach_cgroup(strangers.programs[name], stage.cgroup, method="legacy"):
        stage.throttle(stage.start(), attach="legacy", engine=Engine.CGROUP)
        remove_by_hand(stage)
        try:
            diagnose(chadthrottle).names_only("CT-LEFT-06", "throttle_egress", str(stage.cgroup), status=0)
            fix(chadthrottle, "CT-LEFT-06", "throttle_egress")
        finally:
            chadthrottle("doctor", "--fix")
        assert orphans_of(stage) == []
        with open_cgroup(stage.cgroup) as directory:
            assert program_ids(directory.fd, EGRESS) == (strangers.programs[name].info().id,)


def test_a_link_that_is_about_to_go_is_no_orphan(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's worker detaches after the link has lost its id: held open here, until doctor first waits."""
    stage.throttle(stage.start(), engine=Engine.CGROUP)
    monkeypatch.setattr(orphans, "links_of_program", lambda _: iter(()))
    found = orphans_of(stage)
    assert found
    for each in found:
        with pytest.raises(AttachError, match="detach the link"):
            orphans.detach(each)
    looks = itertools.count()
    is_there = orphans._is_there

    def is_there_until_the_second_look(each: orphans.Attachment) -> bool:
        if each.cgroup == stage.cgroup and next(looks) == 1:
            remove_by_hand(stage)
            assert within(3, lambda: not is_there(each))
        return is_there(each)

    monkeypatch.setattr(orphans, "_is_there", is_there_until_the_second_look)
    assert orphans_of(stage) == []
    for each in found:
        orphans.detach(each)


def test_recorded_legacy_programs_are_no_orphans(chadthrottle: Command, stage: Scene) -> None:
    program = stage.start()
    stage.throttle(program, attach="legacy")
    diagnose(chadthrottle, "--fix").is_well("CT-LEFT-06", "CT-LEFT-07")
    assert stage.limited() == {program.pid}


def test_queue_nobody_knows_of(chadthrottle: Command, stage: Scene) -> None:
    """Its pins are gone; filters of the user's are beside ours."""
    tc(stage.here, "qdisc", "add", "dev", "veth0", "clsact")
    match = ("u32", "match", "ip", "protocol", "132", "0xff", "classid", "1:1")
    tc(stage.here, "filter", "add", "dev", "veth0", "ingress", "prio", "20", "protocol", "ip", *match)
    before = traffic_control(stage.here)
    stage.throttle(stage.start())
    remove_by_hand(stage)
    assert DEVICE in ip(stage.here, "link")
    diagnose(chadthrottle).names_only("CT-LEFT-07", f"device {DEVICE}", "veth0 ingress", status=0)
    fix(chadthrottle, "CT-LEFT-07", f"device {DEVICE}")
    assert traffic_control(stage.here) == before


def test_device_of_another_kind_is_not_ours(chadthrottle: Command, stage: Scene) -> None:
    ip(stage.here, "link", "add", DEVICE, "type", "bridge")
    diagnose(chadthrottle, "--fix").is_well("CT-LEFT-07")
    assert DEVICE in ip(stage.here, "link")


def test_cgroups_of_killed_trials(chadthrottle: Command) -> None:
    root = cgroup2_root()
    assert root is not None
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    dead, alive = (root / f"chadthrottle-doctor-{pid}-leaf" for pid in (ended.pid, os.getpid()))
    (dead / "below").mkdir(parents=True)
    alive.mkdir()
    try:
        diagnose(chadthrottle).names_only("CT-LEFT-08", dead.name, status=0)
        fix(chadthrottle, "CT-LEFT-08", dead.name)
        assert alive.exists()
        assert not dead.exists()
    finally:
        for each in dead / "below", dead, alive:
            if each.exists():
                each.rmdir()


def test_what_others_put_between_our_pins(chadthrottle: Command, bpffs: Path) -> None:
    """Named, and left alone."""
    strange = bpffs / "chadthrottle" / "strange"
    strange.parent.mkdir(mode=0o700)
    strange.mkdir()
    diagnose(chadthrottle).names_only("CT-LEFT-09", "strange", status=0)
    diagnose(chadthrottle, "--fix").names_only("CT-LEFT-09", "strange", status=0)
    assert strange.exists()
    strange.rmdir()
    diagnose(chadthrottle).is_well("CT-LEFT-09")


def test_fix_leaves_running_limits_alone(chadthrottle: Command, stage: Scene) -> None:
    """And doctor itself does, with a queue and traffic in it."""
    program = stage.start()
    program.busy_download()
    stage.throttle(program)
    before, rules = pins_in(stage), stage.rules()
    diagnose(chadthrottle, program.pid).is_well()
    diagnose(chadthrottle, "--fix").is_well()
    assert pins_in(stage) == before
    (after,) = stage.rules()
    assert bytes(after.rule) == bytes(rules[0].rule)
    assert after.id == rules[0].id
    assert after.meter.count[1].passed_bytes > rules[0].meter.count[1].passed_bytes
    assert within(3, lambda: _is_held(program))


def orphans_of(stage: Scene) -> list[orphans.Attachment]:
    """Not what others left behind: this kernel is theirs too."""
    return [each for each in attachments() if each.cgroup == stage.cgroup]


def pins_in(stage: Scene) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_ino) for path in stage.base.rglob("*")}


def _is_held(program: Program) -> bool:
    return 0.5 * LIMIT < rate(program.received, 0.5) < 1.2 * LIMIT

"""Kernels without a piece of what queues are made of: here these are modules, so one of them goes, file and all."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chadthrottle.bpf.features import supported
from chadthrottle.errors import KernelCannotError
from chadthrottle.model import Engine
from tests.support.command import Command
from tests.support.doctor import diagnose
from tests.support.queued import goes_through_queue, recorded, require_limited, traffic_control
from tests.support.throttled import Scene

BUSYBOX = "/run/guest/busybox"  # tools/vm/init.sh; its modprobe looks where the guest's modules are

WITHOUT_TCX = ("sch_ingress", "cls_bpf", "act_mirred", "act_gact")


@pytest.fixture(params=["ifb", "sch_htb", "sch_tbf", *WITHOUT_TCX])
def module(request: pytest.FixtureRequest) -> str:
    """The name of one that a queue takes in this kernel."""
    if request.param in WITHOUT_TCX and supported("tcx"):
        pytest.skip("no filter is made where there is tcx")
    return str(request.param)


@contextmanager
def without(name: str, away: Path) -> Iterator[None]:
    """Neither loaded nor to be found."""
    (file,) = Path("/lib/modules", os.uname().release).glob(f"kernel/**/{name}.ko*")
    if Path("/sys/module", name).exists():
        subprocess.run([BUSYBOX, "rmmod", name], check=True)
    moved = shutil.move(file, away)
    try:
        yield
    finally:
        shutil.move(moved, file)


def test_doctor_names_it_and_its_cure_helps(module: str, chadthrottle: Command, tmp_path: Path) -> None:
    with without(module, tmp_path):
        spoiled = diagnose(chadthrottle)
        spoiled.names_only("CT-ENF-01", "sudo modprobe ", module, status=0)
    subprocess.run(
        [BUSYBOX, "sh", "-c", f"modprobe() {{ {BUSYBOX} modprobe $@; }}; {spoiled.cure('CT-ENF-01')}"], check=True
    )
    diagnose(chadthrottle).is_well("CT-ENF-01")


def test_downloads_are_policed_until_it_is_there(module: str, stage: Scene, tmp_path: Path) -> None:
    before = traffic_control(stage.here)
    program = stage.start()
    program.busy_download()
    with without(module, tmp_path):
        with pytest.raises(KernelCannotError):
            stage.throttle(program, engine=Engine.QUEUE)
        assert not stage.base.exists()
        assert "policed, not queued" in " ".join(stage.throttle(program).notes)
        assert traffic_control(stage.here) == before
        assert recorded(stage) == []
        require_limited(stage, program)
    assert not any("policed" in each for each in stage.throttle(program).notes)
    assert goes_through_queue(stage, program) > 0.9

"""What the benchmarks promise to hold a limit to, and the relay as a program."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.accuracy.cells import Cell, G, K, M, full, quick
from benchmarks.wan.build import compile_relay, relay_program
from chadthrottle.model import Direction, Engine
from tools.build_ebpf import find_clang


@pytest.mark.parametrize(
    ("cell", "bounds"),
    [
        (Cell(1 * M), (0.97, 1.03)),
        (Cell(1 * M, 8), None),
        (Cell(1 * M, 8, rtt_ms=20), (0.97, 1.03)),
        (Cell(1 * M, 64, rtt_ms=20), None),
        (Cell(256 * K, 4, rtt_ms=4), (0.97, 1.03)),
        (Cell(256 * K, 4, rtt_ms=3), None),
        (Cell(256 * K, 64, rtt_ms=20, direction=Direction.DOWN), (0.98, 1.02)),
        (Cell(256 * K, 64, direction=Direction.DOWN, engine=Engine.CGROUP), (0.93, 1.03)),
        (Cell(10 * M, 16, rtt_ms=20, trickle=True), (0.95, 1.03)),
    ],
)
def test_the_bounds_are_the_projects_promise(cell: Cell, bounds: tuple[float, float] | None) -> None:
    assert cell.bounds == bounds


def test_fairness_is_promised_among_bulk_flows_of_an_upload_only() -> None:
    assert Cell(10 * M, 8, rtt_ms=20).least_fairness == 0.95
    for cell in Cell(10 * M), Cell(1 * M, 8, rtt_ms=20), Cell(10 * M, 8, direction=Direction.DOWN):
        assert cell.least_fairness is None


def test_every_cell_can_be_told_from_the_others() -> None:
    names = [(cell.name, cell.limit, cell.flows, cell.least_seconds) for cell in full()]
    assert len(set(names)) == len(names)
    assert {(cell.name, cell.flows) for cell in full() if cell.rtt_ms and cell.rate == 1 * G} >= {
        ("up wan 20 ms tcp", 64),
        ("up wan 20 ms tcp bbr", 8),
        ("down wan 20 ms tcp", 1),
    }


def test_the_quick_cells_take_about_two_minutes() -> None:
    assert sum(cell.seconds + 2 for cell in quick()) <= 140


def test_the_relay_compiles_without_a_warning_wherever_the_bpf_programs_do(tmp_path: Path) -> None:
    compilers = {find_clang("debug").path, *filter(None, [shutil.which("gcc")])}
    for number, compiler in enumerate(sorted(compilers)):
        assert compile_relay(compiler, tmp_path / str(number)).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: relay FD_A FD_B DELAY_NS"),
        (["3", "4", "1", "1000"], "usage: relay"),
        (["3", "4", "10ms"], "not a number: '10ms'"),
        (["3", "4", "-1"], "not a number: '-1'"),
        (["77", "78", "1"], "a tun device's descriptor: Bad file descriptor"),
    ],
)
def test_the_relay_says_what_is_wrong(words: list[str], message: str) -> None:
    command = [str(relay_program()), *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr

"""What the comparison makes of its measurements: numbers, page, picture."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.accuracy.cells import WAN_RTT_MS, Cell, G, K, M
from benchmarks.field import grid
from benchmarks.field.contenders import CONTENDERS
from benchmarks.field.cpu import Cpu, cpu_seconds, read_cpu
from benchmarks.field.outcome import Delay, Outcome, Sample, Seen, delay, outcome, title, unmeasured
from benchmarks.field.page import HEADER, Run, delay_text, page, part_text, rate_text, row
from benchmarks.field.picture import Scale, picture
from benchmarks.field.place import line_bytes_per_s
from benchmarks.field.store import read_run, write_run
from chadthrottle.model import Direction

CELL = Cell(1000, direction=Direction.DOWN)


def seen(**changes: object) -> Seen:
    facts: dict[str, object] = {
        "samples": [Sample(10.0, 0, 0), Sample(11.0, 5000, 5), Sample(12.0, 5900, 6), Sample(13.0, 7100, 15)],
        "retransmitted": 3,
        "idle_s": 0.02,
        "answered": [(10.5, 9.0), (11.0, 0.021), (12.0, 0.025), (13.0, 0.03), (13.5, 9.0)],
        "waiting": [12.5, 13.2],
        "now": 14.0,
        "cpu_s": 1.0,
        "died": ["closed", "closed"],
    }
    return Seen(**facts | changes)  # type: ignore[arg-type]


def test_the_first_second_and_what_was_asked_outside_do_not_count() -> None:
    found = outcome(CELL, "nft", seen())
    assert found.achieved == pytest.approx(1.05)
    assert (found.worst, found.best) == (0.9, 1.2)
    assert found.bits_per_s == 8400
    assert (found.retransmitted, found.packets, found.retransmitted_part) == (3, 10, 0.3)
    assert found.requests == 4
    assert found.died == ("closed",)
    assert found.cpu_s_per_gb is None  # too little moved


def test_processor_time_is_for_each_gigabyte_that_moved() -> None:
    samples = [Sample(0.0, 0, 0), Sample(1.0, 0, 0), Sample(2.0, 50_000_000, 40_000)]
    assert outcome(CELL, "nft", seen(samples=samples, answered=[], waiting=[])).cpu_s_per_gb == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("answered", "waiting", "part", "expected"),
    [
        ([], [], 0.5, None),
        ([0.001, 0.002, 0.003], [], 0.5, Delay(2.0, at_least=False)),
        ([0.001] * 99 + [0.5], [], 0.5, Delay(1.0, at_least=False)),
        ([0.001] * 99 + [0.5], [], 0.99, Delay(500.0, at_least=False)),
        ([0.001] * 9, [2.0], 0.5, Delay(1.0, at_least=False)),
        ([0.001] * 9, [2.0], 0.99, Delay(2000.0, at_least=True)),
        # It may have become the longest of all.
        ([0.001, 3.0], [2.0], 0.99, Delay(3000.0, at_least=True)),
        ([-0.001], [], 0.5, Delay(0.0, at_least=False)),
    ],
)
def test_an_unanswered_request_makes_a_delay_a_lower_bound(
    answered: list[float], waiting: list[float], part: float, expected: Delay | None
) -> None:
    assert delay(answered, waiting, part) == expected


@pytest.mark.parametrize(
    ("idle", "others", "expected"),
    [
        (6.0, 2.5, 2.0),  # 8 s of two processors: 6 idle, 2 ours, nothing that nobody took
        (5.5, 2.0, 2.5),  # 0.5 s passed in interrupts while nothing ran
        (7.9, 2.0, 2.0),  # readings are not of the same moment: never less than our own
    ],
)
def test_interrupts_beside_all_processes_are_the_traffics(idle: float, others: float, expected: float) -> None:
    before = Cpu(at=0.0, ours=1.0, all_processes=10.0, idle=100.0)
    after = Cpu(at=4.0, ours=3.0, all_processes=10.0 + others, idle=100.0 + idle)
    assert cpu_seconds(before, after, 2) == pytest.approx(expected)


def test_the_processes_of_this_machine_take_time() -> None:
    before = read_cpu(0.0, [])
    while read_cpu(0.0, []).all_processes == before.all_processes:
        pass
    assert before.idle > 0


def test_titles_tell_cells_apart_and_the_quick_ones_are_among_all() -> None:
    titles = [title(cell) for cell in grid.full()]
    assert len(set(titles)) == len(titles)
    assert {title(cell) for cell in grid.quick()} <= set(titles)
    assert title(Cell(10 * M, 8, rtt_ms=20)) == "up TCP 10 Mbit/s, 8 flows, 20 ms"
    assert title(Cell(256 * K, protocol="udp", datagram=1400)) == "up UDP 256 kbit/s, 0 ms"


def test_a_line_is_ten_times_the_limit_as_far_as_the_relay_carries_it() -> None:
    assert line_bytes_per_s(Cell(10 * M, rtt_ms=WAN_RTT_MS)) == 100 * M
    assert line_bytes_per_s(Cell(G, rtt_ms=WAN_RTT_MS)) == 0
    assert line_bytes_per_s(Cell(10 * M)) == 0


def test_a_limiter_is_chosen_by_its_key() -> None:
    keys = [each.key for each in CONTENDERS]
    assert keys[:2] == ["cgroup", "queue"]
    assert len(set(keys)) == len(keys)
    assert set(keys) >= {"nft", "tc", "trickle", "traffictoll", "wondershaper", "policing"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (part_text(0.00001), "< 0.01 %"),
        (part_text(0.0005), "0.05 %"),
        (part_text(0.25), "25.0 %"),
        (delay_text(None), "-"),
        (delay_text(Delay(3.25, at_least=False)), "3.2"),
        (delay_text(Delay(2503.4, at_least=True)), "≥ 2503"),
        (rate_text(7.5e9), "7.5 Gbit/s"),
        (rate_text(900), "900 bit/s"),
    ],
)
def test_numbers_in_words(text: str, expected: str) -> None:
    assert text == expected


def a_run() -> Run:
    cell = next(iter(grid.quick()))
    measured = Outcome(title(cell), "nft", "", 1.021, 0.9, 1.1, 1e7, 5, 1000, Delay(1, False), Delay(9, True), 150, 0.5)
    compared = [
        ("nft", "nftables", "1.0.6", "a | b"),
        ("trickle", "trickle", "not installed", "c"),
        ("none", "no limit", "", ""),
    ]
    outcomes = [measured, unmeasured(cell, "trickle", "not <installed>\nat all"), unmeasured(cell, "none", "failed")]
    return Run("invoke bench --quick", "2026-11-27", "2 CPUs", "Load 1.0.", 3, compared, outcomes)


def test_every_row_has_as_many_cells_as_the_header() -> None:
    lines = list(page(a_run(), "accuracy.svg"))
    table = lines[lines.index(HEADER[0]) :]
    assert len(table) == 5
    assert {line.count("|") for line in table} == {10}
    assert "![Achieved rate, retransmissions and added delay of each limiter](accuracy.svg)" in lines
    assert any("invoke bench --quick" in line and "2 CPUs" in line and "2026-11-27" in line for line in lines)
    assert any("the 3 seconds after the first" in line for line in lines)


def test_a_later_run_takes_the_place_of_what_it_measured_again() -> None:
    run = a_run()
    cells = [title(cell) for cell in grid.quick()]
    again = [Outcome(cells[0], "trickle", "", 1.2), Outcome(cells[1], "trickle", "", 1.3)]
    compared = [("trickle", "trickle", "1.07", "c")]
    both = run.with_added(replace(run, command="invoke bench --only trickle", compared=compared, outcomes=again))
    assert both.by_cell() == {cells[0]: [run.outcomes[0], again[0], run.outcomes[2]], cells[1]: [again[1]]}
    assert [each[:3] for each in both.compared] == [
        ("nft", "nftables", "1.0.6"),
        ("trickle", "trickle", "1.07"),
        ("none", "no limit", ""),
    ]
    assert any("`invoke bench --quick`, then `invoke bench --only trickle`" in line for line in page(both, "x.svg"))


def test_in_short_are_the_worst_of_what_was_measured() -> None:
    run = a_run()
    cells = [title(cell) for cell in grid.quick()]
    others = [Outcome(cells[1], "nft", "", 0.8, 0.5, 1.0), Outcome(cells[2], "nft", "not here")]
    lines = list(page(replace(run, outcomes=[*run.outcomes, *others]), "accuracy.svg"))
    assert "| nftables | 2 of 3 | 1 of 2 | -20.0 % | 0.50 % | ≥ 9.0 ms |" in lines
    assert "| trickle | 0 of 1 | | | | |" in lines
    assert not any(line.startswith("| no limit | 0 of") for line in lines)


def test_a_row_says_why_it_has_no_figures() -> None:
    assert row("x", unmeasured(CELL, "x", "a | b")).startswith("| x | *a \\| b* |")


def test_the_picture_is_well_formed_and_shows_who_was_measured() -> None:
    run = a_run()
    drawn = ET.fromstring(picture(run, [title(cell) for cell in grid.quick()]))
    words = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"nftables", "trickle", "≥ 9.0", "0.50 %"} <= words
    assert "no limit" not in words
    assert any(word and word.startswith("not <installed>") for word in words)


@pytest.mark.parametrize(("value", "place"), [(0.1, 100), (10, 200), (1000, 300), (0.001, 100), (1e9, 300)])
def test_a_scale_keeps_within_its_ends(value: float, place: float) -> None:
    assert Scale(100, 300, 0.1, 1000, [], logarithmic=True).place(value) == pytest.approx(place)


def test_a_run_comes_back_from_its_file(tmp_path: Path) -> None:
    run = a_run()
    write_run(tmp_path / "run.json", run)
    assert read_run(tmp_path / "run.json") == run

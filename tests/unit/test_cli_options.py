"""Types of arguments, as users meet them: through a command, with the environment, and in what goes wrong."""

from collections.abc import Callable

import click
import pytest

from chadthrottle.cli import main
from chadthrottle.cli.options import AT, DURATION, RATE, Parsed, attach_options, rates_asked
from chadthrottle.cli.root import root
from chadthrottle.errors import UsageError
from chadthrottle.model import AttachPoint

METHOD_VARIABLE = "CHADTHROTTLE_BPF_ATTACH_METHOD"
ROOT_VARIABLE = "CHADTHROTTLE_TEST_ROOT_CGROUP"

Run = Callable[..., tuple[int, dict[str, object]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `chadthrottle try …` in an environment; gives its status and what it understood."""
    understood: dict[str, object] = {}

    @click.command("try")
    @click.argument("rate", type=RATE, required=False)
    @click.option("--up", type=RATE)
    @click.option("--duration", type=DURATION)
    @attach_options
    def command(**values: object) -> None:
        understood.update(values)

    def run(*arguments: str, **environment: str) -> tuple[int, dict[str, object]]:
        understood.clear()
        for name in (METHOD_VARIABLE, ROOT_VARIABLE):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return main(["try", *arguments]), dict(understood)

    monkeypatch.setitem(root.commands, "try", command)
    return run


def test_defaults(run: Run) -> None:
    status, values = run()
    assert status == 0
    assert values == {"rate": None, "up": None, "duration": None, "attach": "auto", "at": AttachPoint.ROOT}


def test_values(run: Run) -> None:
    status, values = run("10mbit", "--up", "300KB", "--duration", "1h30m", "--attach", "legacy", "--at", "leaf")
    assert status == 0
    assert values == {
        "rate": 1_250_000,
        "up": 300_000,
        "duration": 5400,
        "attach": "legacy",
        "at": AttachPoint.LEAF,
    }


@pytest.mark.parametrize("at", ["root", "leaf", "/sys/fs/cgroup/a b"])
def test_at(at: str, run: Run) -> None:
    assert run("--at", at)[1]["at"] == AttachPoint(at)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["10mbps"],
            [
                "error: RATE 10mbps: 10 megabits per second is 10mbit, 10 megabytes per second is",
                "10MB/s",
                "Write the one you mean.",
            ],
        ),
        (["--up", "1kbit"], ["error: --up 1kbit is below the lowest rate, 8kbit", "Write 8kbit or more."]),
        (
            ["--up", "-1kbit"],
            [
                "error: --up -1kbit: it cannot be negative",
                "Write a number and a unit, from 8kbit to 100gbit: 10mbit, 512kbit/s, 1.25MB/s,",
                "1MiB/s.",
            ],
        ),
        (
            ["--duration", "90"],
            ["error: --duration 90: 90 seconds is 90s, 90 minutes is 90m", "Write the one you mean."],
        ),
        (
            ["--at", "system.slice"],
            [
                "error: --at system.slice is neither root, leaf nor an absolute path",
                "Write root, leaf, or a cgroup2 directory: /sys/fs/cgroup/system.slice",
            ],
        ),
        (
            ["--at", ""],
            [
                "error: --at '' is neither root, leaf nor an absolute path",
                "Write root, leaf, or a cgroup2 directory: /sys/fs/cgroup/system.slice",
            ],
        ),
    ],
)
def test_errors_name_the_option_and_the_cure(
    arguments: list[str], lines: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == (2, {})
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("method", ["auto", "link", "legacy"])
def test_attach_method_from_the_environment(method: str, run: Run) -> None:
    assert run(**{METHOD_VARIABLE: method})[1]["attach"] == method


@pytest.mark.parametrize("method", ["auto", "link"])
def test_the_flag_wins(method: str, run: Run) -> None:
    assert run("--attach", method, **{METHOD_VARIABLE: "legacy"})[1]["attach"] == method


@pytest.mark.parametrize("value", ["LINK", "best", " link", "link,legacy", "0"])
def test_unknown_attach_method_in_the_environment(value: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(**{METHOD_VARIABLE: value}) == (2, {})
    assert capsys.readouterr().err.splitlines() == [
        f"error: {METHOD_VARIABLE} {value} is no way to attach",
        "Write one of auto, link, legacy.",
    ]


def test_unknown_attach_method(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--attach", "best") == (2, {})
    assert capsys.readouterr().err.splitlines() == [
        "error: --attach best is no way to attach",
        "Write one of auto, link, legacy.",
    ]


def test_empty_variables_are_unset(run: Run) -> None:
    status, values = run("--at", "leaf", **{METHOD_VARIABLE: "", ROOT_VARIABLE: ""})
    assert (status, values["attach"], values["at"]) == (0, "auto", AttachPoint.LEAF)


@pytest.mark.parametrize("arguments", [[], ["--at", "root"]])
def test_root_from_the_environment(arguments: list[str], run: Run) -> None:
    status, values = run(*arguments, **{ROOT_VARIABLE: "1"})
    assert (status, values["at"]) == (0, AttachPoint.ROOT)


@pytest.mark.parametrize("at", ["leaf", "/sys/fs/cgroup/a"])
def test_root_from_the_environment_contradicts_another_place(
    at: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--at", at, **{ROOT_VARIABLE: "1"}) == (2, {})
    assert capsys.readouterr().err.splitlines() == [
        f"error: --at {at} contradicts {ROOT_VARIABLE}=1",
        f"Write --at root, or unset {ROOT_VARIABLE}.",
    ]


@pytest.mark.parametrize("value", ["0", "true", "11", " 1", "yes"])
@pytest.mark.parametrize("arguments", [[], ["--at", "root"], ["--at", "leaf"]])
def test_unknown_value_of_the_root_variable(
    value: str, arguments: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, **{ROOT_VARIABLE: value}) == (2, {})
    assert capsys.readouterr().err.splitlines() == [
        f"error: {ROOT_VARIABLE} is {value!r}, which means nothing",
        "Set it to 1, or unset it.",
    ]


def test_help_fits_and_is_there_whatever_the_environment(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help", **{METHOD_VARIABLE: "best", ROOT_VARIABLE: "best"})[0] == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    assert "--attach auto|link|legacy" in words
    assert "--at root|leaf|PATH" in words
    assert "--up RATE" in words
    assert "default: root" in words
    assert METHOD_VARIABLE in words.replace(" ", "")


@pytest.mark.parametrize("kind", [RATE, DURATION, AT])
def test_outside_a_command_errors_have_no_label(kind: Parsed) -> None:
    with pytest.raises(UsageError, match=r"^x( is|:)"):
        kind.convert("x", None, None)


@pytest.mark.parametrize(
    ("rate", "up", "down", "both"),
    [
        (1, None, None, (1, 1)),
        (1, 2, None, (2, 1)),
        (1, None, 3, (1, 3)),
        (1, 2, 3, (2, 3)),
        (None, 2, None, (2, None)),
        (None, None, 3, (None, 3)),
    ],
)
def test_rates_asked(rate: int | None, up: int | None, down: int | None, both: tuple[int | None, int | None]) -> None:
    assert rates_asked(rate, up, down) == both


def test_no_rate_asked() -> None:
    with pytest.raises(UsageError, match="no rate given") as refused:
        rates_asked(None, None, None)
    assert refused.value.hint == "Write one for both directions, 10mbit, or --up 10mbit, or --down 10mbit."

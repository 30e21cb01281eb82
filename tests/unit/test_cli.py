"""The entry point: version, help, and what the user reads when something goes wrong."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from chadthrottle import __version__, artifacts
from chadthrottle.bpf.errors import BpfError
from chadthrottle.cli import main
from chadthrottle.cli.root import root
from chadthrottle.errors import KernelCannotError, NotPermittedError, UsageError
from chadthrottle.procs.capabilities import CAP_SYS_ADMIN, NEEDED, lacking

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `chadthrottle fail` raise."""

    def command_raising(error: BaseException) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setitem(root.commands, "fail", click.Command("fail", callback=fail))

    return command_raising


def test_version_says_how_the_objects_were_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "flavour", lambda: "release")
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"chadthrottle {__version__} (objects: release)\n", "")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: chadthrottle [OPTIONS]")
    assert max(map(len, out.splitlines())) <= 80
    assert err == ""


def test_without_arguments_help_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: chadthrottle [OPTIONS]")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["--version=3"]])
def test_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith("error: ")
    assert second == "Try: chadthrottle --help"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("no", hint="Do."), 2),
        (NotPermittedError("no", hint="Do."), 3),
        (KernelCannotError("no", hint="Do."), 5),
        (BpfError("BPF_PROG_LOAD", 22, "no", hint="Do."), 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_meant_for_the_user(
    error: Exception, status: int, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert main(["fail"]) == status
    assert capsys.readouterr() == ("", "error: no\nDo.\n")


def test_error_without_hint(failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    failing(UsageError("no"))
    assert main(["fail"]) == 2
    assert capsys.readouterr().err == "error: no\n"


def test_bug_is_one_line_and_a_request(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(RuntimeError("two\nlines"))
    assert main(["fail"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: unexpected RuntimeError: two lines"
    assert "please report" in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize("error", [RuntimeError("no"), UsageError("no")])
def test_debug_shows_the_traceback(
    error: Exception, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert main(["--debug", "fail"]) == (2 if isinstance(error, UsageError) else 1)
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert "in fail" in err


def test_ctrl_c(failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    failing(KeyboardInterrupt())
    assert main(["fail"]) == 130
    assert capsys.readouterr().err.strip() == "error: interrupted"


@pytest.mark.parametrize("returned", [6, None])
def test_a_commands_result_is_the_status(returned: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(root.commands, "six", click.Command("six", callback=lambda: returned))
    assert main(["six"]) == (returned or 0)


def test_asked_with_json_errors_are_json(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KernelCannotError("no", hint="Do."))
    assert main(["fail", "--json"]) == 2  # this command has no such option: also told as JSON
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert err == ""
    assert answer["schema"] == 1
    assert set(answer) == {"schema", "error"}
    assert set(answer["error"]) == {"code", "message", "hint"}
    assert answer["error"]["code"] == 2
    assert "--json" in answer["error"]["message"]


def test_json_of_a_command_that_is_run_is_not_ours(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(UsageError("no"))
    assert main(["fail", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_long_errors_are_wrapped_but_not_what_is_to_be_copied(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command, path = "sudo " + "true " * 30, "/x" * 60
    failing(KernelCannotError("word " * 30, hint=f"{command}\n  {command}\nSee {path} for more."))
    assert main(["fail"]) == 5
    *message, copied, copied_too, see, long_path, more = capsys.readouterr().err.splitlines()
    assert (copied, copied_too, see, long_path, more) == (command, f"  {command}", "See", path, "for more.")
    assert len(message) == 2
    assert max(map(len, message)) <= 80


def test_the_log_goes_to_a_file(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failing(RuntimeError("no"))
    log = tmp_path / "log"
    log.write_text("before\n")
    assert main(["--log", str(log), "fail"]) == 1
    assert capsys.readouterr().err.startswith("error: unexpected RuntimeError: no\n")
    assert log.read_text().startswith("before\nTraceback (most recent call last):")


def test_a_log_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--log", str(tmp_path), "list"]) == 2
    assert "Is a directory" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("value", ["1", "DEBUG", "info"])
def test_unknown_value_of_the_log_variable(
    value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHADTHROTTLE_LOG", value)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == (
        f"error: CHADTHROTTLE_LOG is {value!r}, which means nothing\nSet it to debug, or unset it.\n"
    )


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_import_budget(argument: str) -> None:
    expensive = {"elftools", "ctypes", "psutil", "textual", "invoke", "subprocess", "chadthrottle.bpf"}
    program = (
        "import sys; from chadthrottle.cli import main; main(sys.argv[1:]); "
        f"sys.exit(str(sorted({expensive} & sys.modules.keys()) or ''))"
    )
    command = [sys.executable, "-c", program, argument]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""


def test_as_a_program() -> None:
    command = [sys.executable, "-c", "import sys; from chadthrottle.cli import main; sys.exit(main())", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"chadthrottle {__version__} (objects: {artifacts.flavour()})\n"


def in_shell(words: str) -> subprocess.CompletedProcess[str]:
    """`chadthrottle`, with redirections that Python cannot make."""
    line = f"exec {sys.executable} -m chadthrottle {words}"
    return subprocess.run(["sh", "-c", line], cwd=PROJECT, capture_output=True, text=True, check=False)


def test_an_answer_that_cannot_be_written() -> None:
    done = in_shell("--help >/dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the answer could not be written: No space left on device\n")
    assert "Traceback" not in done.stderr


def test_an_error_that_cannot_be_written() -> None:
    """The status tells, and --json is told on standard error where standard output takes nothing."""
    done = in_shell("throttle 0 10mbit --json >/dev/full")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: 0 is no PID")
    assert in_shell("throttle 0 10mbit 2>/dev/full").returncode == 2
    assert in_shell("throttle 0 10mbit --json >/dev/full 2>/dev/full").returncode == 2


def test_started_with_everything_closed() -> None:
    assert in_shell("--help <&- >&- 2>&-").returncode == 0
    done = in_shell("throttle 0 10mbit >&-")
    assert done.returncode == 2
    assert done.stderr.startswith("error: 0 is no PID")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_our_letters(encoding: str) -> None:
    line = [sys.executable, "-m", "chadthrottle", "watch", "--help"]
    variables = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(line, cwd=PROJECT, env=variables, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Usage: chadthrottle watch" in done.stdout


def test_numbers_of_closed_streams_are_taken_by_nothing_of_ours() -> None:
    """What is opened next would be written to by whoever means standard output."""
    script = (
        "from chadthrottle import __main__ as m; m._open_what_is_closed(); print(__import__('os').open('/', 0), file=e)"
    )
    for closed in "<&-", ">&-", "<&- >&-":
        line = f"exec {sys.executable} -c \"e = __import__('sys').stderr; {script}\" {closed}"
        done = subprocess.run(["sh", "-c", line], cwd=PROJECT, capture_output=True, text=True, check=True)
        assert int(done.stderr) > 2


def test_not_permitted_by_whatever_step(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(PermissionError(errno.EACCES, "Permission denied", "/proc/7/ns/net"))
    assert main(["fail"]) == 3
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "error: not permitted: Permission denied: /proc/7/ns/net"
    assert "sudo" in hint


def test_capabilities_that_are_missing() -> None:
    assert lacking((1 << 41) - 1) == []
    assert lacking(1 << CAP_SYS_ADMIN) == ["CAP_SYS_PTRACE"]
    assert lacking(0) == list(NEEDED)


def test_too_few_descriptors(failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    failing(OSError(errno.EMFILE, "Too many open files", "/proc/self/mountinfo"))
    assert main(["fail"]) == 1
    assert capsys.readouterr().err.startswith("error: Too many open files\nAllow more: ulimit -n")


def test_a_name_as_long_as_a_book_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throttle", "a" * 5000, "10mbit"]) == 2
    assert max(map(len, capsys.readouterr().err.splitlines())) <= 80

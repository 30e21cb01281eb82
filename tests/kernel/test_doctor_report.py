"""`chadthrottle report FILE`: one archive, redacted, for its owner alone, never over anything."""

import json
import os
import pwd
import stat
import tarfile
from pathlib import Path

import pytest

from chadthrottle.errors import NotPermittedError, UsageError
from tests.support.command import Command
from tests.support.doctor import without_root

MEMBERS = {
    "README.txt",
    "doctor.txt",
    "doctor.json",
    "versions.txt",
    "kernel-config.txt",
    "cgroups.txt",
    "programs.txt",
    "links.txt",
    "limits.json",
    "verifier.txt",
    "kernel-log.txt",
}


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path, "r:gz") as archive:
        found = {}
        for each in archive:
            file = archive.extractfile(each)
            assert file is not None
            found[each.name.removeprefix("chadthrottle-report/")] = file.read().decode()
        return found


def test_report(chadthrottle: Command, tmp_path: Path) -> None:
    """What is inside is said before it is written."""
    file = tmp_path / "report.tar.gz"
    answer = chadthrottle("report", file, "--pid", os.getpid())
    assert answer.status == 0, answer
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    members = unpacked(file)
    assert set(members) == MEMBERS
    told, written = answer.out.index("README.txt"), answer.out.index("Written")
    assert told < written
    assert all(name in answer.out for name in MEMBERS)
    assert json.loads(members["doctor.json"])["findings"]
    assert json.loads(members["limits.json"])["rules"] == []
    assert "CT-SYS-01" in members["doctor.txt"]
    assert "throttle.bpf.o: sources=sha256:" in members["versions.txt"]
    assert "clang=" in members["versions.txt"]
    assert "throttle.bpf.o: loaded" in members["verifier.txt"]
    assert f"process {os.getpid()}:" in members["cgroups.txt"]
    assert "<- the program" in members["cgroups.txt"]


def test_who_it_was_is_not_in_it(chadthrottle: Command, tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    name = "ct-test-host-4711"
    wrapper = ("unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh")
    assert chadthrottle("report", file, wrapper=wrapper).status == 0
    text = "\n".join(unpacked(file).values())
    assert name not in text
    assert "/root/" not in text
    for each in pwd.getpwall():
        if 1000 <= each.pw_uid < 65534:
            assert f" {each.pw_name} " not in text


def test_nothing_is_overwritten(chadthrottle: Command, tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    file.write_text("mine", encoding="ascii")
    answer = chadthrottle("report", file)
    assert answer.status == 2
    assert "not overwritten" in answer.err
    assert file.read_text(encoding="ascii") == "mine"
    link = tmp_path / "link.tar.gz"
    link.symlink_to(tmp_path / "nowhere")
    assert chadthrottle("report", link).status == 2
    assert not (tmp_path / "nowhere").exists()


def test_directory_that_is_not_there(chadthrottle: Command, tmp_path: Path) -> None:
    answer = chadthrottle("report", tmp_path / "no" / "report.tar.gz")
    assert answer.status == 2
    answer.require_one_screen()


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    from chadthrottle.doctor.report import write

    class Odd(str):
        __slots__ = ()

        def encode(self, *_: str) -> bytes:
            raise OSError("no space")

    file = tmp_path / "report.tar.gz"
    with pytest.raises(OSError, match="no space"):
        write(file, {"good": "text", "bad": Odd("text")})
    assert not file.exists()


def test_taken_meanwhile(tmp_path: Path) -> None:
    from chadthrottle.doctor.report import write

    file = tmp_path / "report.tar.gz"
    file.touch()
    with pytest.raises(UsageError, match="there already"):
        write(file, {})


def test_without_root(chadthrottle: Command) -> None:
    """Less in it, and no failure; where this user may not write, that is said."""
    for_all = Path("/tmp") / f"ct-test-report-{os.getpid()}"
    for_all.mkdir(mode=0o777)
    for_all.chmod(0o777)
    try:
        with without_root() as wrapper:
            answer = chadthrottle("report", for_all / "report.tar.gz", wrapper=wrapper)
            assert answer.status == 0, answer
            members = unpacked(for_all / "report.tar.gz")
            assert set(members) == MEMBERS
            assert members["programs.txt"].startswith("not available")
            (for_all / "report.tar.gz").unlink()
            for_all.chmod(0o755)
            refused = chadthrottle("report", for_all / "report.tar.gz", wrapper=wrapper)
    finally:
        for each in for_all.iterdir():
            each.unlink()
        for_all.rmdir()
    assert refused.status == NotPermittedError.exit_code
    assert "Traceback" not in refused.err

"""What a refused BPF_PROG_LOAD is said to come from, where this machine cannot be made to refuse for that reason."""

from pathlib import Path

import pytest

from chadthrottle.bpf import prog_load
from chadthrottle.bpf.constants import ProgType
from chadthrottle.bpf.spec import ProgramSpec

PROGRAM = ProgramSpec("reads", "raw_tp/x", ProgType.BPF_PROG_TYPE_RAW_TRACEPOINT, None, "x", 0, True, bytes(8))
LOCKED = "5: (85) call bpf_probe_read_kernel#113\nprogram of this type cannot use helper bpf_probe_read_kernel#113\n"
ORDINARY = "0: (95) exit\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n"


@pytest.mark.parametrize(
    ("mode", "log", "blamed"),
    [
        ("none integrity [confidentiality]", LOCKED, True),
        ("none integrity [confidentiality]", ORDINARY, False),
        ("[none] integrity confidentiality", LOCKED, False),
        (None, LOCKED, False),
    ],
)
def test_lockdown(mode: str | None, log: str, blamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prog_load, "describe_permission", lambda: None)
    monkeypatch.setattr(prog_load, "_LOCKDOWN", tmp_path / "lockdown")
    if mode is not None:
        (tmp_path / "lockdown").write_text(f"{mode}\n")
    error = prog_load._refusal(PROGRAM, None, 22, log)
    assert ("Kernel lockdown (confidentiality)" in str(error)) == blamed
    assert error.exit_code == (3 if blamed else 5)

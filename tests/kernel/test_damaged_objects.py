"""Damaged objects against the real kernel: typed errors, and nothing of them stays."""

from pathlib import Path

from tools.fuzz_objects import compile_corpus, fuzz

COUNT = 300


def test_mutants_are_loaded_or_refused(tmp_path: Path) -> None:
    corpus = compile_corpus(tmp_path / "objects")
    summary = fuzz(corpus, seed=4, numbers=range(COUNT), kernel=True, save=tmp_path)
    assert [f"{f.number}: {f.what}" for f in summary.failures] == []
    assert summary.mutants == COUNT
    # Some of each: a run in which the kernel took all or nothing would have shown little.
    assert summary.programs["loaded"] > COUNT // 4
    assert summary.programs["VerifierError"] > COUNT // 10
    assert summary.maps["created"] > COUNT // 10

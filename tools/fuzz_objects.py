"""Damage compiled objects in every way and see that the runtime answers with a typed error.

    python tools/fuzz_objects.py --count 10000 [--kernel] [--seed N] [--save DIR]

Mutant number N of a seed is the same in every run over the same objects, so a failure is repeated by
`--seed S --first N --count 1`. Workers do the trying: a hang, a crash or a memory bomb takes a worker
with it and is put down to the mutant it was at. With --kernel what parses is loaded as `check` loads
it, and nothing of it may stay; nothing is ever attached or run.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

if __name__ == "__main__":  # as a script, only tools/ itself is on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.kernel_lock import kernel_lock
from tests.support.leftovers import Machine
from tools import build_ebpf
from tools.fuzz_mutations import Layout, Mutant, mutate
from tools.fuzz_trial import KERNEL_SECONDS, PARSE_SECONDS, Verdict, judge

__all__ = ["Corpus", "Failure", "Summary", "compile_corpus", "fuzz", "mutant_of"]

Corpus = dict[str, Layout]

_WORKER_ADDRESS_SPACE = 2 << 30
# Others wait for the kernel lock meanwhile: a batch ends when either is reached.
_BATCH = 500
_BATCH_SECONDS = 25.0
# No answer in this time, with the worker's own alarm long past: it hangs where Python cannot look.
_HANG_SECONDS = 4 * (PARSE_SECONDS + KERNEL_SECONDS)
_END_OF_BATCH = -1


@dataclass(frozen=True, slots=True)
class Failure:
    """A mutant that broke a promise."""

    number: int
    what: str


@dataclass(slots=True)
class Summary:
    """The figures of a run."""

    mutants: int = 0
    parsed: Counter[str] = field(default_factory=Counter)
    programs: Counter[str] = field(default_factory=Counter)
    maps: Counter[str] = field(default_factory=Counter)
    slow: list[int] = field(default_factory=list)
    worst_seconds: float = 0.0
    worst_number: int = 0
    peak_bytes: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, number: int, verdict: Verdict) -> None:
        """Count one mutant."""
        self.mutants += 1
        self.parsed[verdict.parsed] += 1
        self.programs += verdict.programs
        self.maps += verdict.maps
        if verdict.slow:
            self.slow.append(number)
        if verdict.seconds > self.worst_seconds and not verdict.slow:
            self.worst_seconds, self.worst_number = verdict.seconds, number
        self.peak_bytes = max(self.peak_bytes, verdict.peak_bytes)
        if verdict.failure:
            self.failures.append(Failure(number, verdict.failure))

    def lines(self) -> Iterator[str]:
        """The figures as text."""
        yield f"mutants            {self.mutants}"
        yield f"parsed             {self.parsed['ok']}"
        for name, count in sorted(self.parsed.items()):
            if name != "ok":
                yield f"refused            {count} {name}"
        for title, counts in (("programs", self.programs), ("maps", self.maps)):
            for name, count in counts.most_common():
                yield f"{title:<18} {count} {name}"
        if self.programs:
            yield f"slow in the kernel {len(self.slow)} (more than {KERNEL_SECONDS:g} s): {self.slow[:20]}"
        yield f"worst time         {self.worst_seconds * 1e3:.0f} ms (mutant {self.worst_number})"
        yield f"peak memory        {self.peak_bytes >> 20} MiB resident, the interpreter included"
        yield f"failures           {len(self.failures)}"


def compile_corpus(output: Path) -> Corpus:
    """Build ebpf/ and tests/objects/ as the tests do, and read the layouts. Raises BuildError."""
    corpus = {}
    for sources in (build_ebpf.EBPF, build_ebpf.ROOT / "tests" / "objects"):
        for built in build_ebpf.build(sources, [build_ebpf.EBPF], output / sources.name, "debug"):
            name = built.path.name.removesuffix(".bpf.o")
            if "no_btf" in name:
                _compile_without_btf(sources / f"{name}.bpf.c", built.path)
            corpus[name] = Layout.of(built.path.read_bytes())
    return dict(sorted(corpus.items()))


def _compile_without_btf(source: Path, output: Path) -> None:
    flags = [flag for flag in build_ebpf.COMPILE_FLAGS if flag != "-g"]
    clang = build_ebpf.find_clang("debug").path
    include = f"-I{build_ebpf.EBPF}"
    subprocess.run([clang, *flags, include, "-c", str(source), "-o", str(output)], check=True)


def mutant_of(corpus: Corpus, seed: int, number: int) -> tuple[str, Mutant]:
    """Mutant `number`: the name of its object, and what became of it."""
    rng = Random(f"{seed}:{number}")  # noqa: S311 - reproducible is what it must be
    name = rng.choice(list(corpus))
    return name, mutate(rng, corpus[name])


def fuzz(
    corpus: Corpus, seed: int, numbers: range, *, kernel: bool, save: Path | None = None, show: bool = False
) -> Summary:
    """Try the mutants in worker processes; failures are saved in `save`."""
    summary = Summary()
    while numbers:
        with kernel_lock() if kernel else nullcontext():
            numbers = _batch(summary, corpus, seed, numbers, kernel)
        if show:
            done = f"{summary.mutants} mutants, {len(summary.failures)} failures"
            print(f"\r{done}", end="", file=sys.stderr, flush=True)
    if show:
        print(file=sys.stderr)
    if save is not None:
        for failure in summary.failures:
            _save(save, corpus, seed, failure)
    return summary


def _batch(summary: Summary, corpus: Corpus, seed: int, numbers: range, kernel: bool) -> range:
    """Run one worker over the first of `numbers`; those it did not come to are returned."""
    here, there = multiprocessing.Pipe(duplex=False)
    # fork: the corpus and the imports are there already.
    worker = multiprocessing.get_context("fork").Process(
        target=_work, args=(there, corpus, seed, numbers[:_BATCH], kernel)
    )
    worker.start()
    there.close()
    current = numbers[0]
    try:
        while True:
            if not here.poll(_HANG_SECONDS):
                worker.kill()
                summary.failures.append(Failure(current, f"no answer in {_HANG_SECONDS:g} s"))
                break
            number, answer = here.recv()
            if number == _END_OF_BATCH:
                summary.failures += [Failure(current, f"left in the kernel: {each}") for each in answer]
                return numbers[current - numbers[0] :]
            summary.add(number, answer)
            current = number + 1
    except EOFError:
        worker.join()
        summary.failures.append(Failure(current, f"the worker died (exit code {worker.exitcode})"))
    finally:
        worker.join()
        here.close()
    summary.mutants += 1
    return numbers[current + 1 - numbers[0] :]


def _work(pipe: Connection, corpus: Corpus, seed: int, numbers: range, kernel: bool) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_WORKER_ADDRESS_SPACE, _WORKER_ADDRESS_SPACE))
    # An unclosed Descriptor says so; judge() makes it a failure.
    warnings.simplefilter("error", ResourceWarning)
    end = time.monotonic() + _BATCH_SECONDS
    before = Machine.now() if kernel else None
    for number in numbers:
        name, mutant = mutant_of(corpus, seed, number)
        verdict = judge(mutant.data, name, kernel=kernel)
        pipe.send((number, verdict))
        # An alarm may have struck between a system call and whoever owns its descriptor.
        if verdict.slow:
            before = None
        if verdict.slow or time.monotonic() > end:
            break
    # Asked while this process lives: what it holds by mistake is gone when it ends.
    pipe.send((_END_OF_BATCH, before.additions() if before is not None else []))


def _save(directory: Path, corpus: Corpus, seed: int, failure: Failure) -> None:
    name, mutant = mutant_of(corpus, seed, failure.number)
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{seed}-{failure.number}-{name}"
    (directory / f"{stem}.bpf.o").write_bytes(mutant.data)
    again = f"tools/fuzz_objects.py --seed {seed} --first {failure.number} --count 1"
    text = f"{again}\n{name}: {mutant.what}\n\n{failure.what}\n"
    (directory / f"{stem}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10000, help="mutants to try (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant (default: 0)")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--kernel", action="store_true", help="load what parses; needs root")
    parser.add_argument("--save", type=Path, metavar="DIR", help="where failing mutants go (default: a new one)")
    arguments = parser.parse_args(argv)
    if arguments.kernel and os.geteuid() != 0:
        parser.error("--kernel needs root")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the figures; 1 if a mutant broke a promise."""
    arguments = _arguments(argv)
    with tempfile.TemporaryDirectory() as output:
        corpus = compile_corpus(Path(output))
    save = arguments.save or Path(tempfile.gettempdir(), f"fuzz-objects-{os.getpid()}")
    started = time.monotonic()
    numbers = range(arguments.first, arguments.first + arguments.count)
    summary = fuzz(corpus, arguments.seed, numbers, kernel=arguments.kernel, save=save, show=True)
    print(f"objects            {len(corpus)}, seed {arguments.seed}, {platform.release()}")
    print("\n".join(summary.lines()))
    print(f"took               {time.monotonic() - started:.0f} s")
    for failure in summary.failures[:20]:
        print(f"\nmutant {failure.number}: {failure.what.rstrip()}")
    if summary.failures:
        print(f"\nThe failing mutants are in {save}")
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Two of these at once set, change and end limits at random: the lock between them is on trial, too."""

import random
import socket
import time
import traceback
from dataclasses import dataclass

from chadthrottle import limits
from chadthrottle.model import Direction, ProcessIdentity, RuleSpec
from chadthrottle.procs import NoSuchProcessError, read_stat
from tools.stress.programs import PROGRAMS, Board, Mode
from tools.stress.surroundings import Surroundings

__all__ = ["HIGHEST", "Asked", "Commander", "now_ns"]

HIGHEST = 12_500_000_000
LOWEST, USUAL = 1000, 20_000_000
STEADY_LOWEST, STEADY_USUAL = 20_000, 3_000_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A command that may have changed a rate: at some moment between the two (CLOCK_BOOTTIME), or not at all."""

    began_ns: int
    ended_ns: int
    pid: int
    rates: tuple[int | None, int | None]
    """Up and down in bytes/s: 0 for no limit, None where it stays as it is."""


class Commander:
    """One of the two."""

    def __init__(self, number: int, seed: int, where: Surroundings, board: Board) -> None:
        self.number = number
        self.dice = random.Random(seed)  # noqa: S311 # to be repeated
        self.where = where
        self.board = board
        self.asked: list[Asked] = []
        self.done = 0
        self.problems: list[str] = []

    def work(self, report: socket.socket) -> None:
        """Until the proof; then the log goes to whoever started it."""
        while self.board.mode is not Mode.PROOF:
            self.board.set_busy(self.number, True)
            # In this order: whoever sees us idle has changed the mode before.
            mode = self.board.mode
            if mode in (Mode.CHAOS, Mode.STEADY):
                self.step(steady=mode is Mode.STEADY)
            self.board.set_busy(self.number, False)
            time.sleep(self.dice.random() * 0.06)
        with report.makefile("w", encoding="utf-8") as lines:
            lines.write(repr((self.done, self.problems, [_plain(each) for each in self.asked])))

    def step(self, *, steady: bool) -> None:
        """One command."""
        pid = self.board.pid(self.dice.randrange(PROGRAMS))
        began = now_ns()
        rates: tuple[int | None, int | None] = (None, None)
        try:
            # What is drawn depends on nothing but the seed.
            action = 0.0 if steady else self.dice.random()
            rates = self._rates(steady=steady) if action < 0.65 else self._ended(action)
            self._do(action, pid, rates, steady=steady)
            self.done += 1
        except NoSuchProcessError:
            pass  # it was replaced, or had no rule
        except Exception:  # noqa: BLE001 # whatever it is, it should not have been
            self.problems.append(f"a command failed:\n{traceback.format_exc()}")
        self.asked.append(Asked(began, now_ns(), pid, rates))

    def _do(self, action: float, pid: int, rates: tuple[int | None, int | None], *, steady: bool) -> None:
        if action < 0.65:
            stat = read_stat(pid)
            if stat is None:
                return
            spec = RuleSpec(
                process=ProcessIdentity(pid, stat.start_ticks, stat.name),
                rate_up_bytes_per_s=rates[0],
                rate_down_bytes_per_s=rates[1],
                children=steady or self.dice.random() < 0.8,
                at=self.where.at,
                duration_s=1 if action > 0.5 else None,
            )
            limits.throttle(spec, self.where.base)
        elif action < 0.97:
            directions = frozenset(each for each, rate in zip(Direction, rates, strict=True) if rate == 0)
            limits.release([pid], directions, self.where.base)
        else:
            limits.release(None, base=self.where.base)

    def _rates(self, *, steady: bool) -> tuple[int | None, int | None]:
        low, high = (STEADY_LOWEST, STEADY_USUAL) if steady else (LOWEST, USUAL)

        def one() -> int:
            return HIGHEST if self.dice.random() < 0.1 else round(low * (high / low) ** self.dice.random())

        which = self.dice.random()
        return (one() if which < 0.8 else None), (one() if which > 0.2 else None)

    def _ended(self, action: float) -> tuple[int | None, int | None]:
        if action < 0.75:
            return (0, None) if self.dice.random() < 0.5 else (None, 0)
        return 0, 0


def now_ns() -> int:
    """CLOCK_BOOTTIME, as the meters."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _plain(asked: Asked) -> tuple[int, int, int, tuple[int | None, int | None]]:
    return asked.began_ns, asked.ended_ns, asked.pid, asked.rates

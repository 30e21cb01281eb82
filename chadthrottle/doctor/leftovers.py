"""The family leftovers."""

from chadthrottle.doctor.check import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = ()

"""All checks, in the order in which they run: a cause before what follows from it."""

from chadthrottle.doctor import (
    attach,
    cgroups,
    conflicts,
    enforcement,
    features,
    leftovers,
    objects,
    permissions,
    system,
)
from chadthrottle.doctor.check import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = (
    *permissions.CHECKS,
    *system.CHECKS,
    *cgroups.CHECKS,
    *features.CHECKS,
    *objects.CHECKS,
    *conflicts.CHECKS,
    *attach.CHECKS,
    *leftovers.CHECKS,
    *enforcement.CHECKS,
)

"""The use cases: limit a process, run one limited, end a limit, tell what is limited and whether it holds."""

from chadthrottle.limits.listing import Listing, listing
from chadthrottle.limits.release import Released, release
from chadthrottle.limits.throttle import Throttled, throttle

# run.py and verify.py are imported by their own commands only.
__all__ = ["Listing", "Released", "Throttled", "listing", "release", "throttle"]

"""What outlives a command: pins in one directory of bpffs, under one lock.

mount.py      the bpffs all commands share, whatever namespace they run in; mounted if missing
lock.py       one command at a time
layout.py     vN/links, vN/programs, vN/maps: open what is there, commit all or nothing, remove

with pins.lock(create=True):
    if pins.current:                     # open: pins.map("rules"), …
    else:
        with pins.stage() as stage:      # load, then stage.pin(map, "rules"), …
            ...                          # leaving the block is the commit: one rename(2)
"""

from chadthrottle.pins.errors import BusyError, ForeignContentError
from chadthrottle.pins.files import KINDS
from chadthrottle.pins.layout import Pins, Stage
from chadthrottle.pins.mount import default_base

__all__ = ["KINDS", "BusyError", "ForeignContentError", "Pins", "Stage", "default_base"]

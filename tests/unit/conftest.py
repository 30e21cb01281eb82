"""Beside kernel tests (see ../run.py) a processor is not there at once: how long an example takes says nothing."""

from hypothesis import settings

settings.register_profile("beside", deadline=None)
settings.load_profile("beside")

"""What works, in sentences."""

from chadthrottle.doctor.check import Context

__all__ = ["what_works"]


def what_works(context: Context) -> tuple[str, ...]:
    """Uploads, downloads, by which engine, at which attach point."""
    del context
    return ()

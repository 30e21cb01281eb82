"""The socket that all requests of one namespace go through."""

from types import TracebackType
from typing import Self

from pyroute2 import IPRoute  # type: ignore[import-untyped]  # it has no types

__all__ = ["Route"]


class Route:
    """A context manager, which owns a socket in the network namespace that its maker's thread is in.

    All methods raise NotPermittedError without CAP_NET_ADMIN over the namespace, else KernelCannotError.
    """

    def __init__(self) -> None:
        self._route = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._route.close()

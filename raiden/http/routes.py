"""Paths that are taken from the channels' names, each with the application that serves the requests for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol


class Application(Protocol):
    """The server of some paths. The door's checks of the host and, unless it judges these by itself, of origins come
    before it, and it judges who may do what: a connection comes with the permit of a client that has shown
    nothing."""

    judges_origins: bool
    """Whether it checks by itself which pages may use it."""

    def dispatch(self, connection: Any, request: Any) -> Any:
        """As `raiden.http.door.Application.dispatch`."""


class Routes:
    """Paths with their applications. A path that ends in a slash stands for all below it."""

    def __init__(self) -> None:
        self._exact: dict[str, Application] = {}
        self._below: dict[str, Application] = {}

    def add(self, path: str, application: Application) -> None:
        """Take a path, decoded, for an application. Raises ValueError where it is taken already."""
        kind = self._below if path.endswith("/") else self._exact
        if path in kind:
            raise ValueError(f"{path} is served already")
        kind[path] = application

    def of(self, path: str) -> Application | None:
        """The application that serves a decoded path; None: the path is a channel's, or the node's own."""
        found = self._exact.get(path)
        if found is None:
            for begin, application in self._below.items():
                if path.startswith(begin):
                    return application
        return found

    def names(self) -> Iterator[str]:
        """The names that channels can't have here, as `raiden.http.reserved.Reserved` takes them."""
        for path in (*self._exact, *self._below):
            yield path[1:] + ("*" if path.endswith("/") else "")

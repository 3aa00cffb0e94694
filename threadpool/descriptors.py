"""File descriptors that the loop watches: objects with `fileno`, `doRead`, `doWrite`.

Loop thread only, and only where the loop is asyncio's: others watch files in ways of
their own.

Source: `IReactorFDSet` of Twisted.
"""

from __future__ import annotations

import errno
import functools
import logging
from typing import TYPE_CHECKING, Any, Protocol

from threadpool.failure import Failure

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    _Place = tuple[asyncio.AbstractEventLoop | None, int]

__all__ = ["Descriptors", "Selectable"]

_log = logging.getLogger(__name__)


class Selectable(Protocol):
    """Something with a file descriptor. It has `doRead`, `doWrite`, or both.

    Either is called without arguments when the descriptor is ready. It returns None to
    go on; an exception, returned or raised, ends the watch and goes to
    `connectionLost`.
    """

    def fileno(self) -> int:
        """Return the descriptor; -1 when it is closed."""
        ...

    def connectionLost(self, reason: Failure, /) -> object:
        """Learn that nobody watches any more, and why."""
        ...


class Descriptors:
    """Who is watched for what."""

    def __init__(self) -> None:
        # Each with its loop, None until there is one, and with its descriptor, since a
        # closed one cannot be asked any more.
        self._readers: dict[Any, _Place] = {}
        self._writers: dict[Any, _Place] = {}

    @property
    def readers(self) -> list[Any]:
        """Those watched for something to read."""
        return list(self._readers)

    @property
    def writers(self) -> list[Any]:
        """Those watched for room to write."""
        return list(self._writers)

    def addReader(
        self, loop: asyncio.AbstractEventLoop | None, reader: Selectable
    ) -> None:
        """Call `reader.doRead()` whenever there is something to read.

        Args:
            loop: the loop that watches; None to wait for `watch`.
            reader: see `Selectable`; adding it twice changes nothing.

        Raises:
            ValueError: its descriptor is closed, or watched for another object.
        """
        self._add(self._readers, loop, reader, "doRead")

    def addWriter(
        self, loop: asyncio.AbstractEventLoop | None, writer: Selectable
    ) -> None:
        """Call `writer.doWrite()` whenever there is room to write.

        Args:
            loop: the loop that watches; None to wait for `watch`.
            writer: see `Selectable`; adding it twice changes nothing.

        Raises:
            ValueError: its descriptor is closed, or watched for another object.
        """
        self._add(self._writers, loop, writer, "doWrite")

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have *loop* watch those who were added before there was one.

        Args:
            loop: the loop that watches from now on.
        """
        for watched, method in ((self._readers, "doRead"), (self._writers, "doWrite")):
            early = [one for one, (its_loop, _) in watched.items() if its_loop is None]
            for selectable in early:
                if selectable in watched:  # Else it is lost, as a reader.
                    del watched[selectable]
                    try:
                        self._add(watched, loop, selectable, method)
                    except (ValueError, OSError, NotImplementedError) as error:
                        self._lose(selectable, error)

    def removeReader(self, reader: object) -> None:
        """Stop watching *reader*; one that is not watched is no error."""
        loop, descriptor = self._readers.pop(reader, (None, -1))
        if loop is not None and not loop.is_closed():
            loop.remove_reader(descriptor)

    def removeWriter(self, writer: object) -> None:
        """Stop watching *writer*; one that is not watched is no error."""
        loop, descriptor = self._writers.pop(writer, (None, -1))
        if loop is not None and not loop.is_closed():
            loop.remove_writer(descriptor)

    def removeAll(self) -> list[Any]:
        """Stop watching everybody.

        Returns:
            Those who were watched, each once.
        """
        everybody = list(dict.fromkeys([*self._readers, *self._writers]))
        for selectable in everybody:
            self.removeReader(selectable)
            self.removeWriter(selectable)
        return everybody

    def disconnectAll(
        self, loop: asyncio.AbstractEventLoop | None, reason: BaseException
    ) -> None:
        """Stop watching everybody on *loop*, and tell them.

        Args:
            loop: the loop that ends.
            reason: why.
        """
        everybody = {**self._readers, **self._writers}
        for selectable, (its_loop, _) in everybody.items():
            if its_loop is loop:
                self._lose(selectable, reason)

    def __bool__(self) -> bool:
        return bool(self._readers or self._writers)

    def _add(
        self,
        watched: dict[Any, _Place],
        loop: asyncio.AbstractEventLoop | None,
        selectable: Selectable,
        method: str,
    ) -> None:
        descriptor = _number(selectable)
        if descriptor < 0:
            raise ValueError(
                f"The descriptor of {selectable!r} is {descriptor}: it is closed. Add "
                "it while it is open."
            )
        before = watched.get(selectable)
        if before == (loop, descriptor):
            return
        if before is not None:  # It has another descriptor now.
            forget = self.removeReader if method == "doRead" else self.removeWriter
            forget(selectable)
        for other, place in list(watched.items()):
            if place != (loop, descriptor) or other is selectable:
                continue
            if _number(other) == descriptor:
                raise ValueError(
                    f"Descriptor {descriptor} of {selectable!r} is watched already, "
                    f"for {other!r}. Remove that one first."
                )
            self._lose(other, _closed(other))  # Its number has gone to this one.
        do = functools.partial(self._ready, selectable, getattr(selectable, method))
        if loop is not None:
            watch = loop.add_reader if method == "doRead" else loop.add_writer
            watch(descriptor, do)
        watched[selectable] = (loop, descriptor)

    def _ready(self, selectable: Any, do: Callable[[], object]) -> None:
        """Let *selectable* do what it can; it is lost when that goes wrong."""
        try:
            why = do()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            why = error
        if why is None and _number(selectable) < 0:
            why = _closed(selectable)
        if why is not None:
            self._lose(selectable, why)

    def _lose(self, selectable: Any, why: object) -> None:
        self.removeReader(selectable)
        self.removeWriter(selectable)
        if not isinstance(why, BaseException | Failure):
            why = ConnectionError(
                f"{selectable!r} answered {why!r}. doRead and doWrite return None to "
                "go on, or an exception to end."
            )
        _tell(selectable, Failure(why))


def _number(selectable: Selectable) -> int:
    try:
        return selectable.fileno()
    except ValueError:  # So a closed file says it.
        return -1


def _closed(selectable: object) -> OSError:
    return OSError(
        errno.EBADF,
        f"{selectable!r} closed its descriptor while it was watched. Remove it from "
        "the reactor before closing it",
    )


def _tell(selectable: Any, reason: Failure) -> None:
    try:
        selectable.connectionLost(reason)
    except Exception:
        _log.exception("connectionLost of %r failed; the others go on", selectable)

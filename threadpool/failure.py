"""An exception at rest: caught in one place, looked at or raised again in another.

A worker catches what its job raised, and the loop hands it on to whoever waits.
Between the two the exception is a value like any other. Any thread may make a
Failure and any thread may read it; nobody changes one after it has been made,
except by `cleanFailure`.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

ExceptionClass: TypeAlias = type[BaseException]

__all__ = ["Failure", "NoCurrentExceptionError"]

_BRIEF_FRAMES = 1  # "brief" shows the innermost frame: where it broke.


class NoCurrentExceptionError(RuntimeError):
    """A Failure was made without an exception, where none was being handled."""


class Failure:
    """An exception together with the traceback it had when it was caught.

    Args:
        value: the exception; left out, the one being handled right now. Another
            Failure gives up its exception and traceback to this one.
        tb: the traceback to keep; left out, the exception's own.
        capture_vars: keep the `repr` of every frame's local variables, as text,
            for `getTraceback(detail="verbose")`. Off by default: locals hold
            passwords, and building the text costs.

    Raises:
        NoCurrentExceptionError: no exception was given and none is being handled.

    Source: `Failure` of Twisted. Unlike it, this one never keeps a frame's objects
    alive by itself (the traceback does, until `cleanFailure`), and it pickles with
    its traceback as text.
    """

    __slots__ = ("__weakref__", "_text", "_variables", "tb", "value")

    def __init__(
        self,
        value: BaseException | Failure | None = None,
        tb: TracebackType | None = None,
        *,
        capture_vars: bool = False,
    ) -> None:
        if value is None:
            value = sys.exc_info()[1]
            if value is None:
                raise NoCurrentExceptionError(
                    "Failure() was called without an exception and none is being "
                    "handled. Call it inside an except clause, or pass the exception."
                )
        if isinstance(value, Failure):
            tb, value = tb or value.tb, value.value
        elif not isinstance(value, BaseException):
            raise TypeError(
                f"Failure holds an exception, not {type(value).__name__}. "
                "Raise or pass an instance of an exception class."
            )
        self.value: BaseException = value
        self.tb: TracebackType | None = tb if tb is not None else value.__traceback__
        self._text: str | None = None  # The traceback as text, once it has no frames.
        self._variables = _render_variables(self.tb) if capture_vars else None

    @property
    def type(self) -> ExceptionClass:
        """The exception's class."""
        return self.value.__class__

    def check(self, *kinds: ExceptionClass | str) -> ExceptionClass | str | None:
        """Say which of the *kinds* this failure is.

        Args:
            kinds: exception classes, or their qualified names
                ("package.module.Name") where importing them is not wanted.

        Returns:
            The first that fits, or None.
        """
        names = None
        for kind in kinds:
            if isinstance(kind, str):
                if names is None:
                    names = {
                        f"{base.__module__}.{base.__qualname__}"
                        for base in self.type.__mro__
                    }
                    names |= {
                        base.__qualname__
                        for base in self.type.__mro__
                        if base.__module__ == "builtins"
                    }
                if kind in names:
                    return kind
            elif isinstance(self.value, kind):
                return kind
        return None

    def trap(self, *kinds: ExceptionClass | str) -> ExceptionClass | str:
        """Accept the *kinds* and raise anything else.

        Args:
            kinds: as for `check`.

        Returns:
            The first kind that fits.

        Raises:
            BaseException: this failure's own exception, when no kind fits.
        """
        kind = self.check(*kinds)
        if kind is None:
            self.raiseException()
        return kind

    def raiseException(self) -> NoReturn:
        """Raise the exception with the traceback it had when it was caught.

        Raises:
            BaseException: always; the exception kept here.
        """
        # with_traceback: raising an exception again and again would otherwise
        # lengthen its traceback each time (two tasks may await one Deferred).
        raise self.value.with_traceback(self.tb)

    def throwExceptionIntoGenerator(self, generator: Generator[Any, Any, Any]) -> Any:
        """Raise the exception inside *generator*, where it last yielded.

        Args:
            generator: a generator, or anything else with a `throw` method.

        Returns:
            What the generator yields next.
        """
        return generator.throw(self.value.with_traceback(self.tb))

    def getErrorMessage(self) -> str:
        """Return the exception's text alone, without its class; never raises."""
        try:
            return str(self.value)
        except Exception:
            return f"<unprintable {self.type.__qualname__}>"

    def getTraceback(self, detail: str = "default") -> str:
        """Return the traceback as text, ending with a newline; never raises.

        Args:
            detail: "default", "brief" (the innermost frame only) or "verbose" (with
                local variables, when they were captured).

        Raises:
            ValueError: *detail* is none of the three.
        """
        if detail not in ("default", "brief", "verbose"):
            raise ValueError(
                f"detail is {detail!r}. It decides how much of the traceback is "
                "shown: pass 'default', 'brief' or 'verbose'."
            )
        if self._text is not None:
            return self._text
        limit = -_BRIEF_FRAMES if detail == "brief" else None
        try:
            lines = traceback.format_exception(
                self.type, self.value, self.tb, limit=limit, chain=detail != "brief"
            )
        except Exception:
            lines = [*traceback.format_tb(self.tb), f"{self!s}\n"]
        if detail == "verbose" and self._variables:
            lines.append(self._variables)
        return "".join(lines)

    def printTraceback(
        self, file: TextIO | None = None, detail: str = "default"
    ) -> None:
        """Write the traceback to *file*.

        Args:
            file: an open text file; left out, standard error.
            detail: as for `getTraceback`.
        """
        (file or sys.stderr).write(self.getTraceback(detail))

    def getTracebackObject(self) -> TracebackType | None:
        """Return the traceback, or None after `cleanFailure` or unpickling."""
        return self.tb

    def cleanFailure(self) -> None:
        """Let go of every frame, and so of every object that its locals keep alive.

        The traceback stays readable as text.
        """
        self._text = self.getTraceback()
        self.tb = None
        rest: list[BaseException | None] = [self.value]
        seen: set[int] = set()  # A cause may lead back to where it came from.
        while rest:
            exception = rest.pop()
            if exception is None or id(exception) in seen:
                continue
            seen.add(id(exception))
            exception.__traceback__ = None
            rest += [exception.__cause__, exception.__context__]
            if isinstance(exception, BaseExceptionGroup):
                rest += exception.exceptions

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, (self.value, self.getTraceback()))

    def __str__(self) -> str:
        message = self.getErrorMessage()
        name = self.type.__qualname__
        return f"{name}: {message}" if message else name

    def __repr__(self) -> str:
        return f"<Failure {self!s}>"


def _unpickle(value: BaseException, text: str) -> Failure:
    failure = Failure(value)
    failure._text = text
    return failure


def _render_variables(tb: TracebackType | None) -> str:
    lines = []
    for frame, line_number in traceback.walk_tb(tb):
        lines.append(f"  In {frame.f_code.co_qualname}, line {line_number}:\n")
        for name, value in frame.f_locals.items():
            try:
                text = repr(value)
            except Exception as error:
                text = f"<unprintable: {type(error).__name__}>"
            lines.append(f"    {name} = {text[:200]}\n")
    return "".join(lines)

"""Refusals: what the front door does not let in, because it could only go wrong later.

No state in this room; any thread may enter.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

__all__ = [
    "noteNotMoved",
    "noteReadOnly",
    "requireOwnNames",
    "requirePlain",
    "requireSeconds",
    "requireStatement",
]


def noteReadOnly(error: BaseException) -> None:
    """Add the cure to what a database says of writing in a read-only transaction.

    Args:
        error: the driver's.
    """
    error.add_note(
        "The transaction was begun with readonly=True, so that nothing in it can "
        "write, whatever the statement looks like. Begin it without readonly."
    )


def noteNotMoved(error: BaseException) -> None:
    """Add the cure where a query that writes could not be moved to the writer.

    Args:
        error: the driver's.
    """
    error.add_note(
        "A query runs on a reader, and is moved to the writer when it turns out to "
        "write; not this one, for its own caller holds the writer, and it would wait "
        "for ever. Write through the transaction that the caller holds, or after it."
    )


# Asked on the way of every call, in some 20 ns.
_PARAMETERS = frozenset({type(None), tuple, list, dict})


def requireStatement(statement: object, params: object = None) -> None:
    """Refuse what is not SQL text, and parameters that are not several values.

    Args:
        statement: what was passed as a statement.
        params: what was passed as its parameters.

    Raises:
        TypeError: the statement is not a string, or the parameters are one value.
    """
    if params.__class__ not in _PARAMETERS:
        _require_many(params)
    if not isinstance(statement, str):
        raise TypeError(
            f"The statement is {type(statement).__name__}, not a string. Pass SQL as "
            "text, and values as the parameters after it."
        )


def _require_many(params: object) -> None:
    """Refuse one value where a sequence or mapping of them belongs."""
    kind = type(params)
    text = isinstance(params, str | bytes | bytearray | memoryview)
    if not text and hasattr(kind, "__getitem__") and hasattr(kind, "__len__"):
        return
    # Without the value, which may be anybody's secret.
    example = '("abc",) and not "abc"' if text else "(7,) and not 7"
    raise TypeError(
        f"The parameters are one {kind.__name__}, not a sequence or a mapping, so the "
        f"driver could not tell which placeholder it is for. Write {example}: the "
        "comma makes it a tuple."
    )


def requireSeconds(timeout: object) -> None:
    """Refuse a time limit that makes no sense.

    Args:
        timeout: what was passed as one; None for no limit.

    Raises:
        ValueError: it is not a finite number above 0.
    """
    if timeout is None:
        return
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout < math.inf:  # type: ignore[operator]  # a number
        raise ValueError(
            f"timeout is {timeout!r}. It counts seconds: choose a finite number above "
            "0, or None for the pool's cp_query_timeout."
        )


def requireOwnNames(function: object, verb: str, ours: tuple[str, ...]) -> None:
    """Refuse functions that would never get their argument, since we take it.

    Args:
        function: what is to be called with the caller's keyword arguments.
        verb: the method that takes them.
        ours: the keywords that the method keeps for itself.

    Raises:
        TypeError: *function* has a parameter of such a name.
    """
    code = getattr(function, "__code__", None)  # A partial has none, and is the cure.
    if code is None:
        return
    theirs = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    for name in ours:
        if name in theirs:
            raise TypeError(
                f"{function!r} has a parameter {name!r}, and {verb} takes that word "
                f"itself. Bind it: functools.partial(function, {name}=...)."
            )


def requirePlain(function: object) -> None:
    """Refuse functions whose work would be done after the transaction's end.

    Args:
        function: what is to be called in a worker.

    Raises:
        TypeError: it cannot be called, is async or a generator.
    """
    called: Any = getattr(function, "func", function)  # functools.partial
    if not callable(called):
        raise TypeError(
            f"{function!r} cannot be called. Pass a function that takes the "
            "transaction as its first argument."
        )
    method = called if inspect.isroutine(called) else type(called).__call__
    for kind, is_kind in (
        ("a coroutine function", inspect.iscoroutinefunction),
        ("an async generator function", inspect.isasyncgenfunction),
        ("a generator function", inspect.isgeneratorfunction),
    ):
        if is_kind(called) or is_kind(method):
            raise TypeError(
                f"{function!r} is {kind}: it would return before it has done "
                "anything, and its transaction would be over. Pass a plain function; "
                "it runs in a thread of its own and may block."
            )

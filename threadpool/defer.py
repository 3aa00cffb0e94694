"""Deferred and its makers: the first floor's vocabulary, in one place.

Everything here belongs to the thread of the loop; no other thread may touch a
Deferred. Work for another thread goes through `threadpool.threads`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from threadpool._chain import flushUnhandled
from threadpool._coroutine import (
    ensureDeferred,
    inlineCallbacks,
    maybeDeferred,
    returnValue,
)
from threadpool._deferred import LATER, Deferred
from threadpool._history import getDebugging, setDebugging
from threadpool.error import (
    AlreadyCalledError,
    NoCurrentExceptionError,
    NotACoroutineError,
)
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LATER",
    "AlreadyCalledError",
    "CancelledError",
    "Deferred",
    "Failure",
    "NoCurrentExceptionError",
    "NotACoroutineError",
    "ensureDeferred",
    "execute",
    "fail",
    "flushUnhandled",
    "getDebugging",
    "inlineCallbacks",
    "logError",
    "maybeDeferred",
    "passthru",
    "returnValue",
    "setDebugging",
    "succeed",
]

CancelledError = asyncio.CancelledError

T = TypeVar("T")
P = ParamSpec("P")

_log = logging.getLogger(__name__)


def succeed(result: T) -> Deferred[T]:
    """Return a Deferred that has its result already.

    Args:
        result: the value.
    """
    deferred: Deferred[T] = Deferred()
    deferred.callback(result)
    return deferred


def fail(failure: Failure | BaseException | None = None) -> Deferred[Any]:
    """Return a Deferred that has failed already.

    Args:
        failure: a Failure or an exception; left out, the one being handled now.

    Raises:
        NoCurrentExceptionError: nothing was given and no exception is handled.
    """
    deferred: Deferred[Any] = Deferred()
    deferred.errback(failure)
    return deferred


def execute(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
    """Call *function* here and now; return its value, or what it raised, fired.

    Args:
        function: anything to call.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    try:
        return succeed(function(*args, **kwargs))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return fail()


def passthru(result: T) -> T:
    """Return *result*: a step that changes nothing.

    Args:
        result: anything.
    """
    return result


def logError(failure: Failure) -> Failure:
    """Log *failure* at ERROR and return it, so that the chain goes on with it.

    Args:
        failure: what an errback receives.
    """
    _log.error(
        "%s",
        failure,
        exc_info=(failure.type, failure.value, failure.tb),
        extra={"failure": failure},
    )
    return failure

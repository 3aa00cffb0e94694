"""Runs coroutines and generators that wait for Deferreds, with or without asyncio.

A coroutine run here resumes the moment the Deferred it waits for comes to rest, in
the same turn of the loop, as an old-style callback would. It may also await
asyncio's futures and `asyncio.sleep`. What belongs to a *task* alone
(`asyncio.timeout`, `TaskGroup`) needs one: `asyncio.create_task`.
Loop thread only.

Source: `inlineCallbacks` of Twisted, and `asyncio.Task.__step`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from threadpool._chain import LATER, cancelledError
from threadpool._deferred import Deferred
from threadpool._future import OURS
from threadpool.error import NotACoroutineError
from threadpool.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")
P = ParamSpec("P")

# Coroutines that start each other nest so deep at the most; the next one starts when
# those before it wait. Each takes some five frames of Python's 1000.
NESTED_STARTS = 50


class _Returned(BaseException):  # Not an Exception: no handler shall stop it.
    """Carries a value out of a generator; see `returnValue`."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


class _Agenda(threading.local):
    """Runners to be stepped in this thread, so that steps never nest.

    A thousand coroutines that each wait for the next would otherwise resume each
    other a thousand frames deep.
    """

    def __init__(self) -> None:
        self.queue: deque[_Runner] = deque()
        self.running = False
        self.starting = 0


_agenda = _Agenda()


class _Runner:
    """One coroutine or generator on its way to the end.

    Args:
        coroutine: what to run.
        gives_results: True for a generator, whose `yield` evaluates to the result.
            False for a coroutine: an awaited object hands over its result itself.
    """

    def __init__(self, coroutine: Any, *, gives_results: bool) -> None:
        self.coroutine = coroutine
        self.gives_results = gives_results
        self.context = contextvars.copy_context()
        self.deferred: Deferred[Any] = Deferred(self.cancel)
        self.waiting_for: Any = None
        self.cancelled_by: Deferred[Any] | None = None
        self.asked = False  # A cancel was passed on to what it waits for.

    def start(self) -> None:
        """Step the coroutine for the first time, at once."""
        if _agenda.starting >= NESTED_STARTS:
            self.wake()
            return
        _agenda.starting += 1
        try:
            if _agenda.running:
                self.step()
            else:
                self.wake()
        finally:
            _agenda.starting -= 1

    def cancel(self, deferred: Deferred[Any]) -> object:
        """Pass a cancel on to what the coroutine waits for; its end is the answer."""
        message = deferred._cancel_message
        runner, seen = self, {self}
        self.asked = True
        # Coroutines that wait for coroutines, of any depth: not a recursion.
        while (inner := _runner_of(runner.waiting_for)) is not None:
            if inner in seen:  # They wait for each other, in a ring.
                return self.break_off()
            seen.add(inner)
            inner.deferred._cancel_message = message
            inner.asked = True
            runner = inner
        waiting_for = runner.waiting_for
        if waiting_for is None or not waiting_for.cancel(msg=message):
            runner.cancelled_by = runner.deferred  # It hears when it waits again.
        return LATER

    def break_off(self) -> object:
        """Wait no longer; the coroutine is cancelled where it does."""
        self.waiting_for.remove_done_callback(self.wake)
        self.waiting_for, self.cancelled_by = None, self.deferred
        self.wake()
        return LATER

    def wake(self, _: object = None) -> None:
        """Step the coroutine now, or right after the runner being stepped now."""
        _agenda.queue.append(self)
        if not _agenda.running:
            _drain()

    def step(self) -> None:
        """Run the coroutine until it waits for something that is not there yet."""
        if self.coroutine is None:
            return None
        waited_for, self.waiting_for = self.waiting_for, None
        if waited_for is not None and not waited_for.done():
            # Another who waited for the same Deferred has set its chain going again.
            self.watch(waited_for)
            return None
        answer = self.read(waited_for) if waited_for is not None else None
        late = self.is_late(waited_for)
        while answer is not LATER:
            if self.cancelled_by is not None:
                message = self.cancelled_by._cancel_message
                answer, self.cancelled_by = Failure(cancelledError(message)), None
            try:
                if isinstance(answer, Failure):
                    # Not through a method of Failure: it would show in tracebacks.
                    error = answer.value.with_traceback(answer.tb)
                    yielded = self.context.run(self.coroutine.throw, error)
                else:
                    yielded = self.context.run(self.coroutine.send, answer)
            except (StopIteration, _Returned) as stop:
                self.deferred._late_cancel = late
                if isinstance(stop.value, Deferred):
                    # Flat, not nested: each may return the next one's, for ever.
                    self.coroutine = _as_coroutine(stop.value)
                    self.gives_results, answer = False, None
                    continue
                return self.finish(stop.value)
            except BaseException as error:
                self.finish(Failure(_without_our_frame(error)))
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    self.deferred._mark_handled()  # It is on its way up the loop.
                    raise
                return None
            if late:  # The work was done; the cancel comes at the next wait.
                self.cancelled_by, late = self.deferred, False
            answer = self.wait(yielded)
        return None

    def wait(self, yielded: Any) -> Any:
        """Arrange to be woken by what was yielded.

        Returns:
            LATER when a wake will come; else what to go on with at once.
        """
        if self.gives_results and not asyncio.isfuture(yielded):
            if not inspect.isawaitable(yielded):
                return yielded  # A plain value comes straight back.
            yielded = self.context.run(fromCoroutine, _as_coroutine(yielded))
        if yielded is None:  # A bare yield, as asyncio.sleep(0) makes it.
            asyncio.get_running_loop().call_soon(self.wake)
            return LATER
        if not asyncio.isfuture(yielded):
            return Failure(_foreign(yielded))
        yielded._asyncio_future_blocking = False
        if yielded.done():
            return self.read(yielded)
        self.watch(yielded)
        if self.cancelled_by is not None:  # Cancelled while it was being stepped.
            deferred, self.cancelled_by = self.cancelled_by, None
            self.cancel(deferred)
        return LATER

    def watch(self, future: Any) -> None:
        """Be woken when *future* is done."""
        self.waiting_for = future
        if isinstance(future, Deferred):
            future._watch(self.wake)
        else:
            future.add_done_callback(self.wake)

    def read(self, future: Any) -> Any:
        """Return what *future*, which is done, gives the coroutine."""
        if not self.gives_results:  # Its own __await__ returns or raises the result.
            return OURS if isinstance(future, Deferred) else None
        try:
            return future.result()
        except BaseException as error:
            return Failure(_without_our_frame(error))

    def is_late(self, future: Any) -> bool:
        """Say whether our cancel of *future* met work that was done all the same."""
        asked, self.asked = self.asked, False
        return asked and isinstance(future, Deferred) and future._late_cancel

    def finish(self, result: Any) -> None:
        """Fire the coroutine's Deferred and let go of the coroutine's frames."""
        self.coroutine = None
        self.deferred.callback(result)


def stepping() -> bool:
    """Say whether a coroutine is being stepped in this thread at this moment."""
    return _agenda.running


def _runner_of(waited_for: Any) -> _Runner | None:
    """Return who a cancel of *waited_for* would reach, if that is a coroutine here."""
    innermost = waited_for._innermost() if isinstance(waited_for, Deferred) else None
    if innermost is None or innermost.called:
        return None
    owner = getattr(innermost._canceller, "__self__", None)
    return owner if isinstance(owner, _Runner) else None


def _drain() -> None:
    """Step every runner on the agenda, and those that this puts there."""
    _agenda.running = True
    try:
        while _agenda.queue:
            _agenda.queue.popleft().step()
    finally:
        _agenda.running = False
        if _agenda.queue:  # Ctrl-C ended the one just stepped, not these.
            with contextlib.suppress(RuntimeError):  # No loop: the next wake does it.
                asyncio.get_running_loop().call_soon(_drain)


def _without_our_frame(error: BaseException) -> BaseException:
    # The traceback begins in the caller's function.
    tb = error.__traceback__
    return error.with_traceback(tb.tb_next if tb else None)


def _foreign(yielded: object) -> RuntimeError:
    kind = type(yielded)
    return RuntimeError(
        f"The coroutine awaited {yielded!r}, a {kind.__module__}.{kind.__qualname__}, "
        "which is neither a Deferred of ours nor a future of asyncio's. Await it under "
        "the framework it belongs to. A Deferred of Twisted's becomes one of ours with "
        "threadpool.loops.twisted.fromTwisted."
    )


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


def fromCoroutine(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run *coroutine* now, up to its first wait, and return its result as a Deferred.

    Args:
        coroutine: what calling an `async def` function returned. It sees a copy of
            the current context variables.

    Returns:
        A Deferred; cancelling it raises CancelledError where the coroutine waits.

    Raises:
        NotACoroutineError: *coroutine* is something else.
    """
    if not inspect.iscoroutine(coroutine) and not inspect.isgenerator(coroutine):
        cure = "Call the async function first and pass what it returns."
        if asyncio.isfuture(coroutine):
            cure = "A future or a task becomes a Deferred with Deferred.fromFuture."
        raise NotACoroutineError(f"{coroutine!r} is not a coroutine. {cure}")
    runner = _Runner(coroutine, gives_results=False)
    runner.start()
    return runner.deferred


def ensureDeferred(value: Coroutine[Any, Any, T] | Deferred[T]) -> Deferred[T]:
    """Return *value* as a Deferred: a coroutine is run, a Deferred is itself.

    Args:
        value: a coroutine or a Deferred.

    Raises:
        NotACoroutineError: *value* is neither.
    """
    return value if isinstance(value, Deferred) else fromCoroutine(value)


def inlineCallbacks(
    function: Callable[P, Generator[Any, Any, T]],
) -> Callable[P, Deferred[T]]:
    """Make a generator function return a Deferred; `yield` waits for one.

    Args:
        function: a generator function. Each Deferred, future or coroutine that it
            yields is waited for, and `yield` evaluates to the result or raises the
            failure; other values come back as they are.

    Returns:
        A function that returns a Deferred of the generator's return value. Calling
        it raises TypeError when *function* returned no generator.

    Source: `inlineCallbacks` of Twisted; `async def` does the same today.
    """

    @functools.wraps(function)
    def start(*args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        generator = function(*args, **kwargs)
        if not inspect.isgenerator(generator):
            raise TypeError(
                f"{function!r} returned {generator!r} and not a generator. A function "
                "under inlineCallbacks must contain `yield`."
            )
        runner = _Runner(generator, gives_results=True)
        runner.start()
        return runner.deferred

    return start


def returnValue(value: object) -> NoReturn:
    """End a generator under `inlineCallbacks` with *value*, as before `return value`.

    For programs from the time when a generator could not return a value.

    Args:
        value: the result.

    Raises:
        BaseException: always; `inlineCallbacks` knows it.
    """
    raise _Returned(value)


def maybeDeferred(
    function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs
) -> Deferred[Any]:
    """Call *function* and return whatever comes of it as a Deferred.

    Args:
        function: anything to call.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        The Deferred it returned; the result of the coroutine it returned; a fired
        Deferred of the value it returned, or of what it raised.
    """
    try:
        result = function(*args, **kwargs)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        result = Failure(_without_our_frame(error))
    if isinstance(result, Deferred):
        return result
    if inspect.iscoroutine(result):
        return fromCoroutine(result)
    deferred: Deferred[Any] = Deferred()
    deferred.callback(result)
    return deferred

"""The switch: are threads undecided, on or off, and which threads run a loop.

Any thread may enter this room. The package shows a part of it; the floors above also
use `turn_on`, `pool_started`, `pool_stopped` and `forget_io_thread`.

Undecided is a state of its own. A library that is only imported must not decide for
the program; the first one who needs threads does (a pool that starts), or the program
itself, by `init()` or `init(False)`.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from threading import get_ident as getThreadID  # noqa: N812 - the old vocabulary

from threadable._coded import Coded

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ThreadsDisabled",
    "forget_io_thread",
    "getThreadID",
    "init",
    "isInIOThread",
    "pool_started",
    "pool_stopped",
    "registerAsIOThread",
    "threads_on",
    "turn_on",
    "whenThreaded",
]


class ThreadsDisabled(Coded, RuntimeError):
    """Something needs threads, and the program said that there are none."""

    __module__ = "threadable"
    code = "threads-disabled"


class _Token:
    """Dies with its thread: so an ident the system hands out again counts for none."""

    __slots__ = ("__weakref__",)


class _Here(threading.local):
    """What one thread knows about itself."""

    loops = 0  # loops adopted in this thread and not yet forgotten
    token: _Token | None = None
    entry: weakref.ref[_Token] | None = None  # this thread's key in _io_threads


_here = _Here()
_lock = threading.RLock()
_threaded: bool | None = None  # guarded by: _lock (for writing)
_decided_by = ""  # guarded by: _lock
_waiting: list[Callable[[], object]] = []  # guarded by: _lock
# Guarded by: _lock. Weak, since a pool that nobody holds any more cannot be harmed.
_pools: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()
# The idents of the threads that run a loop, oldest first. Needs no lock: a thread only
# touches its own entry, and each step on a dict is atomic.
_io_threads: dict[weakref.ref[_Token], int] = {}


# -- undecided, on or off --------------------------------------------------------------


def init(with_threads: object = True) -> None:
    """Say whether this program uses threads.

    Turning them on gives every class passed to `synchronize` its locks, and calls what
    waits in `whenThreaded`. Doing it again changes nothing. A call of a synchronized
    method that is running at that moment is not guarded until it returns.

    Args:
        with_threads: anything true turns threads on, anything false forbids them.

    Raises:
        RuntimeError: threads are on already and cannot be forbidden any more; the
            text says who turned them on.
        ThreadsDisabled: threads were forbidden, and pools rely on that.

    Source: threadable.init(with_threads=1) of 2001.
    """
    caller = sys._getframe(1)  # the documented way to the caller's line
    where = f"at {caller.f_code.co_filename}, line {caller.f_lineno}"
    if with_threads:
        _allow(f"threadable.init() {where}")
    else:
        _forbid(f"threadable.init(False) {where}")


def turn_on(by: str) -> None:
    """Turn threads on for somebody who needs them, unless they are forbidden.

    Args:
        by: who needs them, for the message of a later error: "ThreadPool 'db'".

    Raises:
        ThreadsDisabled: the program called `init(False)`.
    """
    with _lock:
        if _threaded is False:
            raise ThreadsDisabled(
                f"{by} needs threads, but {_decided_by} has forbidden them. Remove "
                "that call, or call threadable.init() before the first pool is made; "
                "where threads must stay off, use a driver made for asyncio."
            )
        if not _threaded:
            _start(by)


def threads_on() -> bool:
    """Tell whether threads are on, without waiting for whoever turns them on."""
    return _threaded is True


def whenThreaded(callback: Callable[[], object]) -> None:
    """Call *callback* as soon as threads are on: now, or when they are turned on.

    Args:
        callback: called once, without arguments, in the thread that turns threads on
            and before `init` returns there. While it runs, other threads that call
            `init` or `whenThreaded` wait.

    Source: threadable.whenThreaded of 2001.
    """
    with _lock:
        if not _threaded:
            _waiting.append(callback)
            return
    callback()


def _allow(by: str) -> None:
    with _lock:
        if _threaded is False and len(_pools):
            names = ", ".join(sorted(map(repr, _pools.values())))
            raise ThreadsDisabled(
                f"{_decided_by} has forbidden threads, and {len(_pools)} pool(s) "
                f"rely on that: {names}. Turned on now, their work would run beside "
                "threads it does not expect. Close them first, or call "
                "threadable.init() before they are made."
            )
        if not _threaded:
            _start(by)


def _forbid(by: str) -> None:
    global _threaded, _decided_by
    with _lock:
        if _threaded:
            raise RuntimeError(
                f"threads are on: {_decided_by} turned them on. They cannot be "
                "forbidden any more, since locks are handed out and threads may "
                "run. Call threadable.init(False) before that, or not at all."
            )
        if _threaded is None:
            _threaded, _decided_by = False, by


def _start(by: str) -> None:  # guarded by: _lock
    """Turn threads on and serve everybody who waited for it, also if one of them fails.

    The lock stays held meanwhile: a thread that finds `threaded` true through `init`
    may rely on every class having its locks.
    """
    global _threaded, _decided_by
    _threaded, _decided_by = True, by
    errors: list[Exception] = []
    while _waiting:
        try:
            _waiting.pop(0)()
        except Exception as error:  # raised below, after the others
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(
            f"threads are on, but {len(errors)} of those that waited for it failed",
            errors,
        )


# -- pools -----------------------------------------------------------------------------


def pool_started(pool: object, name: str) -> None:
    """Note that *pool* is in use: the switch cannot turn under it.

    Args:
        pool: anything hashable that can be weakly referenced.
        name: how an error's text calls it.
    """
    with _lock:
        _pools[pool] = name


def pool_stopped(pool: object) -> None:
    """Note that *pool* is closed; a pool that never started is no error.

    Args:
        pool: what `pool_started` was told.
    """
    with _lock:
        _pools.pop(pool, None)


# -- who is the I/O thread -------------------------------------------------------------


def registerAsIOThread() -> None:
    """Say that the current thread runs an event loop.

    Several threads may do so, each with its loop. Once per loop: a thread counts as I/O
    thread until `_switch.forget_io_thread` was called as often, or until it ends.

    Source: threadable.registerAsIOThread of 2001, where there was one such thread.
    """
    if not _here.loops:
        _here.token = _Token()
        _here.entry = weakref.ref(_here.token, _thread_ended)
        _io_threads[_here.entry] = getThreadID()
    _here.loops += 1


def forget_io_thread() -> None:
    """Take back one `registerAsIOThread` of the current thread: its loop has ended.

    Where nothing is registered there is nothing to forget, and that is no error.
    """
    if not _here.loops:
        return
    _here.loops -= 1
    if not _here.loops and _here.entry is not None:
        _io_threads.pop(_here.entry, None)
        _here.token = _here.entry = None


def isInIOThread() -> bool:
    """Tell whether the current thread runs an event loop. Asked once per job: cheap.

    Returns:
        True in a registered thread. Also True everywhere while threads are not on and
        no thread has registered: the one thread there is does the I/O. Else False.
    """
    return _here.loops > 0 or (_threaded is not True and not _io_threads)


def io_thread() -> int | None:
    """Name the I/O thread for `threadable.ioThread`.

    Returns:
        the ident of the thread that registered last and still runs its loop; None if
        there is none.
    """
    # A copy first: a thread may end, and take its entry along, while we look.
    return next(reversed(_io_threads.copy().values()), None)


def _thread_ended(entry: weakref.ref[_Token]) -> None:
    # Runs wherever the last reference fell, possibly inside a garbage collection in a
    # thread that holds _lock: so it takes no lock.
    _io_threads.pop(entry, None)


# -- fork ------------------------------------------------------------------------------


def _after_fork_in_child() -> None:
    """Start the child with free locks; of the threads only the forking one exists."""
    global _lock  # noqa: PLW0603 - one switch in one process
    _lock = threading.RLock()
    _pools.clear()
    for entry in _io_threads.copy():
        if entry is not _here.entry:
            _io_threads.pop(entry, None)


if hasattr(os, "register_at_fork"):  # absent on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork_in_child)

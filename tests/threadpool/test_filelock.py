"""A lock between processes, with real processes and a real kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from threadpool import filelock
from threadpool.defer import CancelledError, Deferred
from threadpool.error import WrongThread
from threadpool.filelock import AlreadyTryingToLockError, DeferredFilesystemLock
from threadpool.testing import Clock

# Takes the lock, says so, and holds it until its standard input ends.
HOLDER = """
import sys
from threadpool.filelock import DeferredFilesystemLock
lock = DeferredFilesystemLock(sys.argv[1])
print(lock.lock(), lock.clean, flush=True)
sys.stdin.read()
if sys.argv[2] == "unlock":
    lock.unlock()
"""

unix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork.")


@contextlib.contextmanager
def holder(path, end="unlock"):
    """Another process that holds the lock; it ends with the `with` block."""
    command = [sys.executable, "-c", HOLDER, str(path), end]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        process.said = process.stdout.readline().strip()
        yield process
        process.stdin.close()
        process.wait(30)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """Makes locks on one file; what is still locked is unlocked afterwards."""
    made = []

    def make_lock(clock=clock):
        made.append(DeferredFilesystemLock(tmp_path / "lock", clock))
        return made[-1]

    yield make_lock
    for lock in made:
        if lock.locked:
            lock.unlock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def failure_of(deferred):
    """The Failure that *deferred* came to, handled."""
    seen = []
    deferred.addErrback(seen.append)
    return seen[0]


# -- lock and unlock ---------------------------------------------------------------


def test_lock_and_unlock(make, path):
    """Who locks has it until it unlocks; meanwhile the file tells its process."""
    lock = make()
    assert (lock.locked, lock.clean) == (False, None)
    assert lock.lock()
    assert (lock.locked, lock.clean) == (True, True)
    assert path.read_text() == f"{os.getpid()}\n"
    lock.unlock()
    assert (lock.locked, lock.clean) == (False, True)
    assert path.read_bytes() == b""  # Still there: removing it would be a race.
    assert lock not in filelock._holding


def test_two_locks_on_one_file(make):
    """Two objects on one file exclude each other, in one process too."""
    first, second = make(), make()
    assert first.lock()
    assert not second.lock()
    assert not first.lock()  # Nor is it had twice.
    first.unlock()
    assert second.lock()
    assert second.clean


def test_looking_at_the_file_does_not_unlock_it(make, path):
    """Opening and closing the file in the same process leaves the lock alone."""
    first, second = make(), make()
    assert first.lock()
    path.read_text()
    assert not second.lock()


def test_unlock_of_what_is_not_locked_is_refused(make):
    """Unlocking what this object does not hold is refused, whoever holds it."""
    first, second = make(), make()
    first.lock()
    with pytest.raises(RuntimeError, match="not locked>, which does not hold the lock"):
        second.unlock()
    assert first.locked


def test_repr_says_the_state(make, path):
    """The repr gives the file, whether it is locked, and whether somebody waits."""
    first, second = make(), make()
    assert repr(first) == f"<DeferredFilesystemLock {str(path)!r} not locked>"
    first.lock()
    assert repr(first) == f"<DeferredFilesystemLock {str(path)!r} locked>"
    waiting = second.deferUntilLocked()
    assert repr(second).endswith("not locked, being waited for>")
    waiting.cancel()
    assert repr(second).endswith("not locked>")


def test_name_may_be_text(path):
    """The path may be a str or any path object."""
    lock = DeferredFilesystemLock(str(path))
    assert lock.lock()
    lock.unlock()


def test_lock_that_nobody_refers_to_is_held(make, path):
    """A lock stays locked although the program forgot the object."""
    assert DeferredFilesystemLock(path).lock()
    assert not make().lock()
    (forgotten,) = [lock for lock in filelock._holding if lock.name == str(path)]
    forgotten.unlock()
    assert make().lock()


@pytest.mark.parametrize("content", [b"precious data", b"12 34", b"1" * 30])
def test_other_file_is_not_overwritten(make, path, content):
    """A file with anything else in it is refused, left as it is, and not kept open."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a lock.*Choose another name"):
        make().lock()
    assert path.read_bytes() == content


def test_file_that_cannot_be_opened(tmp_path, clock):
    """When the file cannot be made, lock raises why, and deferUntilLocked fails."""
    lock = DeferredFilesystemLock(tmp_path / "missing" / "lock", clock)
    with pytest.raises(FileNotFoundError):
        lock.lock()
    assert failure_of(lock.deferUntilLocked()).check(FileNotFoundError)
    assert not clock.getDelayedCalls()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="No such flag here.")
def test_link_is_not_followed(make, path, tmp_path):
    """A symbolic link under the name is refused: it may lead to anybody's file."""
    (tmp_path / "target").touch()
    path.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        make().lock()


@unix_only
def test_file_removed_while_it_was_being_locked(make, path, monkeypatch):
    """A lock on a file that lost its name meanwhile is none: the new file is locked."""
    try_lock = filelock._try_lock
    removals = iter([True, True, False])

    def remove_first(descriptor):
        if next(removals):
            path.unlink()
        return try_lock(descriptor)

    monkeypatch.setattr(filelock, "_try_lock", remove_first)
    lock = make()
    assert lock.lock()
    monkeypatch.undo()
    assert path.samefile(f"/proc/self/fd/{lock._descriptor}")
    assert not make().lock()


# -- other processes ---------------------------------------------------------------


def test_another_process_holds_it(make, path):
    """Of two processes one has the lock; the other gets it when that one unlocks."""
    lock = make()
    with holder(path) as process:
        assert process.said == "True True"
        assert not lock.lock()
    assert process.returncode == 0
    assert lock.lock()
    assert lock.clean


def test_killed_holder_has_let_go(make, path):
    """A holder killed on the spot blocks nobody, and the next one is told of it."""
    lock = make()
    with holder(path) as process:
        assert not lock.lock()
        process.kill()
        assert process.wait(30) != 0
        assert lock.lock()
    assert lock.clean is False
    lock.unlock()
    assert lock.lock()
    assert lock.clean


def test_holder_that_ended_without_unlocking(make, path):
    """A process that ends without unlocking counts as having died holding it."""
    with holder(path, end="forget") as process:
        pass
    assert process.returncode == 0
    lock = make()
    assert lock.lock()
    assert lock.clean is False


def test_zeros_are_no_clean_end(make, path):
    """Zeros, as a crash of the machine may leave them, count as a holder that died."""
    path.write_bytes(bytes(5))
    lock = make()
    assert lock.lock()
    assert lock.clean is False


@unix_only
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_child_does_not_hold_it(make):
    """A forked child neither holds the lock nor keeps it from its parent's unlock."""
    lock, other = make(), make()
    assert lock.lock()
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            with contextlib.suppress(BaseException):
                answers = [lock.locked, other.lock()]
                with contextlib.suppress(RuntimeError):
                    lock.unlock()
                    answers.append("unlocked")
                os.write(ready[1], repr(answers).encode())
                os.read(go[0], 1)
        finally:
            os._exit(0)
    try:
        assert os.read(ready[0], 100) == b"[False, False]"
        assert not other.lock()
        lock.unlock()
        assert other.lock()  # Although the child still lives.
    finally:
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        for descriptor in (*ready, *go):
            os.close(descriptor)


# -- waiting -----------------------------------------------------------------------


def test_free_lock_is_had_at_once(make, clock):
    """A deferUntilLocked of a free lock fires at once, with None."""
    lock = make()
    waiting = lock.deferUntilLocked()
    assert waiting.result() is None
    assert lock.locked
    assert not clock.getDelayedCalls()


def test_waiting_looks_again_until_it_is_free(make, clock):
    """While the lock is held it looks again and again, and fires soon after its end."""
    first, second = make(), make()
    first.lock()
    waiting = second.deferUntilLocked()
    clock.pump([filelock.INTERVAL_SECONDS] * 50)
    assert not waiting.called
    first.unlock()
    assert not waiting.called
    clock.advance(filelock.INTERVAL_SECONDS)
    assert waiting.result() is None
    assert second.locked
    assert not clock.getDelayedCalls()


def test_waiting_for_a_process_that_is_killed(make, clock, path):
    """Who waits gets the lock soon after its holder was killed."""
    lock = make()
    with holder(path) as process:
        waiting = lock.deferUntilLocked(timeout=60)
        clock.advance(1)
        assert not waiting.called
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        process.wait(30)
        clock.advance(1)
        assert waiting.result() is None
    assert lock.clean is False


def test_waiting_times_out(make, clock):
    """After `timeout` seconds it fails with TimeoutError that names the holder."""
    first, second = make(), make()
    first.lock()
    waiting = second.deferUntilLocked(timeout=2.05)
    clock.advance(2.04)
    assert not waiting.called
    clock.advance(0.01)
    failure = failure_of(waiting)
    assert failure.check(TimeoutError)
    assert f"still locked by process {os.getpid()} after 2.05 s" in str(failure)
    assert not clock.getDelayedCalls()
    first.unlock()
    assert second.deferUntilLocked().called


def test_last_look_at_the_timeout(make, clock):
    """A lock that comes free just before the timeout is still had."""
    first, second = make(), make()
    first.lock()
    waiting = second.deferUntilLocked(timeout=0.05)
    clock.advance(0.04)
    first.unlock()
    clock.advance(0.01)
    assert waiting.result() is None


def test_timeout_of_zero_looks_once(make, clock, path):
    """With a timeout of 0 it takes the lock now or fails now."""
    lock = make()
    with holder(path) as process:
        failure = failure_of(lock.deferUntilLocked(0))
        assert failure.check(TimeoutError)
        assert f"process {process.pid}" in str(failure)
    assert lock.deferUntilLocked(0).called


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_impossible_timeout_is_refused(make, timeout):
    """A timeout below zero, or that is no number, is refused."""
    with pytest.raises(ValueError, match=f"The timeout is {timeout} s"):
        make().deferUntilLocked(timeout)


def test_waiting_twice_is_refused(make, clock):
    """While one waits, a second deferUntilLocked of the object fails, and only that."""
    first, second = make(), make()
    first.lock()
    waiting = second.deferUntilLocked()
    assert failure_of(second.deferUntilLocked()).check(AlreadyTryingToLockError)
    first.unlock()
    clock.advance(1)
    assert waiting.called


def test_cancelled_waiting_stops_looking(make, clock):
    """Cancelled, it fails with CancelledError, looks no more, and can be asked anew."""
    first, second = make(), make()
    first.lock()
    waiting = second.deferUntilLocked()
    waiting.cancel("enough")
    assert failure_of(waiting).value.args == ("enough",)
    assert not clock.getDelayedCalls()
    first.unlock()
    clock.advance(1)
    assert not second.locked
    assert second.deferUntilLocked().called


def test_error_while_waiting(make, clock, path):
    """What goes wrong at a later look fails the Deferred, and the waiting is over."""
    first, second = make(), make()
    first.lock()
    waiting = second.deferUntilLocked()
    first.unlock()
    path.write_text("something else")
    clock.advance(1)
    assert failure_of(waiting).check(ValueError)
    assert not clock.getDelayedCalls()
    path.write_text("")
    assert second.deferUntilLocked().called


async def test_task_cancelled_after_it_was_locked(make, clock):
    """A task cancelled between getting the lock and its next step does not keep it."""
    first, second = make(), make()
    first.lock()
    task = asyncio.create_task(second.deferUntilLocked().asCoroutine())
    await asyncio.sleep(0)
    first.unlock()
    clock.advance(1)
    assert second.locked
    task.cancel()
    assert not second.locked
    with pytest.raises(CancelledError):
        await task


async def test_waiting_on_the_reactors_clock(path):
    """Without a clock it waits on the loop that runs, for a real process."""
    lock = DeferredFilesystemLock(path)
    with holder(path) as process:
        with pytest.raises(TimeoutError):
            await lock.deferUntilLocked(timeout=0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await lock.deferUntilLocked()
        waiting = lock.deferUntilLocked()
        process.stdin.close()
        await waiting
    lock.unlock()


def test_free_lock_needs_no_loop(path):
    """Where no loop runs, the default clock is not asked for a lock that is free."""
    lock = DeferredFilesystemLock(path)
    assert lock.deferUntilLocked(timeout=5).result() is None
    lock.unlock()


def test_error_of_the_clock(make):
    """A clock that refuses, such as another thread's reactor, fails the Deferred."""

    class Elsewhere(Clock):
        def callLater(self, *_):
            raise WrongThread("another thread's")

    first, second = make(), make(Elsewhere())
    first.lock()
    assert failure_of(second.deferUntilLocked()).check(WrongThread)
    first.unlock()
    assert second.deferUntilLocked().called


def test_callbacks_get_the_lock_in_turn(make, clock):
    """In callback style, one after the other has the lock."""
    order, locks = [], [make() for _ in range(3)]

    def work(_, number):
        assert [lock.locked for lock in locks].count(True) == 1
        order.append(number)
        done = Deferred()
        clock.callLater(1, done.callback, None)
        return done.addBoth(lambda _: locks[number].unlock())

    for number, lock in enumerate(locks):
        lock.deferUntilLocked().addCallback(work, number)
    clock.pump([0.05] * 100)
    assert sorted(order) == [0, 1, 2]
    assert Path(locks[0].name).read_bytes() == b""

"""The switch: undecided, on or off, and who is the I/O thread."""

# ruff: noqa: RUF012 - lists that nobody changes

from __future__ import annotations

import copy
import pickle
import re
import threading

import pytest

import threadable


def test_undecided_until_somebody_decides():
    """`threadable.threaded` is None until somebody decides."""
    assert threadable.threaded is None


def test_init_turns_threads_on():
    """`init()` turns threads on, and `threaded` tells it to whoever reads it then."""
    threadable.init()
    assert threadable.threaded is True


def test_init_is_idempotent(switch):
    """`init()` again changes nothing, and calls nothing a second time."""
    calls = []
    threadable.whenThreaded(lambda: calls.append(1))
    threadable.init()
    threadable.init(with_threads=1)
    assert threadable.threaded is True
    assert calls == [1]


def test_init_false_forbids_threads():
    """`init(False)` forbids threads; doing it again is no error."""
    threadable.init(False)
    threadable.init(0)
    assert threadable.threaded is False


def test_init_false_after_init_says_who_turned_threads_on():
    """`init(False)` after `init()` is a RuntimeError that names file and line."""
    threadable.init()
    with pytest.raises(RuntimeError, match=r"init\(\) at .*test_switch\.py, line \d+"):
        threadable.init(False)
    assert threadable.threaded is True


def test_init_false_after_a_pool_says_which_one_started_them(switch):
    """`init(False)` after a pool turned threads on is an error that names the pool."""
    switch.turn_on("ThreadPool 'mail'")
    with pytest.raises(RuntimeError, match="ThreadPool 'mail' turned them on"):
        threadable.init(False)


def test_a_pool_turns_undecided_threads_on(switch):
    """Starting a ThreadPool while undecided turns threads on."""
    switch.turn_on("ThreadPool 'mail'")
    switch.turn_on("ThreadPool 'web'")
    assert threadable.threaded is True


def test_a_pool_where_threads_are_forbidden_is_told_the_remedy(switch):
    """Starting a ThreadPool while threads are forbidden raises, naming the remedy."""
    threadable.init(False)
    with pytest.raises(threadable.ThreadsDisabled) as caught:
        switch.turn_on("ThreadPool 'mail'")
    text = str(caught.value)
    assert "ThreadPool 'mail' needs threads" in text
    assert "test_switch.py" in text
    assert "call threadable.init() before" in text
    assert threadable.threaded is False


def test_threads_disabled_is_a_runtime_error():
    """`ThreadsDisabled` is a RuntimeError."""
    assert issubclass(threadable.ThreadsDisabled, RuntimeError)


def test_init_after_init_false_is_allowed_while_no_pool_exists():
    """`init()` after `init(False)` turns threads on while no pool exists."""
    threadable.init(False)
    threadable.init()
    assert threadable.threaded is True


class Pool:
    """Stands for a pool that works without threads."""


def test_init_after_init_false_is_refused_while_a_pool_exists(switch):
    """`init()` after `init(False)` is refused, naming the pools there are."""
    pool, gone, closed = Pool(), Pool(), Pool()
    switch.pool_started(pool, "shop")
    switch.pool_started(gone, "forgotten")
    switch.pool_started(closed, "closed")
    threadable.init(False)
    switch.pool_stopped(closed)
    switch.pool_stopped(closed)
    del gone
    with pytest.raises(threadable.ThreadsDisabled, match=r"1 pool\(s\).*: 'shop'\."):
        threadable.init()
    switch.pool_stopped(pool)
    threadable.init()
    assert threadable.threaded is True


def test_when_threaded_calls_at_init():
    """A callback given before `init()` is called by it, in the order given."""
    calls = []
    threadable.whenThreaded(lambda: calls.append(("first", threadable.threaded)))
    threadable.whenThreaded(lambda: calls.append(("second", threadable.threaded)))
    assert calls == []
    threadable.init()
    assert calls == [("first", True), ("second", True)]


def test_when_threaded_calls_now_when_threads_are_on():
    """A callback given after `init()` is called at once."""
    threadable.init()
    calls = []
    threadable.whenThreaded(lambda: calls.append(1))
    assert calls == [1]


def test_a_callback_may_give_another_callback():
    """A callback that waits for threads may ask for more; it is served at once."""
    calls = []
    threadable.whenThreaded(lambda: threadable.whenThreaded(lambda: calls.append(1)))
    threadable.init()
    assert calls == [1]


def test_a_callback_that_fails_does_not_hinder_the_others():
    """If one callback raises, the others are called, and init raises what it raised."""
    calls = []

    def fail():
        raise ValueError("mine")

    threadable.whenThreaded(fail)
    threadable.whenThreaded(lambda: calls.append(1))
    with pytest.raises(ValueError, match="mine"):
        threadable.init()
    assert calls == [1]
    assert threadable.threaded is True


def test_several_callbacks_that_fail_arrive_together():
    """Nothing is swallowed: two failures arrive as a group."""

    def fail():
        raise ValueError("mine")

    threadable.whenThreaded(fail)
    threadable.whenThreaded(fail)
    with pytest.raises(ExceptionGroup) as caught:
        threadable.init()
    assert len(caught.value.exceptions) == 2


def test_a_second_init_waits_until_the_first_has_served_everybody(in_thread):
    """When `init()` returns in any thread, every class that waited has its locks."""
    inside, go_on = threading.Event(), threading.Event()

    class Account:
        synchronized = ["deposit"]

        def deposit(self):
            pass

    def park():
        inside.set()
        assert go_on.wait(20)

    written = Account.__dict__["deposit"]
    threadable.whenThreaded(park)
    threadable.whenThreaded(lambda: threadable.synchronize(Account))
    first = in_thread(threadable.init)
    assert inside.wait(20)
    # The first init is in the middle of its callbacks. The second one asks.
    asked = threading.Event()

    def second():
        asked.set()
        threadable.init()
        return Account.__dict__["deposit"] is written

    other = in_thread(second)
    assert asked.wait(20)
    go_on.set()
    first.result()
    assert other.result() is False


def test_threaded_read_from_the_package_is_never_old():
    """The package itself holds no copy of the state that could grow old."""
    assert "threaded" not in vars(threadable)
    assert "ioThread" not in vars(threadable)
    with pytest.raises(AttributeError, match="no attribute 'thraeded'"):
        _ = threadable.thraeded


# -- the I/O thread --------------------------------------------------------------------


def test_every_thread_does_the_io_while_nothing_is_decided():
    """Without threads, `isInIOThread()` is true: there is only one thread."""
    assert threadable.isInIOThread() is True
    threadable.init(False)
    assert threadable.isInIOThread() is True
    assert threadable.ioThread is None


def test_nobody_is_the_io_thread_when_threads_are_on_and_nobody_has_registered():
    """`isInIOThread()` is false where nothing was registered and threads are on."""
    threadable.init()
    assert threadable.isInIOThread() is False


def test_the_thread_that_registers_is_the_io_thread(in_thread):
    """Who calls `registerAsIOThread()` is the I/O thread, and others are not."""
    threadable.registerAsIOThread()
    assert threadable.isInIOThread() is True
    assert threadable.ioThread == threadable.getThreadID() == threading.get_ident()
    assert in_thread(threadable.isInIOThread).result() is False


def test_several_threads_with_a_loop_are_all_io_threads(in_thread, switch):
    """Several loops in several threads: each of them is an I/O thread."""
    threadable.init()
    threadable.registerAsIOThread()
    registered, go_on = threading.Event(), threading.Event()

    def other():
        threadable.registerAsIOThread()
        registered.set()
        assert go_on.wait(20)
        return threadable.isInIOThread(), threadable.getThreadID()

    thread = in_thread(other)
    assert registered.wait(20)
    assert threadable.ioThread == thread.ident
    assert threadable.isInIOThread() is True
    go_on.set()
    assert thread.result() == (True, thread.ident)
    assert threadable.ioThread == threadable.getThreadID()


def test_a_thread_whose_loop_has_ended_is_no_io_thread_any_more(switch):
    """A thread is an I/O thread until it was forgotten as often as registered."""
    threadable.init()
    threadable.registerAsIOThread()
    threadable.registerAsIOThread()
    switch.forget_io_thread()
    assert threadable.isInIOThread() is True
    switch.forget_io_thread()
    assert threadable.isInIOThread() is False
    assert threadable.ioThread is None
    switch.forget_io_thread()  # nothing left to forget is no error
    threadable.registerAsIOThread()
    assert threadable.isInIOThread() is True


def test_a_dead_threads_ident_does_not_count(in_thread):
    """Idents are handed out again: who gets a dead thread's is not taken for it."""
    threadable.init()
    idents = set()
    for _ in range(50):
        thread = in_thread(threadable.registerAsIOThread)
        thread.result()
        idents.add(thread.ident)
        assert in_thread(threadable.isInIOThread).result() is False
    assert threadable.ioThread is None
    assert len(idents) < 50, "no ident was handed out twice: this test proved nothing"


# -- locks in pickles ------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [threadable.XLock, threadable.DummyLock])
def test_a_lock_that_was_pickled_is_loaded_fresh(kind, protocol, in_thread):
    """An XLock can be pickled while it is held; what is loaded is free."""
    lock = kind()
    with lock:
        loaded = pickle.loads(pickle.dumps(lock, protocol))
    assert isinstance(loaded, threadable.XLock)
    assert in_thread(loaded.acquire, False).result() is True


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_lock_that_was_copied_is_fresh(copied, in_thread):
    """A copy of a held XLock is free."""
    lock = threadable.XLock()
    with lock:
        assert in_thread(copied(lock).acquire, False).result() is True


def test_an_xlock_is_reentrant_and_excludes_others(in_thread):
    """An XLock is taken again by its holder, and by nobody else."""
    lock = threadable.XLock()
    with lock, lock:
        assert in_thread(lock.acquire, False).result() is False


def test_a_dummy_lock_excludes_nobody(in_thread):
    """A DummyLock looks like a lock and excludes nobody."""
    lock = threadable.DummyLock()
    with lock:
        assert lock.acquire() is True
        assert in_thread(lock.acquire).result() is True
        lock.release()


def test_unpickle_lock_is_what_pickles_of_locks_name():
    """The name `threadable.unpickle_lock` gives a fresh lock: old pickles load."""
    assert isinstance(threadable.unpickle_lock(), threadable.XLock)


# -- importing -------------------------------------------------------------------------


def test_importing_brings_nothing_but_the_standard_library(run_python):
    """`import threadable` imports nothing foreign, and not asyncio."""
    out = run_python(
        "import sys; before = set(sys.modules)\n"
        "import threadable\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))\n"
        "print({'asyncio', 'typing', 're', 'inspect', 'argparse'} & set(sys.modules))\n"
    )
    assert re.split(r"\s+", out.strip())[0] == "['threadable']"
    assert "set()" in out


@pytest.mark.parametrize("first", ["class", "init"])
def test_any_import_order_works(run_python, tmp_path, first):
    """A class declared before `init()`, or after it, has its locks in the end."""
    (tmp_path / "shop.py").write_text(
        "import threadable\n"
        "class Account:\n"
        "    synchronized = ['deposit']\n"
        "    def deposit(self): pass\n"
        "threadable.synchronize(Account)\n"
    )
    lines = ["import shop", "import threadable; threadable.init()"]
    if first == "init":
        lines.reverse()
    program = "\n".join([*lines, "print(hasattr(shop.Account.deposit, '__wrapped__'))"])
    assert run_python(program, PYTHONPATH=f"{tmp_path}:.").strip() == "True"


FORK = """
import os, threading, threadable
from threadable import _switch

class Pool: pass

class Account:
    synchronized = ["hold", "deposit"]
    def hold(self):
        held.set()
        wait.wait()
    def deposit(self):
        return "deposited"
    def fork(self):
        return os.fork()

class Slotted(Account):
    __slots__ = ()

class Inside:
    __slots__ = ("_threadable_lock",)
    synchronized = ["hold", "deposit"]
    hold, deposit = Account.hold, Account.deposit

class Forking(Account):
    synchronized = ["fork"]

threadable.synchronize(Account, Inside, Forking)
threadable.init()
pool = Pool()
_switch.pool_started(pool, "shop")
threadable.registerAsIOThread()
wait, objects = threading.Event(), [Account(), Inside()]
for each in objects:
    held = threading.Event()
    threading.Thread(target=each.hold, daemon=True).start()
    held.wait()

# A thread with a loop of its own, and with every lock of the switch in its hands.
def other():
    threadable.registerAsIOThread()
    from threadable import _synchronize, _instance_lock, hook
    with _switch._lock, _synchronize._changing, _instance_lock._making, hook._lock:
        held.set()
        wait.wait()

held = threading.Event()
threading.Thread(target=other, daemon=True).start()
held.wait()
assert len(_switch._io_threads) == 2

forking = Forking()
if forking.fork() == 0:  # the child, inside a synchronized method of its own
    assert threadable.threaded is True
    assert threadable.isInIOThread() and threadable.ioThread == threadable.getThreadID()
    assert len(_switch._io_threads) == 1 and not len(_switch._pools)
    assert [each.deposit() for each in objects] == ["deposited"] * 2
    assert forking.deposit() == "deposited"
    threadable.init()
    class Late(Account):
        def deposit(self): return "late"
    assert Late().deposit() == "late" and Inside().deposit() == "deposited"
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
wait.set()
"""


def test_a_forked_child_starts_with_free_locks_and_one_io_thread(run_python):
    """After a fork the child has free locks, and only the forking thread of the I/O."""
    # 3.12 warns of any fork beside threads; that is just what is to be tried here.
    program = "import warnings; warnings.simplefilter('ignore')\n" + FORK
    assert run_python(program).strip() == "7"

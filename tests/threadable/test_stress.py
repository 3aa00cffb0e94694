"""Threads in earnest: a lock that is there, and one that is not."""

# ruff: noqa: RUF012 - lists that nobody changes

from __future__ import annotations

import sys
import threading

import pytest

import threadable
from threadable import hook

THREADS = 8
ROUNDS = 2_000


@pytest.fixture
def impatient():
    """Let the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Yes:
    """A value whose addition goes through Python code, where threads can switch."""

    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        # Reading, adding and writing are apart, as in any update of real life.
        return Yes(self.value + other)


def counter():
    """A class of its own for each test."""

    class Counter:
        synchronized = ["add"]

        def __init__(self):
            self.total = Yes(0)

        def add(self):
            self.total = self.total + 1

    return Counter


def count(cls):
    """Let many threads count on one object; give what it has counted."""
    shared = cls()
    start = threading.Barrier(THREADS, timeout=60)

    def work():
        start.wait()
        for _ in range(ROUNDS):
            shared.add()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return shared.total.value


def test_eight_threads_never_lose_an_update(impatient):
    """A synchronized counter, made by eight threads at once, has counted them all."""
    cls = counter()
    threadable.synchronize(cls)
    threadable.init()
    assert count(cls) == THREADS * ROUNDS


def test_without_the_lock_updates_are_lost(impatient):
    """With its lock planted out the counter loses some: the test above can fail."""
    cls = counter()
    threadable.synchronize(cls)
    threadable.init()
    hook.removePre(cls, "add", threadable._synchPre)
    hook.removePost(cls, "add", threadable._synchPost)
    # It is likely each time, and certain enough in twenty.
    assert any(count(cls) < THREADS * ROUNDS for _ in range(20))


def test_the_loss_can_be_forced(in_thread):
    """One update lost without a lock, step by step; none with it, in the same steps.

    1. One thread has read the total, and stands before writing it.
    2. Another one adds and is done.
    3. The first one writes what it had read, plus one.
    """

    def run(locked):
        read, other_done = threading.Event(), threading.Event()

        class Slow(Yes):
            def __add__(self, other):
                read.set()
                # With the lock, nobody can get in between: waiting would be for ever.
                assert locked or other_done.wait(20)
                return Yes(self.value + other)

        cls = counter()
        threadable.synchronize(cls)
        threadable.init()
        if not locked:
            hook.removePre(cls, "add", threadable._synchPre)
            hook.removePost(cls, "add", threadable._synchPost)
        shared = cls()
        shared.total = Slow(0)
        first = in_thread(shared.add)
        assert read.wait(20)
        if not locked:
            shared.total = Yes(0)
        second = in_thread(shared.add)
        second.result()
        other_done.set()
        first.result()
        return shared.total.value

    assert run(locked=False) == 1
    assert run(locked=True) == 2

"""Descriptors that the reactor watches."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from threadpool import loops
from threadpool.error import LoopClosed, WrongThread
from threadpool.failure import Failure
from threadpool.reactor import Reactor


class End:
    """One end of a socket pair; notes what happens to it."""

    def __init__(self, sock, events, name):
        self.sock = sock
        self.events = events
        self.name = name
        self.answer = None

    def fileno(self):
        return self.sock.fileno()

    def doRead(self):
        self.events.append((self.name, "read", self.sock.recv(100)))
        return self._give()

    def doWrite(self):
        self.events.append((self.name, "write"))
        return self._give()

    def _give(self):
        if callable(self.answer):
            return self.answer()
        return self.answer

    def connectionLost(self, reason):
        assert isinstance(reason, Failure)
        self.events.append((self.name, "lost", reason.value))

    def __repr__(self):
        return f"<End {self.name}>"


@pytest.fixture
def reactor():
    return Reactor()


@pytest.fixture
def pair():
    """Two ends that are connected, and the list of what happens to them."""
    events = []
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield End(left, events, "left"), End(right, events, "right"), events


async def until(events, number):
    """Wait until *number* things have happened."""
    async with asyncio.timeout(30):
        while len(events) < number:
            await asyncio.sleep(0)


async def test_reader_is_called_until_removed(reactor, pair):
    """`doRead` is called whenever there is something to read, until removed."""
    left, right, events = pair
    reactor.addReader(left)
    reactor.addReader(left)
    assert reactor.getReaders() == [left]
    for text in (b"one", b"two"):
        right.sock.send(text)
        await until(events, 1)
        assert events.pop() == ("left", "read", text)
    reactor.removeReader(left)
    reactor.removeReader(left)
    assert reactor.getReaders() == []
    right.sock.send(b"three")
    await asyncio.sleep(0.01)
    assert events == []


async def test_writer_is_called_until_removed(reactor, pair):
    """`doWrite` is called whenever there is room; reading is another matter."""
    left, _, events = pair
    reactor.addWriter(left)
    reactor.addReader(left)
    await until(events, 2)
    reactor.removeWriter(left)
    assert set(events) == {("left", "write")}
    assert (reactor.getReaders(), reactor.getWriters()) == ([left], [])
    assert reactor.removeAll() == [left]


@pytest.mark.parametrize("how", ["returned", "returned as failure", "raised"])
async def test_error_ends_the_watch(reactor, pair, how):
    """An exception, returned or raised, goes to `connectionLost`, once."""
    left, right, events = pair
    error = ValueError("enough")

    def give():
        if how == "raised":
            raise error
        return Failure(error) if "failure" in how else error

    left.answer = give
    reactor.addReader(left)
    reactor.addWriter(left)
    right.sock.send(b"x")
    await until(events, 2)
    await asyncio.sleep(0.01)
    assert [event[1] for event in events].count("lost") == 1
    assert events[-1] == ("left", "lost", error)
    assert (reactor.getReaders(), reactor.getWriters()) == ([], [])


async def test_nonsense_answer_ends_the_watch(reactor, pair):
    """Something that is neither None nor an exception says what was expected."""
    left, right, events = pair
    left.answer = 17
    reactor.addReader(left)
    right.sock.send(b"x")
    await until(events, 2)
    assert "answered 17" in str(events[-1][2])


async def test_closed_descriptor_ends_the_watch(reactor, pair):
    """An object that closed its descriptor while being watched is told so."""
    left, right, events = pair
    left.answer = left.sock.close
    reactor.addReader(left)
    right.sock.send(b"x")
    await until(events, 2)
    assert isinstance(events[-1][2], OSError)
    assert "Remove it from the reactor before closing it" in str(events[-1][2])


async def test_failing_goodbye_is_logged(reactor, pair, expect_errors):
    """An error in `connectionLost` is logged and disturbs nobody."""
    left, right, _ = pair
    left.answer = 17

    def fail(reason):
        raise ValueError("cannot even say goodbye")

    left.connectionLost = fail
    reactor.addReader(left)
    right.sock.send(b"x")
    async with asyncio.timeout(30):
        while not expect_errors:
            await asyncio.sleep(0)
    assert "cannot even say goodbye" in str(expect_errors[0].exc_info[1])


async def test_descriptor_has_one_watcher(reactor, pair):
    """A second object on a watched descriptor is refused, and a closed one."""
    left, _, events = pair
    reactor.addReader(left)
    with pytest.raises(ValueError, match="watched already, for <End left>"):
        reactor.addReader(End(left.sock, events, "impostor"))
    reactor.removeAll()
    left.sock.close()
    with pytest.raises(ValueError, match="it is closed"):
        reactor.addReader(left)


async def test_stale_watcher_makes_room(reactor, pair):
    """A descriptor's number used anew takes the place of one closed without a word."""
    left, _, events = pair
    reactor.addReader(left)
    number = left.fileno()
    left.sock.close()
    reading, writing = os.pipe()
    try:
        assert number in {reading, writing}
        sock = os.fdopen(number, "rb" if reading == number else "wb", closefd=False)
        with sock:
            fresh = End(sock, events, "fresh")
            reactor.addReader(fresh)
            assert reactor.getReaders() == [fresh]
            assert events[0][:2] == ("left", "lost")
            reactor.removeAll()
    finally:
        os.close(reading)
        os.close(writing)


def test_watched_before_and_until_the_end(reactor, pair):
    """Added before `run`, it is watched in it; at its end it hears of that."""
    left, right, events = pair
    right.sock.send(b"early")
    reactor.addReader(left)
    left.answer = reactor.stop
    reactor.run()
    assert events[0] == ("left", "read", b"early")
    assert events[1][:2] == ("left", "lost")
    assert isinstance(events[1][2], LoopClosed)
    assert reactor.getReaders() == []


def test_closed_before_run(reactor, pair):
    """What was added before `run` and closed since is told so; the others go on."""
    left, _, events = pair
    reactor.addReader(left)
    left.sock.close()
    reactor.callLater(0, reactor.stop)
    reactor.run()
    assert [event[:2] for event in events] == [("left", "lost")]


async def test_other_threads_are_sent_to_the_loop(reactor, pair):
    """`addReader` in a thread without a loop names the way."""
    left, _, _ = pair
    reactor.seconds()
    with pytest.raises(WrongThread, match=r"callFromThread\(reactor.addReader"):
        await asyncio.to_thread(reactor.addReader, left)


def test_foreign_loop_watches_its_own_way(reactor, pair):
    """Under a loop that is not asyncio's the reactor watches nothing, and says so."""
    left, _, _ = pair

    class Foreign:
        def post(self, function):
            pass

        def later(self, seconds, function):
            raise NotImplementedError

    home = loops.install(Foreign())
    try:
        with pytest.raises(NotImplementedError, match="its own way"):
            reactor.addReader(left)
    finally:
        home.close()

"""Twisted under the bridge. A reactor runs once, so each story has its own process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.internet import defer

from tests.threadpool.loops.twisted_programs import KINDS
from threadpool import home
from threadpool.defer import LATER, Deferred
from threadpool.failure import Failure
from threadpool.loops.twisted import asTwisted, fromTwisted

ROOT = Path(__file__).parents[3]

# Every warning is an error, but for two habits of Twisted's own.
WARNINGS = (
    "-Werror",
    "-Wignore:Using readBody with a transport:DeprecationWarning",
    "-Wignore:unclosed file <_io.TextIOWrapper name='/dev/null':ResourceWarning",
)

QUIET_END = {
    "closed": True,
    "home": False,
    "awaiters": 0,
    "posted": "refused",
    "threads": [],
    "loops": 0,
}


@pytest.fixture
def story(tmp_path):
    """Run a program to its end; return its result and what it logged."""

    def run(name, kind="plain"):
        program = "tests.threadpool.loops.twisted_programs"
        done = subprocess.run(
            [sys.executable, *WARNINGS, "-m", program, name, kind, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        told = json.loads(done.stdout)
        result, logged = told.pop("result"), told.pop("logged")
        assert told == QUIET_END
        return result, logged

    return run


# -- under a reactor ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pool(story, kind):
    """Queries, an interaction, a cancel and the end of a pool, under each reactor.

    No asyncio loop is made, other than the one the reactor itself may run on.
    """
    result, logged = story("queries", kind)
    assert result == [3, [["saw"]], "OperationalError", "CancelledError", 0]
    assert logged == []


@pytest.mark.parametrize("kind", ["plain", "asyncio"])
def test_coroutines_of_both_sides(story, kind):
    """Coroutines and generators of both sides wait for the Deferreds of the other."""
    result, logged = story("coroutines", kind)
    assert result == [3, 7, 11, 10, "KeyError('wrong')"]
    assert logged == []


@pytest.mark.parametrize("kind", ["plain", "asyncio"])
def test_cancel_stops_the_statement(story, kind):
    """Cancelling Twisted's Deferred stops the statement, and is told when it has."""
    answered_at_once, seen, opened = story("cancels", kind)[0]
    assert not answered_at_once
    assert seen == ["query", "coroutine", "task", [1]]
    assert opened == 1  # The connection stays in use.


def test_web_server(story):
    """A web server of Twisted's answers requests from the database."""
    result, logged = story("web")
    assert result == [[["saw"]], [["axe"], ["saw"], ["nail"]]]
    assert logged == []


def test_perspective_broker(story):
    """A remote method answers with rows, and with the database's error."""
    rows, wrong = story("broker")[0]
    assert rows == [[2, "saw"], [3, "nail"]]
    assert "nonsense" in wrong


@pytest.mark.parametrize("kind", KINDS)
def test_install_refuses(story, kind):
    """A second install, or one in another thread, says what is wrong."""
    (second, elsewhere), _ = story("refusals", kind)
    assert second.startswith("This thread has a loop already")
    assert "runs in another thread" in elsewhere


def test_unhandled_failures_are_visible(story):
    """A failure that nobody looked at is logged by the side it was left on."""
    _, logged = story("unhandled")
    ours, theirs = sorted(logged, key=lambda text: "theirs" in text)
    assert ours.startswith("Unhandled failure in Deferred")
    assert "ours" in ours
    assert theirs.endswith("no such column: theirs")


@pytest.mark.parametrize("kind", KINDS)
def test_shutdown(story, kind):
    """The end waits for farewells and for triggers; what is pending then fails."""
    seen, logged = story("shutdown", kind)
    assert sorted(map(str, seen[:2])) == ["[[7]]", "farewell"]
    assert seen[2:] == [[0, False], True]
    (told,) = logged  # Twisted's loop ends while a statement runs.
    assert "was closed before 1 of its jobs were done" in told


# -- from one side to the other, without a reactor -----------------------------------


def test_values_change_sides():
    """A value arrives, one that is there already and one that comes later."""
    seen = []
    ours = Deferred()
    asTwisted(ours).addCallback(seen.append)
    ours.callback(1)
    asTwisted(ours).addCallback(seen.append)
    assert ours.result() == 1  # It keeps its own.
    theirs = defer.Deferred()
    fromTwisted(theirs).addCallback(seen.append)
    theirs.callback(2)
    fromTwisted(defer.succeed(3)).addCallback(seen.append)
    assert seen == [1, 1, 2, 3]


def test_last_result_of_the_chain_arrives():
    """What arrives is what the chain ends with, after its callbacks have run."""
    seen = []
    inner = Deferred()
    ours = Deferred().addCallback(lambda _: inner).addCallback(str.upper)
    asTwisted(ours).addCallback(seen.append)
    ours.callback(None)
    assert seen == []
    inner.callback("end")
    assert seen == ["END"]


def broken():
    raise KeyError("broken")


def test_failures_keep_their_traceback():
    """A failure arrives as the same exception, with the traceback it had."""
    ours = Deferred().addCallback(lambda _: broken())
    there, back = [], []
    asTwisted(ours).addErrback(there.append)
    ours.callback(None)
    assert there[0].check(KeyError)
    assert "in broken" in there[0].getTraceback()
    fromTwisted(defer.fail(there[0])).addErrback(back.append)
    assert back[0].value is there[0].value
    assert "in broken" in back[0].getTraceback()


def test_cancelled_changes_its_class():
    """CancelledError is asyncio's on our side and Twisted's on theirs."""
    seen = []
    asTwisted(ours := Deferred()).addErrback(seen.append)
    ours.cancel("enough")
    assert seen.pop().check(defer.CancelledError)
    theirs = defer.Deferred()
    fromTwisted(theirs).addErrback(seen.append)
    theirs.cancel()
    assert seen.pop().type is asyncio.CancelledError


def test_cancel_goes_to_the_other_side():
    """Cancelling on one side cancels on the other."""
    seen = []
    asTwisted(ours := Deferred()).addErrback(seen.append).cancel()
    assert ours.cancelled()
    assert seen.pop().check(defer.CancelledError)
    cancelled = []
    theirs = defer.Deferred(cancelled.append)
    fromTwisted(theirs).addErrback(seen.append).cancel()
    assert cancelled == [theirs]
    assert seen.pop().type is asyncio.CancelledError


def test_cancel_may_be_answered_later():
    """What needs a moment to stop answers when it has, or with its value."""
    seen = []
    slow = Deferred(lambda _: LATER)
    theirs = asTwisted(slow)
    theirs.addBoth(seen.append)
    theirs.cancel()
    theirs.cancel()
    assert seen == []
    slow.callback("committed")
    assert seen == ["committed"]


def test_cancel_that_nobody_takes_is_answered():
    """A Deferred that cannot take a cancel leaves Twisted's cancelled all the same."""
    ours = Deferred()
    ours.pause()
    ours.callback(1)
    seen = []
    asTwisted(ours).addErrback(seen.append).cancel()
    assert seen.pop().check(defer.CancelledError)
    ours.unpause()  # Its late value goes nowhere.
    assert seen == []


def test_handled_failure_is_not_reported(expect_errors):
    """A failure handed over is Twisted's to report; ours is silent."""
    seen = []
    ours = Deferred()
    asTwisted(ours).addErrback(seen.append)
    ours.errback(Failure(ValueError("handed over")))
    del ours
    assert expect_errors == []
    assert seen[0].check(ValueError)


def test_conversion_needs_no_reactor():
    """Importing the adapter and changing sides installs no reactor, and no home."""
    asTwisted(Deferred())
    assert "twisted.internet.reactor" not in sys.modules
    assert home.hereOrNone() is None

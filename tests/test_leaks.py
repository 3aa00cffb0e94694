"""What a test leaves behind makes it fail; what it puts away does not."""

from __future__ import annotations

import _thread
import logging
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

from tests import leaks

ROOT = Path(__file__).parent.parent

CULPRITS = """
import asyncio, logging, socket, threading
from tests import conftest, leaks

leaks.PATIENCE_SECONDS = 0.2
conftest.ASYNC_TEST_SECONDS = 0.2
kept = []

def test_thread():
    event = threading.Event()
    kept.append(event)
    threading.Thread(target=event.wait, name="forgotten", daemon=True).start()

def test_socket():
    socket.socket().detach()

def test_error():
    logging.getLogger("threadpool.pool").error("nobody looked")

async def test_coroutine():
    asyncio.sleep(0)

def test_claimed(expect_errors):
    logging.getLogger("enterprise").error("somebody looked")
    assert [record.getMessage() for record in expect_errors] == ["somebody looked"]

async def test_innocent(loop_kind):
    await asyncio.to_thread(len, "")
    assert loop_kind == "asyncio"

async def test_for_ever():
    await asyncio.Event().wait()

async def test_failure():
    assert not await asyncio.sleep(0, "true")
"""


def test_culprits_are_found_and_named(tmp_path):
    """A test fails for what it leaves behind, and for awaiting what never comes."""
    path = tmp_path / "test_culprits.py"
    path.write_text(CULPRITS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rA", "-Werror"]
    options = ["-c", "/dev/null", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = re.findall(r"^(ERROR|FAILED) \S+::(\w+)", done.stdout, re.MULTILINE)
    assert sorted(found) == [
        ("ERROR", "test_error"),
        ("ERROR", "test_socket"),
        ("ERROR", "test_thread"),
        ("FAILED", "test_coroutine"),
        ("FAILED", "test_failure"),
        ("FAILED", "test_for_ever"),
    ], done.stdout + done.stderr
    assert "did not end within" in done.stdout
    assert "thread 'forgotten'" in done.stdout
    assert "-> socket:[" in done.stdout
    assert "ERROR of threadpool.pool: nobody looked" in done.stdout


def test_thread_below_the_threading_module_counts():
    """A thread that `threading` does not know of is a leak, too."""
    baseline = leaks.Baseline()
    release = _thread.allocate_lock()
    release.acquire()
    begun = threading.Event()
    _thread.start_new_thread(lambda: (begun.set(), release.acquire()), ())
    begun.wait()
    (found,) = baseline.leaks(patience=0.05)
    assert found.startswith("thread '?'")
    release.release()
    assert baseline.leaks() == []


def test_clock_thread_may_stay():
    """The process-wide clock is nobody's leak."""
    baseline = leaks.Baseline()
    event = threading.Event()
    name = leaks.PERMANENT_THREADS[0]
    thread = threading.Thread(target=event.wait, name=name)
    thread.start()
    assert baseline.leaks(patience=0) == []
    event.set()
    thread.join()


def test_what_is_permanent_is_forgiven():
    """What is opened inside of `permanent` may stay; what comes after may not."""
    baseline = leaks.Baseline()
    with leaks.permanent():
        forgiven = socket.socket()
    with socket.socket() as leaked:
        (found,) = baseline.leaks(patience=0)
        assert found.startswith(f"descriptor {leaked.fileno()} ->")
    assert baseline.leaks(patience=0) == []
    forgiven.close()


def test_garbage_is_no_leak():
    """A descriptor held only by a cycle of garbage is collected, not reported."""
    baseline = leaks.Baseline()
    left, right = socket.socketpair()
    cycle = [left.detach(), right]
    cycle.append(cycle)
    with socket.socket(fileno=cycle[0]):
        right.close()
    del cycle
    assert baseline.leaks() == []


def test_records_let_go_of_their_frames(logged_errors, expect_errors):
    """A logged traceback is kept as text, so that it keeps nothing else alive."""
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("threadable").exception("caught")
    logged_errors.forget()
    (record,) = expect_errors
    assert record.exc_info is None
    assert "KeyError: 'lost'" in record.exc_text

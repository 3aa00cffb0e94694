"""What the tests of the ground floor share: a switch set back, threads that report."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref

import pytest

from threadable import _switch, _synchronize

PATIENCE = 20.0  # seconds; only a test that fails waits so long


class Report(threading.Thread):
    """A thread whose result or exception the test asks for."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self._function = function
        self._args = args
        self._value = None
        self._error = None
        self.start()

    def run(self):
        try:
            self._value = self._function(*self._args)
        except BaseException as error:
            self._error = error

    def result(self):
        self.join(PATIENCE)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._value


@pytest.fixture(autouse=True)
def switch(monkeypatch):
    """Each test begins undecided, and what it decides is forgotten after it."""
    monkeypatch.setattr(_switch, "_threaded", None)
    monkeypatch.setattr(_switch, "_decided_by", "")
    monkeypatch.setattr(_switch, "_waiting", [_synchronize._lock_waiting])
    monkeypatch.setattr(_switch, "_pools", weakref.WeakKeyDictionary())
    monkeypatch.setattr(_switch, "_io_threads", {})
    monkeypatch.setattr(_switch, "_here", _switch._Here())
    monkeypatch.setattr(_synchronize, "_waiting", weakref.WeakSet())
    return _switch


@pytest.fixture
def in_thread():
    """Start a function in a thread; ask what comes back for its result()."""
    return Report


@pytest.fixture
def run_python(tmp_path):
    """Run a program in a fresh interpreter; give what it prints."""

    def run(program, *args, **environment):
        path = tmp_path / "program.py"
        path.write_text(program)
        # The interpreter's own path, so that this checkout is found.
        env = {"PYTHONPATH": ":".join(p for p in sys.path if p), **environment}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(path), *args],
            capture_output=True,
            text=True,
            env=env,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run

"""Fixtures of the adapters' tests."""

from __future__ import annotations

import signal

import pytest

from tests.threadpool.loops.helpers import loops_made

DEADLINE_SECONDS = 60


@pytest.fixture(autouse=True)
def deadline():
    """End a test whose loop never ends."""

    def too_late(*_):
        raise TimeoutError(f"The test did not end within {DEADLINE_SECONDS} s.")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(DEADLINE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def no_asyncio():
    """Fail the test if anybody makes an asyncio loop."""
    with loops_made() as made:
        yield
    assert made == []


@pytest.fixture
def url(tmp_path):
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'test.db'}"

"""What these tests get: a table, a scripted driver, an endless statement."""

from __future__ import annotations

import pytest

from enterprise.drivers import _durations, _pipeline, _round
from tests.enterprise.helpers import Endless, item_table
from tests.scripted import Scripted


@pytest.fixture
def shop(database):
    """A database of each kind, with a table of two items."""
    item_table(database)
    return database


@pytest.fixture
def script():
    """A scripted driver, all of whose gates open after the test."""
    driver = Scripted()
    yield driver
    driver.release()
    assert driver.trespasses == []


@pytest.fixture
def endless(database):
    """A statement that ends only when it is stopped."""
    return Endless(database)


@pytest.fixture
def sizes(monkeypatch):
    """How many statements each pipeline had; none of them is ever thought slow."""
    seen = []
    usual = _round.Round._send

    def send(self, jobs):
        seen.append(len(jobs))
        usual(self, jobs)

    monkeypatch.setattr(_round.Round, "_send", send)
    # This machine may stand still for a moment, with no fault of any statement's.
    monkeypatch.setattr(_durations.Durations, "slow", lambda self, seconds: False)
    monkeypatch.setattr(_pipeline, "PATIENCE_SECONDS", 60)
    return seen

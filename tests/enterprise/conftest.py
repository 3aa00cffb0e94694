"""What these tests get: a table, a scripted driver, an endless statement."""

from __future__ import annotations

import pytest

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

"""What these tests get: drivers that are there, for importing one stalls a loop."""

from __future__ import annotations

import pytest

from enterprise import ConnectionPool


@pytest.fixture(scope="session", autouse=True)
def imported():
    """Import what the first pool of each kind imports."""
    ConnectionPool("sqlite://")
    ConnectionPool("postgresql://nobody@localhost/nothing")

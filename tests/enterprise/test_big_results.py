"""Big results are fetched in pieces, so that the event loop runs in between."""

from __future__ import annotations

import threading

import pytest

from enterprise import ConnectionPool
from enterprise.drivers import _fetch

ROWS = 20_000
MANY = (
    f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {ROWS}) "
    "select i, 'text ' || i from n"
)


class Cursor:
    """A cursor of so many rows, each of which takes so many seconds."""

    def __init__(self, rows, seconds):
        self.left = rows
        self.seconds = seconds
        self.now = 0.0
        self.sizes = []
        self.spans = []

    def fetchmany(self, size):
        count = min(size, self.left)
        self.left -= count
        self.now += count * self.seconds
        self.sizes.append(size)
        self.spans.append(count * self.seconds)
        return [(0,)] * count


class Never:
    """What the pieces pause at."""

    def __init__(self, note):
        self.note = note

    def acquire(self, timeout):
        self.note(timeout)


@pytest.fixture
def naps(monkeypatch):
    """How often the fetching has paused, with the cursor's clock in `naps.clock`."""

    class Naps(list):
        clock = None

    found = Naps()
    monkeypatch.setattr(_fetch.time, "thread_time", lambda: found.clock())
    monkeypatch.setattr(_fetch, "_never", Never(found.append))
    return found


def test_pieces_by_time(naps):
    """After the first piece each takes about a millisecond, with a pause after it."""
    cursor = Cursor(100_000, 2e-6)
    naps.clock = lambda: cursor.now
    assert len(_fetch.inPieces(cursor, [])) == 100_000
    assert max(cursor.spans) <= 1.1 * _fetch.PIECE_SECONDS
    assert 180 <= len(naps) <= 220
    assert set(naps) == {_fetch.NAP_SECONDS}


def test_slow_rows(naps):
    """Rows that take long each come in small pieces; the first one is bounded, too."""
    cursor = Cursor(2_000, 1e-4)
    naps.clock = lambda: cursor.now
    assert len(_fetch.inPieces(cursor, [])) == 2_000
    assert cursor.sizes[0] == _fetch.MANY
    assert set(cursor.sizes[1:]) == {_fetch.LEAST}


def test_coarse_clock(naps):
    """A clock that stands still does not let pieces grow without bound."""
    cursor = Cursor(100_000, 0)
    naps.clock = lambda: 0.0
    assert len(_fetch.inPieces(cursor, [])) == 100_000
    assert max(cursor.sizes) == _fetch.MOST
    assert len(naps) >= 19


def test_small_results_do_not_pause(naps):
    """A result that is fetched in less than a millisecond costs no pause."""
    cursor = Cursor(300, 1e-6)
    naps.clock = lambda: cursor.now
    assert len(_fetch.inPieces(cursor, [])) == 300
    assert naps == []


@pytest.mark.parametrize("rows", [0, 1, 249, 250, 251, 500, 501])
def test_no_row_is_lost(rows):
    """Whatever their number, all rows are there, after those fetched before."""
    assert len(_fetch.inPieces(Cursor(rows, 0), [(7,)])) == rows + 1


@pytest.mark.parametrize("verb", ["query", "result", "lease"])
async def test_all_rows(database, verb):
    """Every way to a big result gives all of it, in order, as a list of tuples."""
    async with ConnectionPool(database.url, cp_max=2) as pool:
        if verb == "query":
            rows = await pool.runQuery(MANY)
        elif verb == "result":
            rows = (await pool.runResult(MANY)).rows
        else:
            async with pool.transaction() as txn:
                rows = await txn.runQuery(MANY)
        assert rows == [(i + 1, f"text {i + 1}") for i in range(ROWS)]


async def test_pauses_for_others(database, monkeypatch):
    """A big result pauses in its worker's thread; a small one never does."""
    seen = []

    def note(seconds):
        seen.append(threading.current_thread())

    async with ConnectionPool(database.url, cp_max=2) as pool:
        await pool.runQuery("select 1")
        with monkeypatch.context() as patched:
            patched.setattr(_fetch, "_never", Never(note))
            await pool.runQuery("select 1")
            assert seen == []
            await pool.runQuery(MANY)
        assert seen
        assert threading.main_thread() not in seen

"""Functions that are no good as an interaction, and how they are refused."""

from __future__ import annotations

import functools

import pytest

from enterprise import ConnectionPool
from tests.enterprise.helpers import names


class AsyncCallable:
    async def __call__(self, txn):
        raise AssertionError


async def coroutine_function(txn):
    raise AssertionError


async def async_generator(txn):
    raise AssertionError
    yield


def generator(txn):
    raise AssertionError
    yield


class Holder:
    async def method(self, txn):
        raise AssertionError


@pytest.mark.parametrize(
    "function",
    [
        coroutine_function,
        async_generator,
        generator,
        AsyncCallable(),
        Holder().method,
        functools.partial(coroutine_function),
        functools.partial(functools.partial(generator)),
        functools.partial(AsyncCallable()),
        functools.partial(Holder().method),
        "no function at all",
    ],
)
@pytest.mark.parametrize("way", ["runInteraction", "runWithConnection"])
async def test_async_functions_are_refused(shop, function, way):
    """What would work after its transaction is refused before anything runs."""
    pool = ConnectionPool(shop.url)
    with pytest.raises(TypeError, match="Pass a"):
        getattr(pool, way)(function)
    assert pool.stats().submitted == 0
    assert "not started" in repr(pool)


async def test_our_keyword_as_parameter(shop):
    """A function with a parameter named as one of ours is refused; partial helps."""

    def mine(txn, readonly):
        return readonly

    async with ConnectionPool(shop.url) as pool:
        with pytest.raises(TypeError, match=r"functools\.partial"):
            pool.runInteraction(mine, readonly=True)
        assert await pool.runInteraction(functools.partial(mine, readonly=7)) == 7
        assert await pool.runWithConnection(mine, readonly=8) == 8


async def hidden(txn):
    txn.execute("never")


@pytest.mark.parametrize(
    "make",
    [
        hidden,
        lambda txn: async_generator(txn),
        lambda txn: _Awaitable(),
    ],
    ids=["coroutine", "async generator", "awaitable"],
)
async def test_returning_an_awaitable(shop, make):
    """A function that returns an awaitable fails with TypeError and is rolled back."""

    def work(txn):
        txn.execute("delete from item")
        return make(txn)

    async with ConnectionPool(shop.url, cp_max=1) as pool:
        with pytest.raises(TypeError, match="rolled back"):
            await pool.runInteraction(work)
        assert names(shop) == ["hammer", "saw"]
        assert await pool.runQuery("select 1") == [(1,)]


class _Awaitable:
    def __await__(self):
        raise AssertionError

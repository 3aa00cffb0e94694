"""A Deferred with ten callbacks, made and fired, beside Twisted's."""

from __future__ import annotations

from contextlib import nullcontext
from time import perf_counter

CALLBACKS = 10
ROUND = 200


def stage():
    return nullcontext("")


def threadbridge(load):
    from threadpool.defer import Deferred

    return rate(load, Deferred)


def twisted(load):
    from twisted.internet.defer import Deferred

    return rate(load, Deferred)


def step(number):
    return number + 1


def rate(load, make):
    """Chains per second."""
    some(make)
    done, start = 0, perf_counter()
    while perf_counter() < start + load.seconds:
        some(make)
        done += ROUND
    return done / (perf_counter() - start)


def some(make):
    for _ in range(ROUND):
        deferred = make()
        for _ in range(CALLBACKS):
            deferred.addCallback(step)
        deferred.callback(0)

"""Many Deferreds as one: DeferredList, gatherResults, race."""

from __future__ import annotations

import asyncio
import gc
import pickle
import weakref

import pytest

from threadpool.combine import (
    DeferredList,
    FailureGroup,
    FirstError,
    gatherResults,
    race,
)
from threadpool.defer import (
    LATER,
    CancelledError,
    Deferred,
    Failure,
    ensureDeferred,
    fail,
    flushUnhandled,
    succeed,
)

MANY = 10_000


def swallow(failure):
    """Handle a failure so that nobody reports it."""


def failure_of(deferred):
    """The Failure that *deferred* came to, handled."""
    seen = []
    deferred.addErrback(seen.append)
    return seen[0]


def some(number):
    return [Deferred() for _ in range(number)]


async def raising(error):
    await asyncio.sleep(0)
    raise error


async def giving(value):
    await asyncio.sleep(0)
    return value


EACH = pytest.mark.parametrize("combine", [DeferredList, gatherResults, race])


# -- DeferredList ------------------------------------------------------------------


def test_list_fires_when_all_have_fired():
    """A DeferredList fires with (True, value) and (False, failure), in their order."""
    members = some(3)
    everything = DeferredList(members)
    members[2].callback("c")
    members[0].callback("a")
    assert not everything.called
    error = KeyError("b")
    members[1].errback(error)
    members[1].addErrback(swallow)
    (first, (succeeded, failure), third) = everything.result()
    assert (first, third) == ((True, "a"), (True, "c"))
    assert succeeded is False
    assert failure.value is error


def test_list_of_fired_members_fires_at_once():
    """Members that have their results already make a list that has fired."""
    assert DeferredList([succeed(1), succeed(2)]).result() == [(True, 1), (True, 2)]


@pytest.mark.parametrize("on_callback", [False, True])
@pytest.mark.parametrize("on_errback", [False, True])
def test_empty_list_fires_at_once(on_callback, on_errback):
    """Of no Deferreds all have fired, and none has succeeded: an empty list, now."""
    assert DeferredList([], on_callback, on_errback).result() == []


def test_list_takes_any_iterable():
    """The Deferreds may come from a generator."""
    assert DeferredList(succeed(i) for i in range(2)).result() == [(True, 0), (True, 1)]


def test_fire_on_one_callback():
    """fire_on_one_callback: the first success fires it with (value, index)."""
    members = some(3)
    first = DeferredList(members, fire_on_one_callback=True)
    members[0].errback(KeyError())
    assert not first.called
    members[2].callback("c")
    assert first.result() == ("c", 2)
    members[1].callback("too late")
    assert first.result() == ("c", 2)
    assert members[1].result() == "too late"
    members[0].addErrback(swallow)


def test_fire_on_one_callback_when_none_succeeds():
    """fire_on_one_callback: when all have failed, it fires with the list of them."""
    members = some(2)
    first = DeferredList(members, fire_on_one_callback=True, consume_errors=True)
    members[0].errback(KeyError())
    members[1].errback(ValueError())
    assert [(ok, f.type) for ok, f in first.result()] == [
        (False, KeyError),
        (False, ValueError),
    ]


def test_fire_on_one_errback():
    """fire_on_one_errback: the first failure fails it with FirstError."""
    members = some(3)
    everything = DeferredList(members, fire_on_one_errback=True)
    members[0].callback("a")
    assert not everything.called
    error = KeyError("b")
    members[1].errback(error)
    first = failure_of(everything).value
    assert isinstance(first, FirstError)
    assert first.index == 1
    assert first.subFailure.value is error
    assert first.__cause__ is error
    members[1].addErrback(swallow)
    members[2].errback(ValueError())
    members[2].addErrback(swallow)


def test_flags_come_in_the_old_order():
    """The flags may be given by position: on callback, on errback, consume errors."""
    members = some(2)
    everything = DeferredList(members, False, True, True)
    members[0].errback(KeyError())
    assert failure_of(everything).check(FirstError)
    assert members[0].result() is None
    assert DeferredList([succeed(3)], True).result() == (3, 0)


def test_first_error_says_what_happened():
    """FirstError names the Deferred and its failure, and survives pickling."""
    error = FirstError(Failure(KeyError("b")), 4)
    assert str(error).startswith("Deferred 4 failed with KeyError: 'b', and")
    again = pickle.loads(pickle.dumps(error))
    assert (again.index, str(again)) == (4, str(error))
    assert isinstance(again.__cause__, KeyError)


def test_members_keep_their_results():
    """Each member goes on with its own result, failures included."""
    seen = []
    members = some(2)
    everything = DeferredList(members)
    members[0].addCallback(seen.append)
    members[1].addErrback(lambda failure: seen.append(failure.type))
    members[0].callback("a")
    members[1].errback(KeyError())
    assert seen == ["a", KeyError]
    assert everything.result()[0] == (True, "a")


def test_list_sees_what_the_chain_gave_before_it():
    """Of a member's chain the list sees the part before it, and waits for that."""
    inner = Deferred()
    member = succeed(1).addCallback(lambda _: inner)
    everything = DeferredList([member])
    member.addCallback(lambda _: "later")
    assert not everything.called
    inner.callback("inner")
    assert everything.result() == [(True, "inner")]
    assert member.result() == "later"


def test_consume_errors():
    """consume_errors leaves None in a failed member, and nobody reports it."""
    members = some(2)
    everything = DeferredList(members, consume_errors=True)
    members[0].errback(KeyError())
    members[1].callback(3)
    assert members[0].result() is None
    assert members[1].result() == 3
    assert everything.result()[0][1].check(KeyError)


def test_errors_not_consumed_are_reported(expect_errors):
    """Without consume_errors a member's failure still wants somebody to handle it."""
    DeferredList([fail(KeyError("mine"))])
    gc.collect()
    assert ["mine" in record.getMessage() for record in expect_errors] == [True]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("how", ["await", "callback", "result", "chain"])
def test_failures_that_were_handed_on(how, early):
    """A failure in the list that somebody receives is not reported once more."""
    members = some(2)

    def fire():
        members[0].errback(KeyError("handed on"))
        members[1].callback(1)

    if early:
        fire()
    everything = DeferredList(members)
    received = []

    async def wait():
        received.append(await everything)

    if how == "await":
        ensureDeferred(wait())
    elif how == "callback":
        everything.addCallback(received.append)
    elif how == "chain":
        succeed(0).addCallback(lambda _: everything).addCallback(received.append)
    if not early:
        fire()
    if how == "result":
        received.append(everything.result())
    assert received[0][0][1].check(KeyError)
    assert flushUnhandled() == []


@pytest.mark.parametrize("early", [True, False])
def test_failure_in_a_first_error(early):
    """A failure that a FirstError hands on is not reported beside it."""
    member = Deferred()
    if early:
        member.errback(KeyError("handed on"))
    everything = gatherResults([Deferred(), member])
    if not early:
        member.errback(KeyError("handed on"))
    seen = []
    everything.addErrback(seen.append)
    assert seen[0].value.subFailure.check(KeyError)
    assert flushUnhandled() == []


def test_unhandled_first_error_is_reported_once(expect_errors):
    """Where nobody handles the FirstError, it alone is reported."""
    DeferredList([fail(KeyError("mine"))], fire_on_one_errback=True)
    gc.collect()
    assert ["FirstError" in record.getMessage() for record in expect_errors] == [True]


def test_failures_after_the_first_are_reported(expect_errors):
    """What fails when the FirstError is out already was handed on to nobody."""
    members = some(2)
    everything = gatherResults(members)
    members[0].errback(KeyError("first"))
    members[1].errback(KeyError("second"))
    everything.addErrback(lambda _: None)
    members.clear()
    gc.collect()
    assert ["second" in record.getMessage() for record in expect_errors] == [True]


def test_another_failure_of_a_member_is_its_own(expect_errors):
    """What a member's later callback raises is reported: nobody was handed that."""
    member = fail(KeyError("handed on"))
    everything = DeferredList([member])
    everything.addCallback(lambda _: None)
    member.addErrback(lambda _: {}["of its own"])
    del member, everything
    gc.collect()
    assert ["of its own" in record.getMessage() for record in expect_errors] == [True]


def test_a_member_twice():
    """A Deferred that is a member twice gives its result twice, errors included."""
    good, bad = succeed(1), fail(KeyError())
    everything = DeferredList([good, bad, good, bad], consume_errors=True)
    results = everything.result()
    assert results[0] == results[2] == (True, 1)
    assert results[1] == results[3]
    assert results[1][1].check(KeyError)


def test_many_members():
    """A list of ten thousand members is no different from one of two."""
    members = some(MANY)
    everything = gatherResults(members)
    for number, member in enumerate(members):
        member.callback(number)
    assert everything.result() == list(range(MANY))


# -- what can be a member ----------------------------------------------------------


async def test_coroutines_and_futures_are_members():
    """Coroutines are started at once, futures and tasks are waited for."""
    started = []

    async def noting():
        started.append("coroutine")
        return await giving("a")

    future = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(giving("c"))
    everything = gatherResults([noting(), future, task, succeed("d")])
    assert started == ["coroutine"]
    future.set_result("b")
    assert await everything == ["a", "b", "c", "d"]


async def test_failures_of_coroutines_are_consumed():
    """A coroutine's failure is reported in the list and nowhere else."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(KeyError("future"))
    results = await DeferredList([raising(ValueError("coroutine")), future])
    assert [failure.type for _, failure in results] == [ValueError, KeyError]
    del results, future
    gc.collect()


async def test_a_coroutine_twice():
    """A coroutine that is a member twice runs once."""
    coroutine = giving(1)
    assert await gatherResults([coroutine, coroutine]) == [1, 1]


@EACH
def test_what_cannot_be_awaited_is_refused(combine):
    """What cannot be waited for is named, and no coroutine beside it was started."""
    started = []

    async def start():
        started.append(1)

    with pytest.raises(TypeError, match=r"3 at place 1 cannot be waited for.*succeed"):
        combine([start(), 3])
    assert not started


@EACH
@pytest.mark.parametrize("fired", [True, False])
def test_one_alone_is_refused(combine, fired):
    """A Deferred in the place of the list is refused, fired or not."""
    with pytest.raises(TypeError, match="Put it in a list"):
        combine(succeed(1) if fired else Deferred())


# -- gatherResults -----------------------------------------------------------------


def test_gather_gives_the_values():
    """`gatherResults` fires with the list of values, in the order of the Deferreds."""
    members = some(2)
    gathered = gatherResults(members)
    members[1].callback("b")
    members[0].callback("a")
    assert gathered.result() == ["a", "b"]


def test_gather_of_nothing():
    """`gatherResults` of no Deferreds fires at once with an empty list."""
    assert gatherResults([]).result() == []


def test_gather_fails_with_the_first_error():
    """`gatherResults` fails with FirstError as soon as one fails."""
    members = some(3)
    gathered = gatherResults(members, True)
    members[2].errback(KeyError("c"))
    error = failure_of(gathered).value
    assert (type(error), error.index) == (FirstError, 2)
    assert members[2].result() is None
    members[0].errback(ValueError())  # Consumed, too, though nobody listens any more.
    assert members[0].result() is None
    keeping = some(1)
    gathered = gatherResults(keeping)
    keeping[0].errback(KeyError("mine"))
    assert failure_of(gathered).check(FirstError)
    assert failure_of(keeping[0]).check(KeyError)


async def test_gather_is_awaited():
    """A task that awaits gatherResults gets the values, or FirstError raised."""
    assert await gatherResults([giving(1), giving(2)]) == [1, 2]
    with pytest.raises(FirstError) as caught:
        await gatherResults([giving(1), raising(KeyError("b"))])
    assert caught.value.index == 1


def test_gather_in_a_coroutine_without_a_loop():
    """Our own coroutines await it where there is no event loop at all."""
    members = some(2)

    async def add():
        return sum(await gatherResults(members))

    total = ensureDeferred(add())
    members[0].callback(1)
    members[1].callback(2)
    assert total.result() == 3


# -- cancelling --------------------------------------------------------------------


@EACH
def test_cancel_reaches_every_member(combine):
    """Cancelling cancels every member, and fails with CancelledError and the text."""
    asked = []
    members = [Deferred(asked.append) for _ in range(3)]
    combined = combine(members)
    assert combined.cancel("enough")
    assert asked == members
    error = failure_of(combined).value
    assert isinstance(error, CancelledError)
    assert error.args == ("enough",)
    for member in members:
        member.addErrback(swallow)


@pytest.mark.parametrize("combine", [DeferredList, gatherResults])
def test_cancel_waits_for_members_that_answer_later(combine):
    """Cancelled, it fails when its last member has really stopped, not before."""
    members = [Deferred(lambda _: LATER) for _ in range(3)]
    combined = combine(members, consume_errors=True)
    assert combined.cancel()
    members[0].errback(KeyError("instead"))
    members[1].errback(CancelledError())
    assert not combined.called
    members[2].callback("committed")
    assert failure_of(combined).check(CancelledError)
    assert members[2].result() == "committed"


@EACH
def test_members_get_the_message(combine):
    """The message of the cancel is each member's, too."""
    seen = []
    member = Deferred(lambda asked: seen.append(asked._cancel_message))
    combined = combine([member])
    combined.cancel("enough")
    assert seen == ["enough"]
    assert failure_of(combined).check(CancelledError)
    member.addErrback(swallow)


@EACH
def test_members_are_let_go(combine):
    """What has fired keeps none of its members alive."""
    members = [Deferred(), succeed(1)]
    references = [weakref.ref(member) for member in members]
    combined = combine(members)
    if not members[0].called:
        members[0].callback(0)
    assert combined.called
    del members
    assert [reference() for reference in references] == [None, None]


@EACH
def test_cancel_that_came_too_late_is_answered_with_the_results(combine):
    """When all members succeed although they were cancelled, their values are told."""
    member = Deferred(lambda _: LATER)
    combined = combine([member])
    assert combined.cancel()
    member.callback("committed")
    expected = {
        DeferredList: [(True, "committed")],
        gatherResults: ["committed"],
        race: (0, "committed"),
    }
    assert combined.result() == expected[combine]


@EACH
async def test_late_cancel_is_not_swallowed(combine):
    """The task whose cancel came too late gets the values, and is cancelled next."""
    member = Deferred(lambda _: LATER)
    steps = []

    async def work():
        steps.append(await combine([member]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        steps.append("not cancelled")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert task.cancel("now")
    member.callback("committed")
    with pytest.raises(CancelledError, match="now"):
        await task
    assert len(steps) == 1


def test_canceller_that_raises_is_logged(expect_errors):
    """A canceller that raises is logged, and the other members are still cancelled."""

    def broken(_):
        raise RuntimeError("no brakes")

    members = [Deferred(broken), Deferred()]
    everything = DeferredList(members, consume_errors=True)
    everything.cancel()
    assert failure_of(everything).check(CancelledError)
    assert members[1].result() is None
    assert [str(record.exc_info[1]) for record in expect_errors] == ["no brakes"]


def test_cancel_with_an_error_of_the_canceller():
    """A member whose canceller fails it with its own error is an ordinary failure."""
    member = Deferred(lambda d: d.errback(KeyError("stopped")))
    everything = DeferredList([member], consume_errors=True)
    everything.cancel()
    assert everything.result()[0][1].check(KeyError)
    members = [
        Deferred(lambda d: d.errback(KeyError("stopped"))),
        Deferred(lambda d: d.errback(ValueError("stopped"))),
    ]
    gathered = gatherResults(members, consume_errors=True)
    gathered.cancel()
    assert failure_of(gathered).value.subFailure.check(KeyError)


@pytest.mark.parametrize("combine", [DeferredList, gatherResults])
def test_cancel_after_it_fired_reaches_the_inner_deferred(combine):
    """A list that has fired and waits for a callback's Deferred cancels that one."""
    inner = Deferred()
    combined = combine([succeed(1)])
    combined.addCallback(lambda _: inner)
    assert combined.called
    assert combined.cancel()
    assert failure_of(combined).check(CancelledError)
    assert inner.called


@EACH
def test_cancel_after_the_end_does_nothing(combine):
    """Cancelling what is done says False; members that still wait are left alone."""
    assert not combine([succeed(1)]).cancel()
    waiting = Deferred()
    first = DeferredList([succeed(1), waiting], fire_on_one_callback=True)
    assert not first.cancel()
    assert not waiting.called


def test_member_cancelled_by_others_is_a_failure():
    """A member that somebody else cancelled is one failure among the results."""
    members = some(2)
    everything = DeferredList(members, consume_errors=True)
    members[0].cancel()
    assert not everything.called
    members[1].callback(2)
    assert everything.result()[0][1].check(CancelledError)
    alone = Deferred()
    gathered = gatherResults([alone], consume_errors=True)
    alone.cancel()
    assert failure_of(gathered).check(FirstError)


@EACH
async def test_timeout_stops_members(combine):
    """asyncio.timeout around it cancels the members and ends in TimeoutError."""
    future = asyncio.get_running_loop().create_future()
    plain = Deferred()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await combine([plain, future])
    assert plain.called
    assert future.cancelled()


@EACH
async def test_task_cancel_stops_members(combine):
    """Cancelling the task that awaits it cancels the members, and the task."""
    future = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(combine([future]).asCoroutine())
    await asyncio.sleep(0)
    task.cancel("why")
    with pytest.raises(CancelledError):
        await task
    assert future.cancelled()


# -- race --------------------------------------------------------------------------


def test_race_is_won_by_the_first_success():
    """`race` fires with (index, value) of the first that succeeds."""
    members = some(3)
    winner = race(members)
    members[0].errback(KeyError())
    assert not winner.called
    members[2].callback("c")
    assert winner.result() == (2, "c")


def test_losers_are_cancelled():
    """The others are cancelled, and what becomes of them is nobody's concern."""
    asked = []
    losers = [Deferred(asked.append), Deferred(asked.append)]
    winner = Deferred()
    result = race([losers[0], winner, losers[1]])
    winner.callback(1)
    assert result.result() == (1, 1)
    assert asked == losers
    assert [loser.result() for loser in losers] == [None, None]


def test_loser_that_succeeds_meanwhile_keeps_its_value():
    """A loser that could not be stopped changes nothing, and keeps its value."""
    at_once = Deferred(lambda d: d.callback("at once"))
    later = Deferred(lambda _: LATER)
    winner = Deferred()
    result = race([at_once, winner, later])
    winner.callback("winner")
    later.callback("later")
    assert result.result() == (1, "winner")
    assert (at_once.result(), later.result()) == ("at once", "later")


def test_race_that_is_over_before_it_starts():
    """Of several that have fired the first one wins; those that wait are cancelled."""
    waiting = Deferred()
    assert race([fail(KeyError()), waiting, succeed("b"), succeed("c")]).result() == (
        2,
        "b",
    )
    assert waiting.result() is None


def test_race_without_a_winner():
    """When none succeeds, race fails with all failures, in the order of the members."""
    members = some(3)
    winner = race(members)
    members[2].errback(KeyError("c"))
    members[0].errback(ValueError("a"))
    members[1].errback(CancelledError())
    group = failure_of(winner).value
    assert isinstance(group, FailureGroup)
    assert [f.type for f in group.failures] == [ValueError, CancelledError, KeyError]
    assert str(group).startswith("None of 3 Deferreds succeeded, so")
    assert "0: ValueError: a; 1: CancelledError; 2: KeyError: 'c'" in str(group)
    assert [member.result() for member in members] == [None] * 3


def test_the_same_loser_twice():
    """A member that is there twice fails twice."""
    member = Deferred()
    winner = race([member, member])
    member.errback(KeyError())
    assert len(failure_of(winner).value.failures) == 2


def test_failure_group_is_an_exception_group():
    """`except*` picks from a FailureGroup; what is no Exception has a stand-in."""
    seen = []
    group = FailureGroup([Failure(KeyError("a")), Failure(CancelledError("b"))])
    try:
        raise group
    except* KeyError as some:
        seen.append([type(e) for e in some.exceptions])
    except* RuntimeError as rest:
        stand_in = rest.exceptions[0]
        seen.append(type(stand_in.__cause__))
        assert str(stand_in).startswith("Deferred 1 ended with CancelledError: b, ")
    assert seen == [[KeyError], CancelledError]
    again = pickle.loads(pickle.dumps(group))
    assert str(again) == str(group)
    assert [failure.type for failure in again.failures] == [KeyError, CancelledError]


def test_long_failure_group_is_cut_short():
    """The text of a FailureGroup names five failures and counts the others."""
    group = FailureGroup([Failure(KeyError(i)) for i in range(8)])
    assert "4: KeyError: 4; and 3 more" in str(group)
    assert "KeyError: 5" not in str(group)
    assert len(group.failures) == 8


def test_race_of_nobody_is_refused():
    """A race without members would never end, and is refused."""
    with pytest.raises(ValueError, match="at least one"):
        race([])


async def test_race_is_awaited():
    """Coroutines race each other; the slower one is cancelled where it waits."""
    ended = []

    async def slow():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    assert await race([slow(), giving("quick")]) == (1, "quick")
    assert ended == ["slow"]
    with pytest.raises(FailureGroup):
        await race([raising(KeyError()), raising(ValueError())])

"""A lock, a semaphore and a queue whose waiting is a Deferred."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadpool.combine import (
    DeferredLock,
    DeferredQueue,
    DeferredSemaphore,
    QueueOverflow,
    QueueUnderflow,
    gatherResults,
)
from threadpool.defer import (
    CancelledError,
    Deferred,
    Failure,
    ensureDeferred,
    inlineCallbacks,
    succeed,
)

MANY = 10_000
variable = contextvars.ContextVar("variable", default="nobody")

TOKENS = pytest.mark.parametrize(
    "make", [DeferredLock, lambda: DeferredSemaphore(1)], ids=["lock", "semaphore"]
)


def failure_of(deferred):
    """The Failure that *deferred* came to, handled."""
    seen = []
    deferred.addErrback(seen.append)
    return seen[0]


async def turns(number=5):
    for _ in range(number):
        await asyncio.sleep(0)


# -- what lock and semaphore have in common ----------------------------------------


@TOKENS
def test_acquire_fires_with_the_lock(make):
    """A free one is acquired at once; the Deferred's value is the thing itself."""
    tokens = make()
    assert tokens.acquire().result() is tokens


@TOKENS
def test_first_come_first_served(make):
    """Who waits gets it in the order of asking, each when the one before releases."""
    tokens = make()
    order = []
    for name in "abc":
        tokens.acquire().addCallback(lambda _, name=name: order.append(name))
    assert order == ["a"]
    tokens.release()
    assert order == ["a", "b"]
    tokens.release()
    tokens.release()
    assert order == ["a", "b", "c"]


@TOKENS
def test_cancelled_waiter_leaves_the_line(make):
    """A waiter that is cancelled fails with CancelledError, and nothing goes to it."""
    tokens = make()
    tokens.acquire()
    second, third = tokens.acquire(), tokens.acquire()
    assert tokens.waiting == [second, third]
    assert second.cancel("enough")
    assert failure_of(second).value.args == ("enough",)
    assert tokens.waiting == [third]
    tokens.release()
    assert third.result() is tokens


@TOKENS
def test_release_of_what_is_not_held_is_refused(make):
    """Releasing more often than acquiring is refused, and changes nothing."""
    tokens = make()
    with pytest.raises(RuntimeError, match=r"of which nothing is lent.*once for each"):
        tokens.release()
    tokens.acquire().result()
    tokens.release()
    with pytest.raises(RuntimeError):
        tokens.release()
    assert tokens.acquire().called
    assert not tokens.acquire().called


@TOKENS
def test_releasing_ten_thousand_waiters_does_not_nest(make):
    """Ten thousand waiters that each release at once are served without nesting."""
    tokens = make()
    order = []
    tokens.acquire().result()
    for number in range(MANY):

        def served(_, number=number):
            order.append(number)
            tokens.release()

        tokens.acquire().addCallback(served)
    tokens.release()
    assert order == list(range(MANY))
    assert not tokens.waiting


@TOKENS
def test_cancelling_ten_thousand_waiters(make):
    """Ten thousand waiters may leave, those in the middle too."""
    tokens = make()
    tokens.acquire().result()
    waiters = [tokens.acquire() for _ in range(MANY)]
    last = tokens.acquire()
    for waiter in reversed(waiters):
        waiter.cancel()
    tokens.release()
    assert last.called


@TOKENS
def test_nobody_overtakes_while_one_is_served(make):
    """Whoever asks from a callback stands behind those who wait already."""
    tokens = make()
    order = []

    def first(_):
        order.append("first")
        tokens.release()
        tokens.acquire().addCallback(lambda _: order.append("again"))

    tokens.acquire().result()
    tokens.acquire().addCallback(first)
    tokens.acquire().addCallback(lambda _: order.append("second"))
    tokens.release()
    assert order == ["first", "second"]
    tokens.release()
    assert order == ["first", "second", "again"]


@TOKENS
def test_free_one_is_had_at_once_inside_a_callback(make):
    """Inside the callback of one who was served a free one is had at once."""
    tokens = make()
    seen = []

    def served(_):
        tokens.release()
        seen.append(tokens.acquire().called)

    tokens.acquire().result()
    tokens.acquire().addCallback(served)
    tokens.release()
    assert seen == [True]


@TOKENS
def test_interrupted_callback_does_not_stop_the_line(make):
    """Ctrl-C in the callback of one who was served leaves the line intact."""
    tokens = make()

    def interrupted(_):
        tokens.release()
        raise KeyboardInterrupt

    tokens.acquire().result()
    second = tokens.acquire().addCallback(interrupted)
    third = tokens.acquire()
    with pytest.raises(KeyboardInterrupt):
        tokens.release()
    assert failure_of(second).check(KeyboardInterrupt)
    assert not third.called
    fourth = tokens.acquire()  # The next call goes on with the line.
    assert third.result() is tokens
    assert not fourth.called


@TOKENS
async def test_loop_goes_on_after_an_interrupted_callback(make):
    """Where a loop runs, those behind an interrupted callback are served by it."""
    tokens = make()

    def interrupted(_):
        tokens.release()
        raise KeyboardInterrupt

    tokens.acquire().result()
    second = tokens.acquire().addCallback(interrupted)
    third = tokens.acquire()
    with pytest.raises(KeyboardInterrupt):
        tokens.release()
    assert await third is tokens
    assert failure_of(second).check(KeyboardInterrupt)


# -- run ---------------------------------------------------------------------------


@TOKENS
def test_run_calls_and_releases(make):
    """`run` calls the function with its arguments, and releases after it."""
    tokens = make()
    assert tokens.run(divmod, 7, 2).result() == (3, 1)
    assert tokens.run(dict, a=1).result() == {"a": 1}
    assert tokens.acquire().called


@TOKENS
def test_run_waits_for_its_turn_and_for_the_result(make):
    """`run` calls when it is its turn, and holds on until the Deferred has fired."""
    tokens = make()
    calls, answers = [], [Deferred(), Deferred()]

    def call(number):
        calls.append(number)
        return answers[number]

    results = [tokens.run(call, number) for number in range(2)]
    assert calls == [0]
    answers[0].callback("a")
    assert results[0].result() == "a"
    assert calls == [0, 1]
    answers[1].callback("b")
    assert results[1].result() == "b"


@TOKENS
def test_run_releases_after_a_failure(make):
    """`run` releases when the function raises or its Deferred fails."""
    tokens = make()
    assert failure_of(tokens.run(int, "x")).check(ValueError)
    answer = Deferred()
    failing = tokens.run(lambda: answer)
    answer.errback(KeyError())
    assert failure_of(failing).check(KeyError)
    assert tokens.acquire().called


@TOKENS
def test_cancelled_run(make):
    """Cancelled in line, run never calls; cancelled later, it cancels the inner one."""
    tokens = make()
    inner, calls = Deferred(), []
    running = tokens.run(lambda: inner)
    waiting = tokens.run(calls.append, 1)
    waiting.cancel()
    assert failure_of(waiting).check(CancelledError)
    running.cancel()
    assert inner.called
    assert failure_of(running).check(CancelledError)
    assert calls == []
    assert tokens.acquire().called


@TOKENS
async def test_run_waits_for_coroutines_and_futures(make):
    """`run` waits for what an async function does, and for an asyncio future."""
    tokens = make()
    future = asyncio.get_running_loop().create_future()
    first = tokens.run(lambda: future)
    second = tokens.run(asyncio.sleep, 0, "slept")
    await turns()
    assert not first.called
    future.set_result("future")
    assert await gatherResults([first, second]) == ["future", "slept"]


@TOKENS
def test_run_sees_the_callers_context(make):
    """The function sees the context variables of whoever called run."""
    tokens = make()
    tokens.acquire().result()
    context = contextvars.copy_context()
    context.run(variable.set, "caller")
    seen = context.run(tokens.run, variable.get)
    tokens.release()
    assert seen.result() == "caller"


@TOKENS
def test_ten_thousand_runs(make):
    """Ten thousand runs in line are served without nesting."""
    tokens = make()
    gate = Deferred()
    first = tokens.run(lambda: gate)
    numbers = [tokens.run(int, number) for number in range(MANY)]
    gate.callback(None)
    assert first.called
    assert [number.result() for number in numbers] == list(range(MANY))


# -- async with --------------------------------------------------------------------


@TOKENS
async def test_async_with_in_tasks(make):
    """Tasks take turns in `async with`, in their order, also after an exception."""
    tokens = make()
    order = []

    async def work(name):
        async with tokens as entered:
            assert entered is tokens
            order.append(f"{name} in")
            await turns(2)
            order.append(f"{name} out")
            if name == "a":
                raise KeyError(name)

    results = await asyncio.gather(*map(work, "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [KeyError, type(None), type(None)]
    assert order == ["a in", "a out", "b in", "b out", "c in", "c out"]


@TOKENS
def test_async_with_without_a_loop(make):
    """In our own coroutines `async with` works where there is no event loop."""
    tokens = make()
    order, gates = [], {"a": Deferred(), "b": Deferred()}

    async def work(name):
        async with tokens:
            order.append(name)
            await gates[name]

    both = [ensureDeferred(work(name)) for name in "ab"]
    assert order == ["a"]
    gates["a"].callback(None)
    assert order == ["a", "b"]
    gates["b"].callback(None)
    assert [deferred.called for deferred in both] == [True, True]
    assert tokens.acquire().called


@TOKENS
def test_all_styles_stand_in_one_line(make):
    """A coroutine, a generator and a callback wait in the same line."""
    tokens = make()
    order = []

    async def coroutine():
        async with tokens:
            order.append("coroutine")

    @inlineCallbacks
    def generator():
        yield tokens.acquire()
        order.append("generator")
        tokens.release()

    tokens.acquire().result()
    ensureDeferred(coroutine())
    generator()
    tokens.acquire().addCallback(lambda _: order.append("callback"))
    tokens.release()
    assert order == ["coroutine", "generator", "callback"]


# -- cancelled between its turn and its next step ----------------------------------


async def enter(tokens):
    async with tokens:
        raise AssertionError("cancelled, and yet inside")


async def plain_acquire(tokens):
    await tokens.acquire()
    raise AssertionError("cancelled, and yet inside")


WAYS = pytest.mark.parametrize("way", [enter, plain_acquire])


@TOKENS
@WAYS
async def test_task_cancelled_after_its_turn_came(make, way):
    """A task cancelled after the token was handed over, before its step: back."""
    tokens = make()
    await tokens.acquire()
    task = asyncio.create_task(way(tokens))
    await turns()
    behind = tokens.acquire()
    tokens.release()
    assert not behind.called  # It is the task's.
    task.cancel("too late")
    assert behind.called  # And now it is not.
    with pytest.raises(CancelledError, match="too late"):
        await task
    tokens.release()
    assert tokens.acquire().called


@TOKENS
@WAYS
async def test_task_cancelled_before_its_turn(make, way):
    """A task cancelled first, released to in the same turn: the next one gets it."""
    tokens = make()
    await tokens.acquire()
    task = asyncio.create_task(way(tokens))
    await turns()
    behind = tokens.acquire()
    task.cancel()
    tokens.release()
    assert behind.called
    with pytest.raises(CancelledError):
        await task


@TOKENS
@WAYS
@pytest.mark.parametrize("order", ["turn first", "timeout first"])
async def test_timeout_and_turn_in_the_same_turn_of_the_loop(make, way, order):
    """Whichever comes first, timeout or release: TimeoutError, and no token is lost."""
    tokens = make()
    await tokens.acquire()
    scopes = []

    async def limited():
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            await way(tokens)

    task = asyncio.create_task(limited())
    await turns()
    strikes = [tokens.release, scopes[0]._on_timeout]
    for strike in strikes if order == "turn first" else reversed(strikes):
        strike()
    with pytest.raises(TimeoutError):
        await task
    assert tokens.acquire().called


@TOKENS
async def test_wait_for_gives_the_token_back(make):
    """asyncio.wait_for that runs out leaves the line, and leaves no token behind."""
    tokens = make()
    await tokens.acquire()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(tokens.acquire(), 0.01)
    assert not tokens.waiting
    tokens.release()
    assert tokens.acquire().called


@TOKENS
async def test_gather_cancelled_after_one_turn_came(make):
    """Cancelling a gather gives back the token of a member that had its turn."""
    tokens = make()
    await tokens.acquire()
    future = asyncio.get_running_loop().create_future()
    both = asyncio.gather(tokens.acquire(), future)
    tokens.release()
    await turns()
    both.cancel()
    with pytest.raises(CancelledError):
        await both
    assert tokens.acquire().called


@TOKENS
@pytest.mark.parametrize("style", ["coroutine", "generator"])
def test_our_coroutine_cancelled_after_its_turn_came(make, style):
    """Our own coroutines and generators lose no token either, in the same moment."""
    tokens = make()
    tokens.acquire().result()

    async def coroutine():
        async with tokens:
            raise AssertionError("cancelled, and yet inside")

    @inlineCallbacks
    def generator():
        yield tokens.acquire()
        raise AssertionError("cancelled, and yet inside")

    waiter = ensureDeferred(coroutine()) if style == "coroutine" else generator()

    async def director():
        # Inside a step of ours the waiter is stepped only when this one waits.
        tokens.release()
        assert not tokens.waiting
        waiter.cancel()

    ensureDeferred(director()).result()
    assert failure_of(waiter).check(CancelledError)
    assert tokens.acquire().called


@TOKENS
async def test_waiters_share_one_cancel(make):
    """Two tasks that await one acquire are cancelled together; shield protects."""
    tokens = make()
    await tokens.acquire()
    acquiring = tokens.acquire()
    tasks = [asyncio.create_task(acquiring.asCoroutine()) for _ in range(2)]
    shielded = asyncio.shield(tokens.acquire())
    await turns()
    tokens.release()
    tasks[0].cancel()
    shielded.cancel()
    results = await asyncio.gather(*tasks, shielded, return_exceptions=True)
    assert [type(result) for result in results] == [CancelledError] * 3
    tokens.release()  # The shielded one has it.
    assert tokens.acquire().called


@TOKENS
async def test_what_was_received_is_kept(make):
    """Cancelling an acquire that was awaited, read or called back takes nothing."""
    for receive in ("await", "result", "callback", "chain", "returned"):
        tokens = make()
        await tokens.acquire()
        acquiring = tokens.acquire()
        if receive == "callback":
            acquiring.addCallback(lambda lock: lock)
        if receive == "await":
            task = asyncio.create_task(acquiring.asCoroutine())
            await turns()
        tokens.release()
        if receive == "await":
            await task
        elif receive == "result":
            acquiring.result()
        elif receive == "chain":
            acquiring.chainDeferred(Deferred())
        elif receive == "returned":
            succeed(1).addCallback(lambda _, d=acquiring: d)
        assert not acquiring.cancel()
        assert not tokens.acquire().called


@TOKENS
def test_what_nobody_has_received_can_be_given_back(make):
    """Cancelling an acquire that fired, but was not looked at, gives the token back."""
    tokens = make()
    acquiring = tokens.acquire()
    assert acquiring.called
    assert acquiring.cancel("never mind")
    assert acquiring.cancelled()
    assert not acquiring.cancel()
    with pytest.raises(CancelledError, match="never mind"):
        acquiring.result()
    assert tokens.acquire().called


# -- lock --------------------------------------------------------------------------


def test_lock_says_what_it_is():
    """A lock's `locked` and repr say whether it is held, and how many wait."""
    lock = DeferredLock()
    assert not lock.locked
    assert repr(lock) == "<DeferredLock unlocked, 0 waiting>"
    lock.acquire()
    lock.acquire()
    assert lock.locked
    assert repr(lock) == "<DeferredLock locked, 1 waiting>"


def test_lock_is_locked_while_it_changes_hands():
    """While a lock goes from one to the next, nobody sees it unlocked."""
    lock = DeferredLock()
    seen = []

    def served(_):
        lock.release()
        seen.append(lock.locked)

    lock.acquire()
    lock.acquire().addCallback(served)
    lock.acquire()
    lock.release()
    assert seen == [True]


# -- semaphore ---------------------------------------------------------------------


def test_semaphore_lets_so_many_through():
    """A semaphore lends its tokens, and says how many are left."""
    semaphore = DeferredSemaphore(2)
    assert (semaphore.limit, semaphore.tokens) == (2, 2)
    holders = [semaphore.acquire() for _ in range(3)]
    assert [holder.called for holder in holders] == [True, True, False]
    assert (semaphore.limit, semaphore.tokens) == (2, 0)
    assert repr(semaphore) == "<DeferredSemaphore 0 of 2 tokens free, 1 waiting>"
    semaphore.release()
    assert holders[2].called
    semaphore.release()
    assert semaphore.tokens == 1
    semaphore.release()
    with pytest.raises(RuntimeError, match="2 of 2 tokens free"):
        semaphore.release()


@pytest.mark.parametrize("tokens", [0, -1])
def test_semaphore_without_tokens_is_refused(tokens):
    """A semaphore has at least one token."""
    with pytest.raises(ValueError, match=f"{tokens} tokens.*Choose 1 or more"):
        DeferredSemaphore(tokens)


def test_tokens_of_a_callback_in_line():
    """A token on its way to the next in line is not counted as free."""
    semaphore = DeferredSemaphore(1)
    seen = []

    def served(_):
        semaphore.release()
        seen.append(semaphore.tokens)

    semaphore.acquire()
    semaphore.acquire().addCallback(served)
    semaphore.acquire()
    semaphore.release()
    assert seen == [0]


# -- queue -------------------------------------------------------------------------


def test_queue_is_first_in_first_out():
    """Items come out as they went in, and getters get in the order they came."""
    queue = DeferredQueue()
    queue.put(1)
    queue.put(2)
    assert queue.pending == [1, 2]
    assert [queue.get().result(), queue.get().result()] == [1, 2]
    getters = [queue.get(), queue.get()]
    assert queue.waiting == getters
    queue.put(3)
    assert (getters[0].result(), getters[1].called) == (3, False)
    queue.put(None)
    assert getters[1].result() is None
    assert repr(queue) == "<DeferredQueue 0 pending, 0 waiting>"


def test_queue_overflow():
    """A full queue refuses one more item; with a getter waiting there is room."""
    queue = DeferredQueue(size=1)
    queue.put("a")
    with pytest.raises(QueueOverflow, match="1 pending, 0 waiting> is full"):
        queue.put("b")
    assert queue.pending == ["a"]
    rendezvous = DeferredQueue(size=0)
    with pytest.raises(QueueOverflow):
        rendezvous.put("a")
    getter = rendezvous.get()
    rendezvous.put("b")
    assert getter.result() == "b"


def test_queue_underflow():
    """So many getters may wait; one more is refused."""
    queue = DeferredQueue(backlog=1)
    first = queue.get()
    with pytest.raises(QueueUnderflow, match="0 pending, 1 waiting> has no item"):
        queue.get()
    queue.put("a")
    assert first.result() == "a"
    impatient = DeferredQueue(backlog=0)
    with pytest.raises(QueueUnderflow):
        impatient.get()
    impatient.put("b")
    assert impatient.get().result() == "b"


@pytest.mark.parametrize("bound", ["size", "backlog"])
def test_negative_bound_is_refused(bound):
    """A bound below zero is refused."""
    with pytest.raises(ValueError, match=f"The {bound} of a queue is -1"):
        DeferredQueue(**{bound: -1})


def test_deferred_is_no_item():
    """A Deferred is refused as an item, before anybody gets it."""
    queue = DeferredQueue()
    getter = queue.get()
    with pytest.raises(TypeError, match=r"addCallback\(queue.put\)"):
        queue.put(Deferred())
    assert not getter.called


def test_failure_is_an_item():
    """A Failure that was put in fails the getter that it meets."""
    queue = DeferredQueue()
    queue.put(Failure(KeyError()))
    assert failure_of(queue.get()).check(KeyError)


def test_cancelled_getter_leaves_the_line():
    """A getter that is cancelled fails with CancelledError, and no item goes to it."""
    queue = DeferredQueue(backlog=2)
    first, second = queue.get(), queue.get()
    first.cancel()
    assert failure_of(first).check(CancelledError)
    third = queue.get()  # It has made room.
    queue.put("a")
    assert second.result() == "a"
    queue.put("b")
    assert third.result() == "b"


async def test_task_cancelled_after_its_item_came():
    """A task cancelled between its item and its step: the item goes to the next one."""
    queue = DeferredQueue()
    tasks = [asyncio.create_task(queue.get().asCoroutine()) for _ in range(2)]
    await turns()
    queue.put("a")
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(results[0]), results[1]] == [CancelledError, "a"]


async def test_items_come_back_to_their_places():
    """Items that come back stand where they stood, before later ones, beyond `size`."""
    queue = DeferredQueue(size=1)
    tasks = [asyncio.create_task(queue.get().asCoroutine()) for _ in range(3)]
    await turns()
    for item in "abcd":
        queue.put(item)
    for task in (tasks[1], tasks[2], tasks[0]):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert queue.pending == ["a", "b", "c", "d"]
    with pytest.raises(QueueOverflow):
        queue.put("e")


async def test_timeout_on_get_loses_nothing():
    """asyncio.timeout around get, striking at the same moment as put, loses no item."""
    queue = DeferredQueue()
    scopes = []

    async def limited():
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            await queue.get()

    task = asyncio.create_task(limited())
    await turns()
    queue.put("a")
    scopes[0]._on_timeout()
    with pytest.raises(TimeoutError):
        await task
    assert queue.pending == ["a"]


def test_ten_thousand_getters_that_put():
    """Ten thousand getters that each put for the next are served without nesting."""
    queue = DeferredQueue()
    order = []
    for number in range(MANY):

        def got(item, number=number):
            order.append(item)
            queue.put(number)

        queue.get().addCallback(got)
    queue.put("start")
    assert order == ["start", *range(MANY - 1)]
    assert queue.pending == [MANY - 1]


def test_bounds_hold_while_one_is_served():
    """Inside a getter's callback the bounds count those on their way to each other."""
    queue = DeferredQueue(size=0, backlog=2)
    seen = []

    def got(_):
        queue.put("b")  # For the second one, that still waits.
        with pytest.raises(QueueOverflow):
            queue.put("c")
        seen.append(queue.get())

    queue.get().addCallback(got)
    second = queue.get()
    queue.put("a")
    assert second.result() == "b"
    assert queue.waiting == seen


# -- anything, in any order --------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "release", "cancel", "look", "nest"]),
        st.integers(0, 9),
    ),
    max_size=40,
)


class Model:
    """What a semaphore should do, in the plainest way."""

    def __init__(self, limit):
        self.limit = limit
        self.holders, self.line, self.gone = [], deque(), set()

    def acquire(self, name):
        self.line.append(name)
        self.serve()

    def serve(self):
        while self.line and len(self.holders) < self.limit:
            self.holders.append(self.line.popleft())

    def remove(self, name):
        if name in self.holders:
            self.holders.remove(name)
        else:
            self.line.remove(name)
        self.gone.add(name)
        self.serve()


@settings(max_examples=300, deadline=None)
@given(limit=st.integers(1, 3), steps=STEPS)
def test_semaphore_keeps_to_its_model(limit, steps):
    """Any acquiring, releasing, cancelling: in order, never too many, none lost."""
    semaphore, model = DeferredSemaphore(limit), Model(limit)
    deferreds, looked = [], set()
    for step, choice in steps:
        names = list(range(len(deferreds)))
        if step == "acquire" or not deferreds:
            model.acquire(len(deferreds))
            deferreds.append(semaphore.acquire())
            continue
        name = names[choice % len(names)]
        if step == "look" and name in model.holders:
            assert deferreds[name].result() is semaphore
            looked.add(name)
        elif step == "release" and name in model.holders:
            deferreds[name].result()
            looked.add(name)
            model.remove(name)
            semaphore.release()
        elif step == "nest" and name in model.line:
            # Served, it releases from inside its callback.
            deferreds[name].addCallback(lambda _: semaphore.release())
            while name in model.line:
                model.remove(oldest := model.holders[0])
                semaphore.release()
                deferreds[oldest].result()
            model.remove(name)
        elif step == "cancel":
            possible = name in model.line or (
                name in model.holders and name not in looked
            )
            assert deferreds[name].cancel() is possible
            if possible:
                model.remove(name)
        free = limit - len(model.holders)
        assert semaphore.tokens == free
        assert len(semaphore.waiting) == len(model.line)
        assert semaphore.waiting == [deferreds[name] for name in model.line]
        for name, deferred in enumerate(deferreds):
            if name not in model.gone:
                assert deferred.called is (name in model.holders)


@settings(max_examples=150, deadline=None)
@given(
    limit=st.integers(1, 3),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["start", "cancel", "go", "turn"]), st.integers(0, 9)
        ),
        max_size=40,
    ),
)
def test_tasks_lose_no_token(limit, steps):
    """Tasks in `async with`, cancelled at any moment: never too many, none lost."""

    async def play():
        semaphore = DeferredSemaphore(limit)
        inside, entered, tasks, gates = set(), [], [], []

        async def work(name):
            async with semaphore:
                inside.add(name)
                entered.append(name)
                assert len(inside) <= limit
                try:
                    await gates[name].wait()
                finally:
                    inside.discard(name)

        for step, choice in steps:
            if step == "start" or not tasks:
                gates.append(asyncio.Event())
                tasks.append(asyncio.create_task(work(len(tasks))))
            elif step == "cancel":
                tasks[choice % len(tasks)].cancel()
            elif step == "go":
                gates[choice % len(tasks)].set()
            else:
                await asyncio.sleep(0)
        for gate in gates:
            gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {CancelledError, type(None)}
        assert entered == sorted(entered)
        assert semaphore.tokens == limit

    asyncio.run(play())


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "get", "cancel", "turn"]), st.integers(0, 9)),
        max_size=40,
    ),
)
def test_tasks_lose_no_item(steps):
    """Tasks that get, cancelled at any moment: every item comes out exactly once."""

    async def play():
        queue = DeferredQueue()
        tasks, count = [], 0
        for step, choice in steps:
            if step == "put":
                queue.put(count)
                count += 1
            elif step == "get":
                tasks.append(asyncio.create_task(_get(queue)))
            elif step == "cancel" and tasks:
                tasks[choice % len(tasks)].cancel()
            else:
                await asyncio.sleep(0)
        await turns()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        got = [result for result in results if isinstance(result, int)]
        assert sorted(got + queue.pending) == list(range(count))
        assert queue.pending == sorted(queue.pending)

    asyncio.run(play())


async def _get(queue):
    return await queue.get()

"""Programs under Twisted's reactor, one for each process; a test reads what they print.

Called with a program's name, a kind of reactor, and a folder of its own. "late" kinds
install the adapter while the reactor runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import threading
from contextlib import nullcontext

from twisted.internet import defer
from twisted.logger import globalLogBeginner

from enterprise import ConnectionPool
from tests.threadpool.loops.helpers import ENDLESS, Told, loops_made, make_table
from threadpool import _future, home
from threadpool.defer import Deferred, ensureDeferred, inlineCallbacks
from threadpool.error import LoopClosed
from threadpool.loops.twisted import asTwisted, install

KINDS = ("plain", "plain-late", "asyncio", "asyncio-late")
DEADLINE_SECONDS = 60


def url():
    return f"sqlite:///{sys.argv[3]}/test.db"


def told():
    """Return a Deferred and a `cp_openfun` whose `started()` in SQL fires it."""
    events, fired = home.here(), Deferred()
    return fired, Told(lambda: events.fire(fired, None))


# -- stories: coroutines that Twisted runs ---------------------------------------------


async def queries(reactor):
    """Everything a pool does, awaited in Twisted's own coroutine."""
    started, openfun = told()
    pool = ConnectionPool(url(), cp_max=2, cp_openfun=openfun)
    count = await pool.runInteraction(make_table)
    rows = await pool.runQuery("select name from item where id = ?", (2,))
    try:
        await pool.runQuery("select nonsense")
    except Exception as error:
        wrong = type(error).__name__
    endless = pool.runQuery(ENDLESS)
    await started
    endless.cancel()
    try:
        await endless
    except defer.CancelledError as error:
        cause = type(error.__cause__).__name__
    await pool.close()
    return [count, rows, wrong, cause, pool.stats().connections]


async def coroutines(reactor):
    """The coroutines of both sides, and the old generators of both."""
    events = home.here()

    def soon(value):
        deferred = Deferred()
        events.later(0.001, lambda: deferred.callback(value))
        return deferred

    async def ours():
        return await soon(1) + await soon(2)

    @inlineCallbacks
    def our_generator():
        return (yield soon(3)) + (yield from soon(4))

    @defer.inlineCallbacks
    def their_generator():
        return (yield asTwisted(soon(5))) + (yield from soon(6))

    async def theirs():
        return await soon(7) + await ensureDeferred(ours())

    async def failing():
        events.later(0.001, lambda: wrong.errback(KeyError("wrong")))
        try:
            await wrong
        except KeyError as error:
            return repr(error)

    wrong = Deferred()
    return [
        await ensureDeferred(ours()),
        await our_generator(),
        await their_generator(),
        await defer.ensureDeferred(theirs()),
        await defer.ensureDeferred(failing()),
    ]


async def cancels(reactor):
    """A statement is stopped through Twisted's Deferred, and through its coroutine."""
    started, openfun = told()
    pool = ConnectionPool(url(), cp_max=1, cp_openfun=openfun)
    query = asTwisted(pool.runQuery(ENDLESS))
    await started
    query.cancel()
    answered_at_once = query.called
    seen = []
    try:
        await query
    except defer.CancelledError:
        seen.append("query")
    await pool.close()

    started, openfun = told()
    pool = ConnectionPool(url(), cp_max=1, cp_openfun=openfun)

    async def waiting():
        try:
            await pool.runQuery(ENDLESS)
        except defer.CancelledError:
            seen.append("coroutine")
            raise

    task = defer.ensureDeferred(waiting())
    await started
    task.cancel()
    try:
        await task
    except defer.CancelledError:
        seen.append("task")
    seen += await pool.runQuery("select 1")
    await pool.close()
    return [answered_at_once, seen, pool.stats().opened]


async def web(reactor):
    """A web server answers from the database, over loopback."""
    from twisted.internet.threads import deferToThread
    from twisted.web import client, resource, server

    pool = ConnectionPool(url())
    await pool.runInteraction(make_table)

    class Item(resource.Resource):
        isLeaf = True  # noqa: N815 - Twisted's name

        def render_GET(self, request):
            number = int(request.args[b"id"][0])
            rows = pool.runQuery("select name from item where id = ?", (number,))
            rows.addCallback(self.answer, request)
            return server.NOT_DONE_YET

        def render_POST(self, request):
            defer.ensureDeferred(self.change(request))
            return server.NOT_DONE_YET

        async def change(self, request):
            name = request.content.read().decode()
            await pool.runOperation("update item set name = ? where id = 1", (name,))
            self.answer(await pool.runQuery("select name from item"), request)

        def answer(self, rows, request):
            request.write(json.dumps(rows).encode())
            request.finish()

    port = reactor.listenTCP(0, server.Site(Item()), interface="127.0.0.1")
    address = f"http://127.0.0.1:{port.getHost().port}/"
    agent = client.Agent(reactor, pool=client.HTTPConnectionPool(reactor, False))
    got = await agent.request(b"GET", f"{address}?id=2".encode())
    first = json.loads(await client.readBody(got))

    def post():
        import urllib.request

        with urllib.request.urlopen(address, b"axe", timeout=30) as answer:
            return json.load(answer)

    second = await deferToThread(post)
    await port.stopListening()
    await pool.close()
    return [first, second]


async def broker(reactor):
    """A Perspective Broker object answers from the database, over a unix socket."""
    from twisted.spread import pb

    pool = ConnectionPool(url())
    await pool.runInteraction(make_table)

    class Items(pb.Root):
        def remote_rows(self, least):
            return asTwisted(
                pool.runQuery("select id, name from item where id >= ?", (least,))
            )

        def remote_wrong(self):
            return asTwisted(pool.runQuery("select nonsense"))

    path = f"{sys.argv[3]}/pb.sock"
    port = reactor.listenUNIX(path, pb.PBServerFactory(Items()))
    factory = pb.PBClientFactory()
    reactor.connectUNIX(path, factory)
    root = await factory.getRootObject()
    rows = await root.callRemote("rows", 2)
    try:
        await root.callRemote("wrong")
    except Exception as error:
        wrong = str(error)
    factory.disconnect()
    await port.stopListening()
    await pool.close()
    return [rows, wrong]


async def refusals(reactor):
    """What `install` says the second time, and in another thread than the reactor."""
    from twisted.internet.threads import deferToThread

    texts = []

    def attempt():
        try:
            install()
        except RuntimeError as error:
            texts.append(str(error))

    attempt()
    await deferToThread(attempt)
    return texts


async def unhandled(reactor):
    """Failures that nobody looked at are reported, on either side of the bridge."""
    import gc

    pool = ConnectionPool(url(), cp_max=1)
    pool.runQuery("select ours")
    asTwisted(pool.runQuery("select theirs"))
    await pool.runQuery("select 1")
    await pool.close()
    gc.collect()
    return []


async def shutdown(reactor):
    """The pool is closed by a trigger; what is left of another one fails."""
    started, openfun = told()
    kept = ConnectionPool(url(), cp_max=1)
    await kept.runQuery("select 1")
    left = ConnectionPool("sqlite://", cp_openfun=openfun)
    seen = []
    left.runQuery(ENDLESS).addErrback(lambda f: seen.append(f.type is LoopClosed))
    await started
    events = home.here()

    def farewell():
        pause = Deferred()
        events.later(0.01, lambda: pause.callback(None))
        return pause.addCallback(lambda _: seen.append("farewell"))

    def close():
        # Waits for the statement that is asked for after the reactor was stopped.
        last = kept.runQuery("select 7").addCallback(seen.append)
        return asTwisted(last.addCallback(lambda _: kept.close()))

    def during():
        seen.append([kept.stats().connections, events.closed])

    events.farewells.append(farewell)
    reactor.addSystemEventTrigger("before", "shutdown", close)
    reactor.addSystemEventTrigger("during", "shutdown", during)
    afterwards.append(lambda: left.close(0))
    return seen


afterwards = []


# -- the frame ---------------------------------------------------------------------


class Logged(logging.Handler):
    """Keeps what was logged at WARNING and above, as text."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())

    def observe(self, event):
        if event.get("log_failure") is not None:
            self.texts.append(f"{event['log_format']}: {event['log_failure'].value}")


def run(story, kind):
    """Run *story* under a reactor of that *kind*, and print what came of it."""
    logged = Logged()
    logging.getLogger().addHandler(logged)
    globalLogBeginner.beginLoggingTo([logged.observe], redirectStandardIO=False)
    loop = None
    if kind.startswith("asyncio"):
        from twisted.internet import asyncioreactor

        loop = asyncio.new_event_loop()
        asyncioreactor.install(loop)
    from twisted.internet import reactor

    told = {"result": None, "logged": logged.texts}
    queues = []

    async def whole():
        queues.append(home.here())
        try:
            told["result"] = await story(reactor)
        finally:
            reactor.stop()

    def begin():
        defer.ensureDeferred(whole()).addErrback(lambda f: f.printTraceback(sys.stderr))

    def late():
        install()
        begin()

    if kind.endswith("late"):
        reactor.callLater(0, late)
    else:
        installed = install()
        assert home.here() is installed
        reactor.callWhenRunning(begin)
    # Our own loop, where it is asyncio's, was made before.
    with nullcontext([]) if loop else loops_made() as made:
        reactor.run(installSignalHandlers=False)
        told["loops"] = len(made)
    for function in afterwards:
        function()
    told |= after(queues[0], loop)
    sys.stdout.write(json.dumps(told))


def after(events, loop):
    """Return what is left when the reactor has stopped."""
    if loop is not None:
        loop.close()
    try:
        events._post(print)
    except RuntimeError:
        posted = "refused"
    leftover = []
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "clock" not in thread.name:
            thread.join(10)  # Told to end, it needs a moment.
            leftover += [thread.name] if thread.is_alive() else []
    return {
        "closed": events.closed,
        "home": home.hereOrNone() is not None,
        "awaiters": len(_future.awaiters),
        "posted": posted,
        "threads": leftover,
    }


def main():
    signal.alarm(DEADLINE_SECONDS)
    name, kind, _ = sys.argv[1:]
    run(STORIES[name], kind)


STORIES = {
    story.__name__: story
    for story in (
        queries,
        coroutines,
        cancels,
        web,
        broker,
        refusals,
        unhandled,
        shutdown,
    )
}

if __name__ == "__main__":
    main()

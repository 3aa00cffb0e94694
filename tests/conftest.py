"""What every test gets: asynchronous tests, real databases, and no leaks."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests import leaks
from tests.postgres import NoServerError, Server
from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

# A test that awaits something for ever fails by itself, with its own stack.
ASYNC_TEST_SECONDS = 60.0

FAILED = pytest.StashKey[bool]()


# -- asynchronous tests ------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the loop."""
    parser.addoption(
        "--uvloop", action="store_true", help="run `async` tests on uvloop"
    )


def pytest_report_header(config: pytest.Config) -> str:
    """Say which loop the run is about."""
    return f"loop: {'uvloop' if config.getoption('--uvloop') else 'asyncio'}"


def _loop_factory(config: pytest.Config) -> Any:
    if not config.getoption("--uvloop"):
        return None
    import uvloop

    return uvloop.new_event_loop


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let a foreign loop open now what it keeps open for the life of the process."""
    if session.config.getoption("--uvloop"):
        with asyncio.Runner(loop_factory=_loop_factory(session.config)) as runner:
            runner.run(asyncio.sleep(0))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test in a loop of its own; its fixtures are ordinary ones."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def guarded() -> None:
        try:
            async with asyncio.timeout(ASYNC_TEST_SECONDS) as guard:
                await test(**arguments)
        except TimeoutError:
            if guard.expired():
                pytest.fail(f"The test did not end within {ASYNC_TEST_SECONDS} s.")
            raise

    factory = _loop_factory(pyfuncitem.config)
    with asyncio.Runner(debug=False, loop_factory=factory) as runner:
        runner.run(guarded())
    return True


@pytest.fixture
def loop_kind(request: pytest.FixtureRequest) -> str:
    """The loop under `async` tests: "asyncio" or "uvloop"."""
    return "uvloop" if request.config.getoption("--uvloop") else "asyncio"


# -- nothing is left behind --------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Note a failure: its traceback holds on to everything the test had open."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def logged_errors(request: pytest.FixtureRequest) -> Iterator[leaks.Errors]:
    """Fail a test that leaves a thread, a descriptor or an unclaimed error behind."""
    parameters = getattr(request.node, "callspec", None)
    if parameters and parameters.params.get("database") == "postgres":
        request.getfixturevalue("postgres")  # Not of this test: before the baseline.
    errors = leaks.Errors()
    logging.getLogger().addHandler(errors)
    baseline = leaks.Baseline()
    yield errors
    if request.node.stash.get(FAILED, False):
        logging.getLogger().removeHandler(errors)
        return
    errors.forget()
    problems = baseline.leaks()
    logging.getLogger().removeHandler(errors)
    errors.forget()
    if "expect_errors" not in request.fixturenames:
        problems += [f"logged and not claimed: {text}" for text in errors.texts()]
    if problems:
        pytest.fail("The test left behind: " + "\n".join(problems), pytrace=False)


@pytest.fixture
def expect_errors(logged_errors: leaks.Errors) -> list[logging.LogRecord]:
    """The ERROR records so far; who asks for them is expected to look at them."""
    return logged_errors.records


# -- databases ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The one PostgreSQL server of this run, started when it is first needed."""
    try:
        with leaks.permanent():
            server = Server()
        server.start()
    except NoServerError as error:
        pytest.fail(str(error), pytrace=False)  # A skipped proof would be no proof.
    yield server
    server.remove()


@pytest.fixture
def pg_name(postgres: Server) -> Iterator[str]:
    """The name of a fresh database, in a server that runs whatever came before."""
    postgres.ensure()
    name = postgres.new_database()
    yield name
    postgres.ensure()
    postgres.drop_database(name)


@pytest.fixture
def pg_url(postgres: Server, pg_name: str) -> str:
    """The SQLAlchemy URL of a fresh database, over the unix socket."""
    return postgres.url(pg_name)


@pytest.fixture
def pg_tcp_url(postgres: Server, pg_name: str) -> str:
    """The SQLAlchemy URL of the same fresh database, over loopback TCP."""
    return postgres.url(pg_name, tcp=True)


@pytest.fixture
def pg_proxy(postgres: Server) -> Iterator[Proxy]:
    """A proxy before the server, for bad weather; `pg_proxy_url` leads through it."""
    with Proxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture
def pg_proxy_url(pg_proxy: Proxy, pg_tcp_url: str) -> str:
    """The SQLAlchemy URL of a fresh database, through `pg_proxy`."""
    return pg_proxy.through(pg_tcp_url)


@dataclass
class Database:
    """A fresh database of one kind, for the tests that hold for all of them.

    Attributes:
        kind: "sqlite" or "postgres".
        url: its SQLAlchemy URL, as a user would write it.
        placeholder: the driver's mark for a parameter.
        path: SQLite's file.
        dsn: PostgreSQL's libpq connection string.
    """

    kind: str
    url: str
    placeholder: str
    path: Path = field(default_factory=Path)
    dsn: str = ""
    _opened: list[Any] = field(default_factory=list, repr=False)

    def sql(self, text: str) -> str:
        """Return *text*, written with question marks, in the driver's own style."""
        if self.placeholder != "?" and "%" in text.replace("%s", ""):
            raise ValueError(f"A % needs care in {self.kind}; spell it out: {text}")
        # Every second piece is a quoted literal, whose question marks are text.
        pieces = text.split("'")
        pieces[::2] = [piece.replace("?", self.placeholder) for piece in pieces[::2]]
        return "'".join(pieces)

    def connect(self) -> Any:
        """Return a plain driver connection in autocommit, to look from outside.

        The fixture closes it after the test.
        """
        connection: Any
        if self.kind == "sqlite":
            connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False
            )
        else:
            connection = psycopg.connect(self.dsn, autocommit=True)
        self._opened.append(connection)
        return connection

    def rows(self, text: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        """Run one statement from outside, past the pool, and return its rows."""
        with closing(self.connect()) as connection:
            cursor = connection.execute(self.sql(text), parameters)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Close all connections that were opened from outside."""
        while self._opened:
            self._opened.pop().close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A fresh database of each kind in turn."""
    if request.param == "sqlite":
        path = tmp_path / "test.db"
        fresh = Database("sqlite", f"sqlite:///{path}", "?", path=path)
    else:
        server = request.getfixturevalue("postgres")
        name = request.getfixturevalue("pg_name")
        dsn = server.dsn(name)
        fresh = Database("postgres", server.url(name), "%s", dsn=dsn)
    yield fresh
    fresh.close()

"""What names a database, how wrong names are refused, and that secrets stay secret."""

from __future__ import annotations

import logging
import socket
import sqlite3
import traceback

import psycopg
import pytest

import enterprise
from enterprise import ConfigurationError, ConnectFailed, ConnectionPool
from tests.enterprise.helpers import outcome, python
from tests.postgres import GUARDED_PASSWORD

ITEMS = [("hammer",), ("saw",)]
ALL = "select name from item order by id"


def all_texts(pool, error, caplog):
    """Return everything that a user might get to see of a pool and its error."""
    seen = [repr(pool), str(pool.stats()), caplog.text, pool.name]
    while error is not None:
        seen += [repr(error), str(error), *traceback.format_exception(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(seen)


# -- what can be named -----------------------------------------------------------------


def _sources(database):
    yield (database.url,), {}
    if database.kind == "sqlite":
        yield (sqlite3, str(database.path)), {}
        yield (sqlite3,), {"database": database.path, "timeout": 3}
        yield ("sqlite3", str(database.path)), {}
        yield (lambda path: sqlite3.connect(path), str(database.path)), {}
        yield (f"sqlite+pysqlite:///{database.path}",), {"check_same_thread": True}
    else:
        yield (psycopg, database.dsn), {"application_name": "shop"}
        yield ("psycopg", database.dsn), {}
        yield (psycopg.connect,), {"conninfo": database.dsn}
        yield (database.url.replace("+psycopg", ""),), {}


async def test_sources(shop):
    """A URL, a module, its name or a callable; what else is given goes to connect."""
    for arguments, keywords in _sources(shop):
        async with ConnectionPool(*arguments, **keywords, cp_max=2) as pool:
            assert await pool.runQuery(ALL) == ITEMS
            await pool.runOperation("update item set name = 'saw' where id = 2")


async def test_keywords_reach_the_driver(postgres, pg_name):
    """Keyword arguments come on top of what the URL says."""
    url = postgres.url(pg_name)
    async with ConnectionPool(url, application_name="the shop") as pool:
        shown = await pool.runQuery("show application_name")
        assert shown == [("the shop",)]


async def test_url_options_reach_the_driver(postgres, pg_name):
    """What stands after a URL's question mark goes to the driver."""
    url = postgres.url(pg_name) + "&application_name=corner%20shop"
    async with ConnectionPool(url) as pool:
        assert await pool.runQuery("show application_name") == [("corner shop",)]


async def test_callable_instance(script):
    """Anything that has `connect` is a driver, and anything callable connects."""
    async with ConnectionPool(script.connect, 1, two=2) as pool:
        assert await pool.runQuery("rows 1") == [(1,)]
        assert pool.paramstyle == "unknown"
    assert script.history[0] == (0, "connect", ((1,), {"two": 2}))


async def test_in_any_order(tmp_path):
    """A pool made before there is a loop or a file works when there is one."""
    path = tmp_path / "later.db"
    pool = ConnectionPool(f"sqlite:///{path}")
    assert not path.exists()
    async with pool:
        await pool.runScript("create table item (id integer, name text)")
    assert path.exists()


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("nothing://x/y", "No driver is known for 'nothing'"),
        ("postgresql+nothing://x/y", r"postgresql\+nothing"),
        ("://x", "cannot be read"),
        ("postgresql://u:s3cret@h:port/x", "cannot be read"),
        ("no_such_module", "'no_such_module' cannot be imported"),
        ("json", "no connect"),
        (42, "through int"),
        (None, "through NoneType"),
        ("oracle+oracledb://x/y", "'oracledb' cannot be imported"),
    ],
)
def test_wrong_source(source, text):
    """What names no database is refused at once, with the next step."""
    with pytest.raises(ConfigurationError, match=text) as caught:
        ConnectionPool(source)
    assert isinstance(caught.value, ValueError)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("sqlite+aiosqlite:///shop.db", "'sqlite:///shop.db'"),
        ("postgresql+asyncpg://ada:s3cret@h/shop", "'postgresql://ada:***@h/shop'"),
        ("postgresql+psycopg_async://h/shop", "'postgresql://h/shop'"),
        ("postgresql+psycopg2://h/shop", "'postgresql://h/shop'"),
        ("postgres://h/shop", "'postgresql://h/shop'"),
        ("mysql+aiomysql://h/shop", "'mysql+pymysql://h/shop'"),
        ("oracle+oracledb_async://h/shop", "'oracle+oracledb://h/shop'"),
    ],
)
def test_other_drivers_urls(url, ours):
    """A URL pasted from elsewhere gets an error that says how to write it here."""
    with pytest.raises(ConfigurationError) as caught:
        ConnectionPool(url)
    assert ours in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cp_maximum": 3}, "no pool option 'cp_maximum'"),
        ({"cp_mx": 3}, "Did you mean cp_max"),
        ({"cp_max": 0}, "0 to 0"),
        ({"cp_min": 3, "cp_max": 2}, "3 to 2"),
        ({"cp_min": -1}, "-1 to 10"),
        ({"cp_backlog": -1}, "cp_backlog is -1"),
        ({"cp_idle": -1}, "cp_idle is -1"),
        ({"cp_close_timeout": float("nan")}, "cp_close_timeout is nan"),
    ],
)
def test_wrong_options(options, text):
    """An option that is unknown or makes no sense is refused at once."""
    with pytest.raises(ConfigurationError, match=text):
        ConnectionPool("sqlite://", **options)


@pytest.mark.parametrize("source", ["postgresql://h/x", "psycopg"])
def test_driver_not_installed(source):
    """A driver that is not installed is named, with the extra that brings it."""
    code = """
        import sys
        sys.modules["psycopg"] = None
        from enterprise import ConfigurationError, ConnectionPool
        try:
            ConnectionPool(sys.argv[1])
        except ConfigurationError as error:
            print(error)
    """
    status, out, err = python(code, source)
    assert (status, err) == (0, "")
    assert "pip install 'threadbridge[postgres]'" in out


def test_import_is_light():
    """Importing the package imports neither SQLAlchemy nor a driver, nor does a module
    as the source; a SQLite URL imports no other driver.
    """
    code = """
        import sys
        import enterprise
        heavy = {"sqlalchemy", "psycopg", "sqlite3", "aiosqlite", "rich"}
        print(sorted(heavy & set(sys.modules)))
        enterprise.ConnectionPool("sqlite3", ":memory:")
        print(sorted(heavy & set(sys.modules)))
        enterprise.ConnectionPool("sqlite://")
        print(sorted(heavy & set(sys.modules)))
    """
    status, out, err = python(code)
    assert (status, err) == (0, "")
    assert out.splitlines() == ["[]", "['sqlite3']", "['sqlalchemy', 'sqlite3']"]


# -- unreachable, and secret -----------------------------------------------------------


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:s3cret@127.0.0.1:{port}/x",
        "postgresql://ada:s3cret@no-such-host.invalid/x",
        "postgresql://ada@127.0.0.1:{port}/x?password=s3cret",
        "postgresql://ada:s3%63ret@/x?host=/no/such/folder",
    ],
)
async def test_unreachable(url, caplog):
    """An unreachable server is ConnectFailed, caused by the driver's error."""
    caplog.set_level(logging.DEBUG)
    pool = ConnectionPool(url.format(port=_free_port()), cp_min=1, cp_noisy=True)
    for work in (pool.start(), pool.runQuery("select 1")):
        error = await outcome(work)
        assert isinstance(error, ConnectFailed)
        assert isinstance(error, ConnectionError)
        assert isinstance(error.__cause__, psycopg.OperationalError)
        assert "s3cret" not in all_texts(pool, error, caplog)
    await pool.close()


async def test_wrong_password(postgres, caplog):
    """With a wrong password the driver's error is the cause, and no password shows."""
    caplog.set_level(logging.DEBUG)
    url = postgres.guarded_url()
    wrong = url.replace(GUARDED_PASSWORD, "wr0ng-pass")
    async with ConnectionPool(wrong, cp_max=1, cp_noisy=True) as pool:
        error = await outcome(pool.runQuery("select 1"))
        assert isinstance(error, ConnectFailed)
        assert "password authentication failed" in str(error.__cause__)
        assert "wr0ng-pass" not in all_texts(pool, error, caplog)
    async with ConnectionPool(url, cp_max=1, cp_noisy=True) as pool:
        assert await pool.runQuery("select current_user") == [("guarded",)]
        error = await outcome(pool.runQuery("selekt"))
        assert GUARDED_PASSWORD not in all_texts(pool, error, caplog)


@pytest.mark.parametrize("spelled", ["conninfo", "keyword", "positional"])
async def test_password_outside_a_url(spelled, caplog):
    """A password given to the driver itself does not show either."""
    caplog.set_level(logging.DEBUG)
    where = f"host=127.0.0.1 port={_free_port()} user=ada"
    secret = f"{where} password=s3cret"
    arguments, keywords = {
        "conninfo": ((), {"conninfo": secret}),
        "positional": ((secret,), {}),
        "keyword": ((where,), {"password": "s3cret"}),
    }[spelled]
    async with ConnectionPool(psycopg, *arguments, **keywords) as pool:
        error = await outcome(pool.runQuery("select 1"))
        assert isinstance(error, ConnectFailed)
        assert "s3cret" not in all_texts(pool, error, caplog)


@pytest.mark.parametrize(
    "conninfo",
    [
        "password=' s3cret",
        "host=here s3cret",
        "postgresql://ada:s3cret%zz@localhost/shop",
        "postgresql://localhost/shop?s3cret",
    ],
)
def test_connection_string_that_cannot_be_read(conninfo):
    """One that libpq cannot read is refused at once, and no part of it is shown."""
    with pytest.raises(ConfigurationError, match="cannot read") as caught:
        ConnectionPool(psycopg, conninfo)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


async def test_secret_in_the_drivers_error(script, caplog):
    """Where a driver's error repeats the password, it is taken out of it."""
    script.will("connect", "fail cannot log in as ada with s3cret")
    async with ConnectionPool(script, user="ada", password="s3cret") as pool:
        error = await outcome(pool.runQuery("rows 1"))
        assert "cannot log in as ada with ***" in str(error.__cause__)
        assert "s3cret" not in all_texts(pool, error, caplog)


async def test_unreachable_file(tmp_path):
    """A file that cannot be opened is ConnectFailed, caused by sqlite3's error."""
    async with ConnectionPool(f"sqlite:///{tmp_path}/no/such/folder/x.db") as pool:
        error = await outcome(pool.runQuery("select 1"))
        assert isinstance(error, ConnectFailed)
        assert isinstance(error.__cause__, sqlite3.OperationalError)


async def test_server_comes_later(pg_proxy, pg_proxy_url):
    """A pool that could not connect serves as soon as the server can be reached."""
    pg_proxy.refuse()
    async with ConnectionPool(pg_proxy_url) as pool:
        assert isinstance(await outcome(pool.runQuery("select 1")), ConnectFailed)
        pg_proxy.heal()
        assert await pool.runQuery("select 1") == [(1,)]


def test_errors_are_exported():
    """What a user catches can be imported from the package itself."""
    for name in ("ConnectFailed", "ConnectionLost", "PoolFull", "PoolClosed"):
        assert issubclass(getattr(enterprise, name), Exception)

"""From what the user names as the database to the driver that reaches it.

A URL is read by SQLAlchemy, which knows every dialect's spelling and options; it is
imported here and only when a URL is given. No thread of its own, no state.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, cast

from enterprise.drivers._credentials import SECRETS, Connector
from enterprise.drivers.base import Driver
from enterprise.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

    from sqlalchemy.engine import URL

__all__ = ["driverFor"]

_log = logging.getLogger(__name__)

# URLs of asyncio's own drivers, as they get pasted, and what to write here instead.
_ASYNC_SPELLINGS = {
    "sqlite+aiosqlite": "sqlite",
    "sqlite+pysqlcipher": "sqlite",
    "postgresql+asyncpg": "postgresql",
    "postgresql+psycopg_async": "postgresql",
    "mssql+aioodbc": "mssql+pyodbc",
    "mysql+aiomysql": "mysql+pymysql",
    "mysql+asyncmy": "mysql+pymysql",
    "oracle+oracledb_async": "oracle+oracledb",
    "postgres": "postgresql",
    "postgresql+psycopg2": "postgresql",
    "postgresql+psycopg2cffi": "postgresql",
    "postgresql+pg8000": "postgresql",
}

# Databases, named where a URL or a driver belongs, and what to write instead.
_DATABASES = {
    "sqlite": "'sqlite:///shop.db' for a file, 'sqlite://' for one in memory",
    "postgres": "'postgresql://user:password@host/name'",
    "postgresql": "'postgresql://user:password@host/name'",
    "mysql": "'mysql+pymysql://user:password@host/name'",
    "mariadb": "'mariadb+pymysql://user:password@host/name'",
    "oracle": "'oracle+oracledb://user:password@host/?service_name=name'",
    "mssql": "'mssql+pyodbc://user:password@host/name?driver=...'",
}

# Which of our extras brings a driver.
_EXTRAS = {"psycopg": "postgres"}


def driverFor(
    source: object,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    connect_seconds: float,
    wal: bool | None,
    push: bool = True,
    bouncer: bool = False,
    prepare: bool = True,
    resolve: bool = False,
) -> Driver:
    """Find the driver for *source*.

    Args:
        source: a URL, the name of a DB-API module, the module itself, or a callable
            that opens a connection.
        args: positional arguments for connecting.
        kwargs: keyword arguments for connecting; with a URL they come on top of it.
        connect_seconds: how long connecting may take, where the driver can be told.
        wal: as for `SQLiteDriver`.
        push: as for `PostgresDriver`.
        bouncer: as for `PostgresDriver`.
        prepare: as for `PostgresDriver`.
        resolve: as for `PostgresDriver`.

    Raises:
        ConfigurationError: there is no such driver, or it is not installed.
    """
    dialect: Any = None
    if isinstance(source, str) and "://" in source:
        module_name, name, args, kwargs, dialect = _read_url(source, args, kwargs)
        module = _import(module_name)
    elif isinstance(source, str):
        module = _import(source)
        name = source
    elif callable(getattr(source, "connect", None)):
        module = cast("ModuleType", source)
        name = getattr(source, "__name__", type(source).__name__)
    elif callable(source):
        name = getattr(source, "__qualname__", type(source).__name__)
        return Driver(name, Connector(source, args, kwargs))
    else:
        raise ConfigurationError(
            f"A database cannot be reached through {type(source).__name__}. Pass a "
            "URL such as 'sqlite:///shop.db', a DB-API module or its name, or a "
            "function that connects."
        )
    module_name = getattr(module, "__name__", "")
    if module_name == "sqlite3":
        from enterprise.drivers.sqlite import SQLiteDriver

        return SQLiteDriver(args, kwargs, wal=wal)
    if module_name == "psycopg":
        from enterprise.drivers.postgres import PostgresDriver

        return PostgresDriver(
            name,
            args,
            kwargs,
            connect_seconds=connect_seconds,
            push=push,
            bouncer=bouncer,
            prepare=prepare,
            resolve=resolve,
        )
    _warn_of(module, name)
    connector = Connector(module.connect, args, kwargs)
    return Driver(name, connector, module, dialect=dialect)


def _warn_of(module: ModuleType, name: str) -> None:
    level = getattr(module, "apilevel", "2.0")
    if level != "2.0":
        _log.warning(
            "%s says that its apilevel is %r, and is taken for 2.0. If calls fail in "
            "odd ways, look for a DB-API 2.0 driver.",
            name,
            level,
        )
    if getattr(module, "threadsafety", 1) < 1:
        _log.warning(
            "%s says that its threadsafety is 0: it may not be used by several threads "
            "at once, and each connection has one. Say cp_max=1, and use it nowhere "
            "else, or look for another driver.",
            name,
        )


def _read_url(
    source: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, str, tuple[Any, ...], dict[str, Any], Any]:
    """Return the module's name, one without secrets, connect's arguments, a dialect."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(source)
    except (ArgumentError, ValueError):
        # Without a cause, and without the text: it may hold a password.
        raise ConfigurationError(
            "The database URL cannot be read. It looks like "
            "'postgresql://user:password@host:5432/name' or 'sqlite:///file.db'; "
            "special characters in it are written as %XX (urllib.parse.quote)."
        ) from None
    if url.password is not None:
        _refuse_bare_at(source)
    url = _respell(url)
    try:
        dialect = url.get_dialect()
    except NoSuchModuleError:
        raise ConfigurationError(
            f"No driver is known for {url.drivername!r} URLs. Use one of SQLAlchemy's "
            "names, such as sqlite, postgresql, mysql+pymysql or oracle+oracledb, and "
            "install the package that brings it."
        ) from None
    module_name = {"pysqlite": "sqlite3", "psycopg": "psycopg"}.get(dialect.driver, "")
    keywords: dict[str, Any] = {}
    if not module_name:  # Some dialects ask their driver how to connect.
        module = _module_of(dialect)
        module_name, keywords = module.__name__, {"dbapi": module}
    try:
        made = dialect(**keywords)
        url_args, url_kwargs = made.create_connect_args(url)
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"The options of {_shown(url)} cannot be used: {error}. Correct the part "
            "after the question mark."
        ) from None
    arguments = (*url_args, *args), {**url_kwargs, **kwargs}
    return module_name, _shown(url), *arguments, made


def _refuse_bare_at(source: str) -> None:
    """Refuse a password with an @ in it, whose rest would be shown as the host.

    Args:
        source: a URL with a password.

    Raises:
        ConfigurationError: there is an @ too many.
    """
    # The user's name may hold one, and so may an option's value.
    after_name = source.partition("://")[2].partition(":")[2]
    rest = after_name.partition("@")[2]
    if "@" in rest.partition("?")[0] or "@" in rest.partition("=")[0]:
        raise ConfigurationError(
            "There is an @ too many in the database URL, so it cannot be told where "
            "the password ends and the host begins. Write the password's special "
            "characters as %XX, an @ as %40 (urllib.parse.quote)."
        )


def _respell(url: URL) -> URL:
    ours = _ASYNC_SPELLINGS.get(url.drivername)
    if ours is not None:
        raise ConfigurationError(
            f"{url.drivername}:// URLs name a driver that this pool does not use: it "
            "brings its own threads, or its own loop. Write "
            f"{_shown(url.set(drivername=ours))!r} "
            "instead, with the password as it was."
        )
    if url.drivername == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    return url


def _module_of(dialect: Any) -> ModuleType:
    try:
        return cast("ModuleType", dialect.import_dbapi())
    except ImportError as error:
        raise _not_installed(str(error.name or dialect.driver)) from error


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(
        (".db", ".sqlite", ".sqlite3")
    ):
        raise ConfigurationError(
            f"{name!r} is neither a URL nor the name of a module. For a SQLite file "
            f"write 'sqlite:///{name}', for a server 'postgresql://user@host/name'."
        )
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if name.lower() in _DATABASES:
            raise ConfigurationError(
                f"{name!r} names a kind of database, and neither which one nor a "
                f"driver. Write a URL: {_DATABASES[name.lower()]}."
            ) from None
        raise _not_installed(name) from error
    if not callable(getattr(module, "connect", None)):
        raise ConfigurationError(
            f"The module {name!r} has no connect(), so it is no DB-API 2.0 driver. "
            "Pass a URL such as 'sqlite:///shop.db', or the driver's own module."
        )
    return module


def _not_installed(name: str) -> ConfigurationError:
    extra = _EXTRAS.get(name.partition(".")[0])
    remedy = (
        f"pip install 'threadbridge[{extra}]'"
        if extra
        else "install the package that brings it, or check the name's spelling"
    )
    return ConfigurationError(
        f"The driver {name!r} cannot be imported, so this database is out of reach. "
        f"To go on: {remedy}."
    )


def _shown(url: URL) -> str:
    # A password may also stand after the question mark, where SQLAlchemy shows it.
    url = url.difference_update_query(SECRETS)
    return url.render_as_string(hide_password=True)

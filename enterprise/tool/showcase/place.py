"""The database of a demonstration: somebody's, a new file, or a temporary one.

The loop thread enters here, before the demonstration and after it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from enterprise import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FileInTheWay",
    "Place",
    "givenPlace",
    "newFile",
    "settle",
    "temporaryFile",
]

# What SQLite may put beside its file.
_BESIDE = ("-journal", "-shm", "-wal")


class FileInTheWay(RuntimeError):
    """The file that was asked for cannot be made."""


@dataclass(frozen=True)
class Place:
    """A database to work in.

    Attributes:
        source: what a ConnectionPool is made from: a URL, or a driver's name and its
            arguments. A path goes without a URL, in which it would need escaping.
        ours: whether the database is new and nobody else's.
    """

    source: tuple[str, ...]
    ours: bool


@contextmanager
def temporaryFile() -> Iterator[Place]:
    """Have a SQLite file for the `with` block."""
    with TemporaryDirectory(prefix="enterprise-demo-") as folder:
        yield Place(("sqlite3", str(Path(folder, "demo.db"))), ours=True)


@contextmanager
def newFile(path: Path) -> Iterator[Place]:
    """Make a SQLite file, which stays unless the `with` block fails.

    Args:
        path: where there is nothing yet.

    Raises:
        FileInTheWay: there is something, or nothing can be made there.
    """
    try:
        path.open("xb").close()  # Ours from here on: nobody else can make it now.
    except FileExistsError:
        raise FileInTheWay(
            f"{path} exists already, and the demo only makes new files. Choose "
            "another name for --keep, or remove it."
        ) from None
    except OSError as error:
        raise FileInTheWay(
            f"{path} cannot be made: {error.strerror}. The demo needs a place for its "
            "database; choose a name in a folder that exists and where you may write."
        ) from error
    try:
        yield Place(("sqlite3", str(path)), ours=True)
    except BaseException:
        _remove(path)
        raise


@contextmanager
def givenPlace(url: str) -> Iterator[Place]:
    """Use the database that a URL names.

    Args:
        url: as SQLAlchemy spells them. A SQLite file that is not there would be made
            by looking at it; it is gone after the `with` block.

    Raises:
        FileInTheWay: the SQLite file cannot be made.
    """
    path = _sqlite_file(url)
    if path is None or path.exists():
        yield Place((url,), ours=False)
        return
    with newFile(path):
        yield Place((url,), ours=True)
    _remove(path)


async def settle(place: Place) -> None:
    """Bring all of a SQLite database into its one file, so that it can be moved.

    Connections that close at the same moment take each other for still open, and
    leave the last pages in a file beside it.

    Args:
        place: of the file, to which nobody is connected.
    """
    async with ConnectionPool(*place.source, cp_max=1, cp_wal=False) as pool:
        await pool.runQuery("pragma journal_mode = delete", write=True)


def _sqlite_file(url: str) -> Path | None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        read = make_url(url)
    except (ArgumentError, ValueError):
        return None  # The pool says what is wrong with it.
    named = read.database not in {None, "", ":memory:"} and "uri" not in read.query
    if read.get_backend_name() == "sqlite" and named:
        return Path(str(read.database))
    return None


def _remove(path: Path) -> None:
    for name in ("", *_BESIDE):
        path.with_name(path.name + name).unlink(missing_ok=True)

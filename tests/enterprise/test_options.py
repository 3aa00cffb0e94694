"""What a pool refuses to be made of, and what it says then."""

from __future__ import annotations

import pytest

from enterprise import ConfigurationError, ConnectFailed, ConnectionPool


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cp_max", "3"),
        ("cp_max", 2.5),
        ("cp_max", True),
        ("cp_max", 0),
        ("cp_min", -1),
        ("cp_backlog", "9"),
        ("cp_backlog", -1),
        ("cp_idle", "x"),
        ("cp_idle", -1),
        ("cp_close_timeout", float("nan")),
        ("cp_wal", "yes"),
        ("cp_name", 5),
        ("cp_openfun", 5),
        ("cp_mx", 5),
    ],
)
def test_option_that_makes_no_sense_is_named(option, value):
    """A wrong option is refused when the pool is made, by its name."""
    with pytest.raises(ConfigurationError, match=option):
        ConnectionPool("sqlite://", **{option: value})


@pytest.mark.parametrize("source", ["shop.db", "./a.db", "sqlite:/x.db", "my shop"])
def test_file_name_as_the_source_is_told_the_url(source):
    """A path is no URL; the error shows how one is written."""
    with pytest.raises(ConfigurationError, match="sqlite:///"):
        ConnectionPool(source)


async def test_keyword_the_driver_does_not_know():
    """A misspelt keyword goes to the driver, whose refusal is explained."""
    async with ConnectionPool("sqlite://", max_size=3) as pool:
        with pytest.raises(ConnectFailed, match="do not start with cp_"):
            await pool.runQuery("select 1")


async def test_folder_that_does_not_exist(tmp_path):
    """SQLite's advice speaks of folders, not of servers."""
    async with ConnectionPool(f"sqlite:///{tmp_path}/no/shop.db") as pool:
        with pytest.raises(ConnectFailed, match="folder exists"):
            await pool.runQuery("select 1")

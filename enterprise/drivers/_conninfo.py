"""libpq's connection strings, as far as we must look into them. Any thread."""

from __future__ import annotations

from typing import Any

import psycopg

from enterprise.errors import ConfigurationError

__all__ = ["passwordIn"]


def passwordIn(conninfo: Any) -> str:
    """Return the password in a connection string, which nobody may see.

    Args:
        conninfo: keywords and values, or a URL, as libpq reads them.

    Returns:
        Nothing where there is none.

    Raises:
        ConfigurationError: it cannot be read. What libpq says of it is not repeated:
            it quotes the part that it stumbles over, and that may be the password.
    """
    try:
        return str(psycopg.conninfo.conninfo_to_dict(str(conninfo)).get("password", ""))
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            "libpq cannot read the connection string, so no connection could ever be "
            "opened. It looks like 'host=localhost dbname=shop password=...' or "
            "'postgresql://user:password@host/name'; in the first one quote values "
            "that contain spaces, in the second one write special characters as %XX "
            "(urllib.parse.quote)."
        ) from None

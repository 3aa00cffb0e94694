"""Whether an error means that a connection has ended, as far as errors themselves say.

No state; any thread may enter.

Source: HikariCP's list of SQLSTATEs that evict a connection, and PostgreSQL's appendix
of error codes.
"""

from __future__ import annotations

__all__ = ["endsSession", "sqlstate"]

# Beside class 08, "connection exception". PostgreSQL: ended by an administrator, by a
# crash, not yet up, its database dropped, idle for too long; idle in a transaction for
# too long, or in it for too long. JDBC's and ODBC's: a disconnect failed.
_ENDING = {"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04", "01002"}

# How long a code of the SQL standard is.
CODE_LENGTH = 5


def sqlstate(error: BaseException) -> str:
    """Return the five characters by which the database names *error*, or "".

    Args:
        error: a driver's; psycopg and MySQL's say `sqlstate`, psycopg2 `pgcode`, and
            pyodbc has it as its first argument.
    """
    first = error.args[0] if error.args else None
    for code in (getattr(error, "sqlstate", None), getattr(error, "pgcode", None)):
        if isinstance(code, str) and code:
            return code
    plain = isinstance(first, str) and len(first) == CODE_LENGTH
    return str(first) if plain and str(first).isalnum() else ""


def endsSession(error: BaseException) -> bool:
    """Say whether the database has ended the session with *error*.

    Args:
        error: a driver's.
    """
    # A server that says how severe it is has the last word: its own connection to yet
    # another server may be lost (08006 of a foreign table) while ours lives.
    severity = getattr(getattr(error, "diag", None), "severity_nonlocalized", None)
    if severity:
        return severity in ("FATAL", "PANIC")
    code = sqlstate(error)
    return code.startswith("08") or code in _ENDING

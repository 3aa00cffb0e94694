"""The pool's own options: what starts with `cp_`, checked, with the reason for each."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from typing import TYPE_CHECKING, Any, Self

from enterprise.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["Options"]


_SECONDS = ((int, float), "a number of seconds")
_FLAG = ((bool,), "True or False")
_HOOK = ((object,), "a function that takes a connection")

# What each option may be, and how to say so.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "cp_min": ((int,), "an int"),
    "cp_max": ((int,), "an int"),
    "cp_backlog": ((int, type(None)), "an int, or None for no bound"),
    "cp_connect_timeout": _SECONDS,
    "cp_idle": _SECONDS,
    "cp_close_timeout": _SECONDS,
    "cp_timeout": _SECONDS,
    "cp_query_timeout": ((int, float, type(None)), "a number of seconds, or None"),
    "cp_lifetime": _SECONDS,
    "cp_check": _SECONDS,
    "cp_keepalive": _SECONDS,
    "cp_grace": _SECONDS,
    "cp_leak": _SECONDS,
    "cp_good_sql": ((str, type(None)), "a string"),
    "cp_reconnect": _FLAG,
    "cp_name": ((str, type(None)), "a string"),
    "cp_noisy": _FLAG,
    "cp_openfun": _HOOK,
    "cp_resetfun": _HOOK,
    "cp_closefun": _HOOK,
    "cp_wal": ((bool, type(None)), "True, False or None"),
    "cp_group_commit": _FLAG,
    "cp_push_timeout": _FLAG,
    "cp_pgbouncer": _FLAG,
    "cp_resolve_commit": _FLAG,
    "cp_pipeline": _FLAG,
}


# What others call it, or what the old adbapi had, and what to do here instead.
_ELSEWHERE = {
    "cp_reactor": "Leave it out: answers go home to the loop they were asked from.",
    "cp_threads": "Each connection has a thread of its own: say cp_max.",
    "cp_size": "Say cp_max.",
    "cp_pool_size": "Say cp_max.",
    "cp_maxsize": "Say cp_max.",
    "cp_minsize": "Say cp_min.",
    "cp_max_overflow": "All connections count in cp_max; cp_backlog bounds the queue.",
    "cp_recycle": "Say cp_lifetime.",
    "cp_pre_ping": "Connections are checked after a rest: see cp_check.",
    "cp_pool_timeout": "Say cp_timeout.",
    "cp_statement_timeout": "Say cp_query_timeout.",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a ConnectionPool behaves.

    Attributes:
        cp_min: connections kept open although there is nothing to do.
        cp_max: connections at the most; SQLite's writer is one of them.
        cp_backlog: jobs that may wait beyond one for each connection. 0 is the 2002
            paper's strictness, None lifts the bound.
        cp_connect_timeout: seconds that connecting may take, where the driver can be
            told so.
        cp_idle: seconds after which a connection above the minimum that had nothing
            to do is closed.
        cp_timeout: seconds that a call may wait for a connection; then PoolTimeout.
        cp_query_timeout: seconds that a call may take in all, where it says nothing
            else; then QueryTimeout. None for no limit.
        cp_lifetime: seconds after which a connection is replaced, less up to 5 % that
            keep those opened together from being replaced together.
        cp_check: a connection that had nothing to do for more seconds than this is
            checked before its next job.
        cp_keepalive: an idle connection is checked every so many seconds.
        cp_grace: seconds that a driver has to confirm a cancel, before the connection
            is cut off.
        cp_leak: a lease held for more seconds than this is warned about.
        cp_good_sql: what to ask a connection to see whether it is alive; None for the
            driver's cheapest.
        cp_reconnect: True, or left out: lost connections are always replaced.
        cp_close_timeout: seconds that `close` lets work go on before it stops it.
        cp_name: for thread names, logs and texts.
        cp_noisy: log opening and closing of connections at INFO instead of DEBUG.
        cp_openfun: called with each new raw connection, in its thread.
        cp_resetfun: called with the raw connection after each job, when the answer is
            on its way, to clear away what the job left in the session. psycopg then
            prepares nothing by itself: it would not notice a DISCARD.
        cp_closefun: called with each raw connection that lives, before it is closed.
        cp_wal: for SQLite; True sets the write-ahead log on an existing file too,
            False not even on a new one.
        cp_group_commit: for SQLite; let single writes that wait share one COMMIT, which
            is what makes them slow on a disk.
        cp_push_timeout: for PostgreSQL; have the server keep a call's time limit, too,
            in case that ours does not get through to it.
        cp_pgbouncer: for PostgreSQL behind PgBouncer, which hands sessions around; no
            prepared statements then, and no time limit in a session.
        cp_resolve_commit: for PostgreSQL; when a connection is lost during a COMMIT,
            find out on another one what became of it.
        cp_pipeline: for PostgreSQL; send single statements that wait together, each
            still its own transaction.
    """

    cp_min: int = 0
    cp_max: int = 10
    cp_backlog: int | None = 10_000
    cp_connect_timeout: float = 10
    cp_idle: float = 600
    cp_close_timeout: float = 5
    cp_timeout: float = 30
    cp_query_timeout: float | None = None
    cp_lifetime: float = 1800
    cp_check: float = 1
    cp_keepalive: float = 120
    cp_grace: float = 1
    cp_leak: float = 60
    cp_good_sql: str | None = None
    cp_reconnect: bool = True
    cp_name: str | None = None
    cp_noisy: bool = False
    cp_openfun: Callable[[Any], object] | None = None
    cp_resetfun: Callable[[Any], object] | None = None
    cp_closefun: Callable[[Any], object] | None = None
    cp_wal: bool | None = None
    cp_group_commit: bool = True
    cp_push_timeout: bool = True
    cp_pgbouncer: bool = False
    cp_resolve_commit: bool = False
    cp_pipeline: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_kind(field.name, getattr(self, field.name))
        if self.cp_max < 1 or not 0 <= self.cp_min <= self.cp_max:
            raise ConfigurationError(
                f"A pool of {self.cp_min} to {self.cp_max} connections is not "
                "possible. Choose cp_min of 0 or more, and a cp_max of 1 or more that "
                "is not below it."
            )
        if self.cp_backlog is not None and self.cp_backlog < 0:
            raise ConfigurationError(
                f"cp_backlog is {self.cp_backlog}. It counts jobs that may wait: "
                "choose 0 or more, or None for no bound."
            )
        if not self.cp_reconnect:
            raise ConfigurationError(
                "cp_reconnect is False. A connection that is lost serves nobody, so it "
                "is always replaced: leave the option out."
            )
        for name, (kinds, _) in _KINDS.items():
            value = getattr(self, name)
            if float in kinds and value is not None and not value >= 0:
                raise ConfigurationError(
                    f"{name} is {value!r}. It counts seconds: choose 0 or more."
                )

    @staticmethod
    def _check_kind(name: str, value: object) -> None:
        kinds, words = _KINDS[name]
        # True is an int to Python, but hardly a number of connections.
        fits = isinstance(value, kinds) and (
            bool in kinds or not isinstance(value, bool)
        )
        if _KINDS[name] is _HOOK:
            fits = value is None or (
                callable(value) and not inspect.iscoroutinefunction(value)
            )
        if not fits:
            raise ConfigurationError(
                f"{name} is {value!r}, of type {type(value).__name__}. Pass {words}."
            )

    @classmethod
    def split(cls, keywords: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Divide *keywords* into our options and the driver's.

        Args:
            keywords: what the pool was called with.

        Returns:
            The options, and what goes to the driver.

        Raises:
            ConfigurationError: an option is unknown or makes no sense.
        """
        ours = {k: v for k, v in keywords.items() if k.startswith("cp_")}
        theirs = {k: v for k, v in keywords.items() if not k.startswith("cp_")}
        known = [field.name for field in dataclasses.fields(cls)]
        for name in ours:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"Did you mean {near[0]}?" if near else f"There are: {known}."
                hint = _ELSEWHERE.get(name, hint)
                raise ConfigurationError(
                    f"There is no pool option {name!r}; what starts with cp_ is ours. "
                    f"{hint}"
                )
        return cls(**ours), theirs

"""Who we are to the database, where that changes: passwords that expire.

A user name or password may be given as a function, which is asked at each connect, on
the thread that is going to own the connection. What it gave is a secret like any other.

Source: psycopg_pool's and asyncpg's callable arguments, for the tokens of clouds.
"""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

from enterprise.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SECRETS", "Connector"]

# What drivers call the words that nobody may see, and what else may be asked for.
SECRETS = ("password", "passwd", "pwd", "sslpassword", "token", "access_token")
_ASKED = (*SECRETS, "user", "username")

# How many secrets are remembered, to be taken out of errors: workers may still speak of
# the one before.
REMEMBERED = 16


class Connector:
    """Opens connections with what is to be said at that moment.

    Args:
        connect: the driver's own function.
        args: its positional arguments.
        kwargs: its keyword arguments; a user name or password may be a function
            without parameters.

    Raises:
        ConfigurationError: such a function is a coroutine function.
    """

    def __init__(
        self, connect: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._connect = connect
        self._args = args
        self._kwargs = kwargs
        self._asked = {k: v for k, v in kwargs.items() if k in _ASKED and callable(v)}
        # Appended to by workers, which is atomic. The fixed ones are never pushed out.
        self._fixed = tuple(
            str(kwargs[key])
            for key in SECRETS
            if kwargs.get(key) and key not in self._asked
        )
        self._given: deque[str] = deque(maxlen=REMEMBERED)
        for name, function in self._asked.items():
            if inspect.iscoroutinefunction(function):
                raise ConfigurationError(
                    f"{name} is the coroutine function {function!r}. It is asked in a "
                    "worker's thread, where no loop runs: pass a plain function, which "
                    "may block."
                )

    def __call__(self) -> Any:
        """Ask, and connect."""
        if not self._asked:
            return self._connect(*self._args, **self._kwargs)
        said = {name: function() for name, function in self._asked.items()}
        for name, value in said.items():
            if name in SECRETS and value and value not in self._given:
                self._given.append(str(value))
        return self._connect(*self._args, **{**self._kwargs, **said})

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown: passwords given, and those given lately."""
        return (*self._fixed, *self._given)

    def __repr__(self) -> str:
        return f"<Connector through {self._connect!r}>"

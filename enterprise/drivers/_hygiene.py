"""Errors that can be kept: no secrets in them, and nothing held by them."""

from __future__ import annotations

import traceback

__all__ = ["clearFrames", "redacted"]


def clearFrames(error: BaseException) -> None:
    """Let go of what the frames of *error* and of its causes hold; the lines stay.

    A connect that timed out has a half-open connection in them, which nobody else
    closes, and the error is kept as long as the outage lasts.

    Args:
        error: what a driver raised.
    """
    seen: set[int] = set()
    todo: BaseException | None = error
    while todo is not None and id(todo) not in seen:
        seen.add(id(todo))
        traceback.clear_frames(todo.__traceback__)
        todo = todo.__cause__ or todo.__context__


def redacted(value: object, secrets: tuple[str, ...]) -> object:
    """Return *value* with stars in place of secrets.

    Args:
        value: one of an exception's arguments.
        secrets: what nobody may see.
    """
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
    return value

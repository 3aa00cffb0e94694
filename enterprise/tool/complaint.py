"""How an error becomes the one line that a person at a shell reads. Any thread."""

from __future__ import annotations

import re

__all__ = ["complaint"]

# What could be a password: in a URL's authority, up to the last @ (people forget to
# escape theirs), and among its parameters.
_SECRETS = (
    (re.compile(r"(://[^:/@\s]*):\S*@"), r"\1:***@"),
    (re.compile(r"(password=)[^&\s]+", re.IGNORECASE), r"\1***"),
)


def complaint(error: BaseException) -> str:
    """Write an error's text on one line, without passwords.

    Args:
        error: ours, or a driver's. Ours explain themselves; the others come with the
            name of their class, which is what one would search for.

    Returns:
        the line, without its end.
    """
    text = " ".join(str(error).split())
    if not _is_ours(error):
        name = type(error).__name__
        text = f"{name}: {text}" if text else name
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _is_ours(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    return package in {"threadable", "threadpool", "enterprise"}

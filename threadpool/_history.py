"""Where Deferreds were made and fired: kept while debugging is on. Any thread.

While it is off nothing is kept and nothing is paid: the hooks are not there.

Source: `setDebugging` of Twisted.
"""

from __future__ import annotations

import asyncio
import traceback
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from threadable import hook

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["getDebugging", "historyOf", "setDebugging"]

# Frames of this package, and of what turns the loop, say nothing about the program
# that is being debugged.
_SILENT: Final = tuple(
    str(Path(str(module)).parent)
    for module in (__file__, hook.__file__, asyncio.__file__)
)

_made: Final[MutableMapping[Any, list[str]]] = weakref.WeakKeyDictionary()
_fired: Final[MutableMapping[Any, list[str]]] = weakref.WeakKeyDictionary()

_debugging = False


def setDebugging(on: bool) -> None:
    """Keep the stacks of those who make and fire Deferreds, from now on; or stop it.

    They are shown when a Deferred is fired twice, and when nobody handles its failure.
    Making and firing a Deferred then costs some hundred times as much.

    Args:
        on: whether to.
    """
    global _debugging  # noqa: PLW0603 - one switch in one process
    from threadpool._chain import Chain  # It asks this room for histories.

    if bool(on) is _debugging:
        return
    _debugging = bool(on)
    change = hook.addPre if on else hook.removePre
    change(Chain, "__init__", _note_maker)
    change(Chain, "_fire", _note_firer)
    if not on:
        _made.clear()
        _fired.clear()


def getDebugging() -> bool:
    """Say whether the stacks are kept."""
    return _debugging


def historyOf(deferred: object) -> str:
    """Return where *deferred* was made (C:) and fired (I:), as lines; "" if unknown.

    Args:
        deferred: any Deferred.
    """
    told = []
    for title, mark, stacks in (("made", "C", _made), ("fired", "I", _fired)):
        stack = stacks.get(deferred)
        if stack:
            told.append(f"\n (it was {title} here, innermost call last)")
            lines = "".join(stack).splitlines()
            told += [f"\n {mark}: {line}" for line in lines]
    return "".join(told)


def _note_maker(deferred: object, *_: object, **__: object) -> None:
    _made[deferred] = _stack()


def _note_firer(deferred: object, *_: object, **__: object) -> None:
    _fired.setdefault(deferred, _stack())  # Who fires it again meets the error.


def _stack() -> list[str]:
    frames = [
        frame
        for frame in traceback.extract_stack()
        if not frame.filename.startswith(_SILENT)
    ]
    return traceback.format_list(frames)

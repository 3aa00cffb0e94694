"""System events: what shall happen when the loop starts and when it ends.

An event has three phases. The triggers of a phase run in the order they were added;
the next phase begins when everything they returned that can be waited for is over.
Loop thread only, but for adding before there is a loop.

Source: `addSystemEventTrigger` of Twisted, where only the first phase is waited for.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from threadpool._coroutine import fromCoroutine, maybeDeferred

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadpool._deferred import Deferred
    from threadpool.loops import Handle

    Later: TypeAlias = Callable[[float, Callable[[], object]], Handle]

__all__ = ["Phase", "Trigger", "Triggers"]

_log = logging.getLogger(__name__)

Phase: TypeAlias = Literal["before", "during", "after"]

PHASES: Final = ("before", "during", "after")

# How long a trigger may keep the next phase waiting before the log says so.
PATIENCE_SECONDS: Final = 5.0


class Trigger:
    """One function that shall be called in one phase of one event."""

    def __init__(self, phase: str, event_type: str, call: Callable[[], object]) -> None:
        self.phase = phase
        self.event_type = event_type
        self.call = call

    def __repr__(self) -> str:
        return f"<Trigger {self.phase} {self.event_type}: {self.call!r}>"


class Triggers:
    """All triggers of one reactor, by event and phase."""

    def __init__(self) -> None:
        # Not a list per phase: a trigger runs once, and may be removed until then.
        self._waiting: dict[tuple[str, str], list[Trigger]] = {}

    def add(self, phase: str, event_type: str, call: Callable[[], object]) -> Trigger:
        """Have *call* called once, in that phase of the next such event.

        Args:
            phase: "before", "during" or "after".
            event_type: any name; the reactor fires "startup" and "shutdown".
            call: what to call.

        Raises:
            KeyError: there is no such phase.
        """
        if phase not in PHASES:
            raise KeyError(
                f"There is no phase {phase!r}. An event has the phases before, during "
                "and after."
            )
        trigger = Trigger(phase, event_type, call)
        self._waiting.setdefault((event_type, phase), []).append(trigger)
        return trigger

    def remove(self, trigger: Trigger) -> None:
        """Forget *trigger*.

        Args:
            trigger: what `add` returned.

        Raises:
            TypeError: it is something else.
            ValueError: it has run, or was removed before.
        """
        if not isinstance(trigger, Trigger):
            raise TypeError(
                f"{trigger!r} is no trigger. Pass what addSystemEventTrigger returned."
            )
        try:
            self._waiting.get((trigger.event_type, trigger.phase), []).remove(trigger)
        except ValueError:
            raise ValueError(
                f"{trigger!r} is not waiting here: it has run, or was removed before. "
                "A trigger runs once."
            ) from None

    def fire(self, event_type: str, later: Later | None = None) -> Deferred[None]:
        """Run the three phases of that event, one after the other.

        Args:
            event_type: its name. What nobody waits for is over at once.
            later: calls a function after so many seconds; a trigger that takes long
                is then told of in the log.

        Returns:
            A Deferred that fires when the last phase is over.
        """
        return fromCoroutine(self._fire(event_type, later))

    def __bool__(self) -> bool:
        return any(self._waiting.values())

    async def _fire(self, event_type: str, later: Later | None) -> None:
        for phase in PHASES:
            waiting = self._waiting.get((event_type, phase), [])
            under_way: list[tuple[Trigger, Deferred[Any]]] = []
            # Triggers may add triggers, to this phase as well.
            while waiting or under_way:
                while waiting:
                    trigger = waiting.pop(0)
                    over = maybeDeferred(trigger.call).addErrback(_report, trigger)
                    under_way.append((trigger, over))
                await _patiently(*under_way.pop(0), later)


async def _patiently(
    trigger: Trigger, over: Deferred[Any], later: Later | None
) -> None:
    timer = None
    if later is not None and not over.done():
        timer = later(PATIENCE_SECONDS, functools.partial(_tell, trigger))
    try:
        await over
    finally:
        if timer is not None:
            timer.cancel()


def _tell(trigger: Trigger) -> None:
    _log.warning(
        "Still waiting for %r, after %g seconds. What it returned has not fired: the "
        "next phase, and the end, wait for it.",
        trigger,
        PATIENCE_SECONDS,
    )


def _report(failure: Any, trigger: Trigger) -> None:
    _log.error(
        "%r failed: %s. The others go on.",
        trigger,
        failure,
        exc_info=(failure.type, failure.value, failure.tb),
        extra={"failure": failure},
    )

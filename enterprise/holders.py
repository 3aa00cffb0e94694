"""Holders: who has a pool's connections at this moment, in words. Any thread.

Source: Ecto's checkout errors and HikariCP's leak reports, which name who has what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from threadpool._blocking import waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from enterprise.jobs import DatabaseJob
    from threadpool.team import Team

__all__ = ["Holder", "holdersOf", "listed", "restsSince"]

# So many are named in a text; an attribute has all of them.
NAMED = 3

State: TypeAlias = Literal["working", "idle", "blocked", "abandoned"]

_SAID = {"working": "", "idle": ", idle", "blocked": ", waits for the event loop"}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has one connection.

    Attributes:
        label: SQL without values, a function's name, or what a transaction does.
        seconds: for which it has had it.
        state: "working"; "idle", a transaction whose block does something else;
            "blocked", in blockingCallFromThread; or "abandoned", a driver that did not
            react to a cancel, whose caller was told without it.
    """

    label: str
    seconds: float
    state: State

    def __str__(self) -> str:
        if self.state == "abandoned":
            return f"{self.label} (abandoned {self.seconds:.1f} s after it began)"
        return f"{self.label} (for {self.seconds:.1f} s{_SAID[self.state]})"


def holdersOf(teams: Iterable[Team[Any]], now: float) -> tuple[Holder, ...]:
    """Return who has the connections of *teams*, longest first.

    Args:
        teams: lanes of one pool.
        now: seconds of time.monotonic().
    """
    blocked = {call.job for call in waiting.copy()}
    held = [run for team in teams for run in team.runs()]
    held.sort(key=lambda run: run[1])
    return tuple(
        Holder(job.label(), max(0.0, now - since), _state(job, job in blocked))
        for job, since in held
    )


def _state(job: DatabaseJob[Any], blocked: bool) -> State:
    if job.released:
        return "abandoned"
    if blocked:
        return "blocked"
    return "working" if job.idleSince() == math.inf else "idle"


def restsSince(job: DatabaseJob[Any]) -> float:
    """Return since when *job* has kept its worker without any work for it.

    Args:
        job: one that a worker does.

    Returns:
        Seconds of time.monotonic(); math.inf where it works, or is being stopped.
    """
    if job.cancel_wanted:
        return math.inf
    for call in waiting.copy():
        if call.job is job:
            return call.since
    return job.idleSince()


def listed(what: Sequence[object]) -> str:
    """Write *what* as one text: the first three, and how many more.

    Args:
        what: holders, labels; anything with a text.
    """
    text = "; ".join(str(each) for each in what[:NAMED])
    more = len(what) - NAMED
    return f"{text}; and {more} more" if more > 0 else text

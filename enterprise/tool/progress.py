"""How far a piece of work is: a bar on a terminal, else a line when it is done.

A `Step` is counted up by one thread at a time, the loop's or a worker's. Everything
else belongs to the loop thread. `rich` draws the bar where it is installed.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from rich.progress import Progress

__all__ = ["Bar", "Display", "Lines", "Step", "Stopped", "displayOn", "watched"]

# Short enough to notice what a user of the loop would.
PULSE_SECONDS = 0.01
# Ten pictures a second look fluent, and cost the loop about 1 % of its time.
PULSES_PER_PICTURE = 10


class Stopped(RuntimeError):
    """Nobody waits for this step any more; raised to whoever still works on it."""


class Step:
    """A piece of work whose size is known.

    Args:
        title: what is done, for people.
        total: units of work.

    Attributes:
        done: units so far.
        seconds: how long it took, once it is finished; 0 before.
        late_seconds: the longest time for which the loop kept others waiting.
        stopped: the end, set by the loop thread and read by the one that works.
    """

    __slots__ = ("done", "late_seconds", "seconds", "stopped", "title", "total")

    def __init__(self, title: str, total: int) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.seconds = 0.0
        self.late_seconds = 0.0
        self.stopped = False

    def tick(self, units: int = 1) -> None:
        """Count work that was done.

        Args:
            units: how much.

        Raises:
            Stopped: the step was given up; so a loop in a worker hears of it.
        """
        if self.stopped:
            raise Stopped(
                f"{self.title} was given up after {self.done} of {self.total}; what "
                "is left of it is not done. Start it again if it is still wanted."
            )
        self.done += units

    def __repr__(self) -> str:
        return f"<Step {self.title!r}: {self.done} of {self.total}>"


class Display(AbstractContextManager["Display"]):
    """Where steps are shown, one at a time. This one shows nothing."""

    def begin(self, step: Step) -> None:
        """Show a new step."""

    def refresh(self, step: Step) -> None:
        """Show how far it is by now."""

    def end(self, step: Step) -> None:
        """Show that it is finished."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Leave the screen as it should stay."""


class Lines(Display):
    """A line for each finished step: for files, pipes, and the absence of rich.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def end(self, step: Step) -> None:
        """Write the line."""
        print(
            f"{step.title}: {step.done:,} in {step.seconds:.2f} s",
            file=self._stream,
            flush=True,
        )


class Bar(Display):
    """A bar for each step, the finished ones above.

    Args:
        bars: drawn by us only, so that no other thread takes the GIL for it.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._shown: dict[Step, int] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Give the cursor back."""
        self._bars.stop()

    def begin(self, step: Step) -> None:
        """Draw an empty bar."""
        self._shown[step] = self._bars.add_task(step.title, total=step.total)

    def refresh(self, step: Step) -> None:
        """Draw the bar as long as it has become."""
        bar = self._bars.tasks[self._shown[step]]
        self._bars.update(bar.id, completed=step.done, refresh=True)

    def end(self, step: Step) -> None:
        """Draw it to its full length."""
        self.refresh(step)


def displayOn(stream: TextIO) -> Display:
    """Choose what suits a stream.

    Args:
        stream: usually standard error, which leaves standard output to results.

    Returns:
        bars where it is a terminal and rich is installed, else lines.
    """
    if stream.isatty():
        try:
            from rich import console, progress
        except ImportError:
            return Lines(stream)
        return Bar(
            progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                console=console.Console(file=stream),
                auto_refresh=False,
            )
        )
    return Lines(stream)


@asynccontextmanager
async def watched(display: Display, title: str, total: int) -> AsyncIterator[Step]:
    """Show and time the work in the `async with` block.

    Args:
        display: where to show it.
        title: what is done.
        total: units of work.

    Yields:
        the step to `tick`. Left early, by an error or a cancel, it is stopped.
    """
    step = Step(title, total)
    display.begin(step)
    pulse = asyncio.create_task(_beating(display, step))
    started = perf_counter()
    try:
        yield step
        step.seconds = perf_counter() - started
        display.end(step)
    finally:
        step.stopped = True
        pulse.cancel()


async def _beating(display: Display, step: Step) -> None:
    while True:
        for _ in range(PULSES_PER_PICTURE):
            due = perf_counter() + PULSE_SECONDS
            await asyncio.sleep(PULSE_SECONDS)
            step.late_seconds = max(step.late_seconds, perf_counter() - due)
        display.refresh(step)

"""What several Deferreds that were waited for together fail with. Any thread.

Source: `FirstError` and `FailureGroup` of Twisted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    from threadpool.failure import Failure

__all__ = ["FailureGroup", "FirstError"]

# An error's text names so many failures; the others are in its attribute.
NAMED_FAILURES = 5


class FirstError(Exception):
    """One of several Deferreds failed, and the others were not waited for.

    Args:
        failure: what it failed with.
        index: its place among the Deferreds, the first is 0.

    Attributes:
        subFailure: what it failed with; its exception is the `__cause__`, too.
        index: its place among the Deferreds, the first is 0.

    Source: `FirstError` of Twisted.
    """

    def __init__(self, failure: Failure, index: int) -> None:
        super().__init__(failure, index)
        self.subFailure = failure
        self.index = index
        self.__cause__ = failure.value

    def __str__(self) -> str:
        return (
            f"Deferred {self.index} failed with {self.subFailure}, and the others "
            "were not waited for. Handle it there, or look at subFailure."
        )


class FailureGroup(ExceptionGroup[Exception]):
    """None of the Deferreds in a race succeeded. `except*` sees each exception.

    Args:
        failures: what they failed with, in the order of the Deferreds; at least one.

    Attributes:
        failures: the same, as a list.
        exceptions: their exceptions. For one that is no Exception (a CancelledError)
            a RuntimeError stands there, caused by it.

    Source: `FailureGroup` of Twisted.
    """

    failures: list[Failure]

    def __new__(cls, failures: Iterable[Failure]) -> Self:
        failures = list(failures)
        named = [f"{i}: {one!s}" for i, one in enumerate(failures[:NAMED_FAILURES])]
        if len(failures) > NAMED_FAILURES:
            named.append(f"and {len(failures) - NAMED_FAILURES} more")
        group = super().__new__(
            cls,
            f"None of {len(failures)} Deferreds succeeded, so the race has no winner; "
            f"look at `failures`. {'; '.join(named)}",
            [_as_exception(index, failure) for index, failure in enumerate(failures)],
        )
        group.failures = failures
        return group

    def __init__(self, failures: Iterable[Failure]) -> None:
        # For pickle, which makes a new one of these arguments.
        super().__init__(self.failures)  # type: ignore[call-arg, arg-type]


def _as_exception(index: int, failure: Failure) -> Exception:
    if isinstance(failure.value, Exception):
        return failure.value
    stand_in = RuntimeError(
        f"Deferred {index} ended with {failure}, which is not an error but a request "
        "to stop. Look for who asked."
    )
    stand_in.__cause__ = failure.value
    return stand_in

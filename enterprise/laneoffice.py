"""What a worker asks of the pool it works for. Any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from enterprise.drivers.base import Driver, Lane
    from enterprise.errors import ConnectFailed
    from enterprise.jobs import DatabaseJob
    from enterprise.options import Options
    from enterprise.tally import Tally
    from enterprise.worker import ConnectionWorker

__all__ = ["LaneOffice"]


class LaneOffice(Protocol):
    """What a worker asks of the pool it works for. Any thread."""

    driver: Driver
    options: Options
    grace: float
    tally: Tally
    generation: int
    silent: bool

    def connecting(self) -> None:
        """An attempt to open a connection begins; `opened` or `failed` ends it."""
        ...

    def opened(self) -> None:
        """A connection was opened."""
        ...

    def closed(self) -> None:
        """A connection was closed."""
        ...

    def failed(self, lane: Lane, error: ConnectFailed, began: float) -> None:
        """No connection could be opened; whoever waits for it must be told."""
        ...

    def cancel(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have the driver stop *job* on *worker*'s connection."""
        ...

    def sever(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have *worker*'s connection cut off, for it does not confirm a cancel."""
        ...

    def release(self, worker: ConnectionWorker, job: DatabaseJob[Any]) -> None:
        """Have the caller of *job* told, for nothing stops it."""
        ...

    def lost(self) -> None:
        """A connection was found dead; the others may be, too."""
        ...

    def resubmit(self, job: DatabaseJob[Any]) -> None:
        """Queue *job* once more: there was no connection to do it on."""
        ...

    def passOn(self, job: DatabaseJob[Any]) -> None:
        """Let the writer do *job*, which turned out to write."""
        ...

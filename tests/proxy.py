"""A small TCP proxy that makes bad weather in front of a server.

    with Proxy(server.port) as proxy:
        pool = ConnectionPool(proxy.through(server.url(tcp=True)))
        proxy.natloss()

One thread of its own does all the work and owns every socket; the methods may be
called from any other thread and have taken effect when they return. Needs no pytest.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from tests.frontend import Frontend

if TYPE_CHECKING:
    from collections.abc import Callable

# Read at most this much at once, and nothing while that much waits to be written:
# a slow reader is to be felt at the other end, as it is without a proxy.
CHUNK_BYTES = 262_144

PATIENCE_SECONDS = 5.0

# The end of a COMMIT as PostgreSQL reports it; ROLLBACK if the transaction had failed.
COMMIT_DONE = (b"C\0\0\0\x0bCOMMIT\0", b"C\0\0\0\x0dROLLBACK\0")


@dataclass
class Traffic:
    """What went in one direction.

    Attributes:
        chunks: successful reads; close to the number of writes of a peer that waits
            for answers, fewer for one that does not.
        bytes: as the word says.
    """

    chunks: int = 0
    bytes: int = 0


@dataclass
class _Weather:
    """What happens to bytes and connections until `heal`."""

    delay: float = 0.0  # seconds, each way
    piece: int = 0  # bytes; 0: as they come
    frozen: bool = False
    natloss: bool = False
    junk: random.Random | None = None
    noise: bool = False
    tear: int | None = None  # bytes towards the client until the end


@dataclass
class _Half:
    """One direction of a connection."""

    source: socket.socket
    target: socket.socket
    traffic: Traffic
    waiting: deque[tuple[float, memoryview]] = field(default_factory=deque)
    held: int = 0  # bytes in `waiting`
    last_due: float = 0.0
    ended: bool = False  # nothing more will be read
    finished: bool = False  # nothing more will be written


@dataclass(eq=False)
class _Connection:
    """A client, the server, and what the weather has done to them."""

    up: _Half
    down: _Half
    frontend: Frontend = field(default_factory=Frontend)
    lost: bool = False  # forgotten by the network: swallows all, for ever
    ending: bool = False  # closes when everything has been written
    hushed: bool = False  # the client hears nothing any more; we wait for the COMMIT
    heard: bytes = b""
    budget: int | None = None

    def halves(self) -> tuple[_Half, _Half]:
        return self.up, self.down


class Proxy:
    """Forwards a loopback port of its own to a server; see the module's text.

    Args:
        port: the server's.
        host: the server's.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._server = (host, port)
        # Bound, not listening, and reserved for as long as we live: while we refuse,
        # no other process and no outgoing connection can be given this port.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port: int = self._place.getsockname()[1]
        if sys.platform != "linux":  # Elsewhere a bound port cannot be bound again.
            self._place.close()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self._connections: list[_Connection] = []
        self._commands: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._weather = _Weather()
        self._fault: Literal["", "request", "reply"] = ""
        self._fault_done = threading.Event()
        self._stopping = False
        self.to_server = Traffic()
        self.to_client = Traffic()
        self.accepted = 0
        self.messages: Counter[str] = Counter()
        self._listen()
        self._thread = threading.Thread(
            target=self._run, name=f"proxy-{self.port}", daemon=True
        )
        self._thread.start()

    def __repr__(self) -> str:
        return (
            f"<Proxy {self.port} -> {self._server[1]} open={self.open} "
            f"accepted={self.accepted} {self._weather}>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # -- for any thread ------------------------------------------------------------

    @property
    def open(self) -> int:
        """How many connections there are, the lost ones included."""
        return len(self._connections)

    @property
    def statements(self) -> int:
        """How many PostgreSQL statements have been sent for execution."""
        return self.messages["Q"] + self.messages["E"]

    def through(self, url: str) -> str:
        """Return a TCP *url* of the server such that it leads through this proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}").geturl()

    def heal(self) -> None:
        """Let the sun shine: forward everything. What is lost stays lost."""
        self._tell(self._heal)

    def delay(self, seconds: float) -> None:
        """Deliver everything later, in each direction."""
        self._change(_Weather(delay=seconds))

    def dribble(self, size: int = 97, seconds: float = 0.015) -> None:
        """Deliver in pieces of *size* bytes, *seconds* apart, in each direction."""
        self._change(_Weather(piece=size, delay=seconds))

    def freeze(self) -> None:
        """Accept, but read and deliver nothing; `heal` delivers it all."""
        self._change(_Weather(frozen=True))

    def natloss(self) -> None:
        """Forget all connections, and those to come, without telling anybody.

        Both kernels go on acknowledging bytes, which lead nowhere: no keepalive and no
        user timeout ever fires. After `heal` new connections work, the old ones never.
        """
        self._change(_Weather(natloss=True))

    def garbage(self, seed: int | None = None) -> None:
        """Replace what the server says by as many other bytes.

        Args:
            seed: of the random bytes; None for 0xFF, which no protocol understands.
        """
        junk = None if seed is None else random.Random(seed)
        self._change(_Weather(noise=True, junk=junk))

    def tear(self, after: int) -> None:
        """Let *after* more bytes through to each client, then end its connection."""
        self._change(_Weather(tear=after))

    def cut(self) -> None:
        """End every connection in an orderly way (FIN)."""
        self._tell(lambda: self._drop_all(abort=False))

    def reset(self) -> None:
        """End every connection rudely (RST)."""
        self._tell(lambda: self._drop_all(abort=True))

    def half_close(self, side: Literal["server", "client"] = "server") -> None:
        """Let *side* seem to have ended its half (FIN); the other half goes on."""
        self._tell(lambda: self._half_close(side))

    def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""
        self._tell(self._refuse)

    def commit_lost_request(self) -> threading.Event:
        """Lose the next COMMIT on its way to the server, then end the connection.

        Returns:
            An event that is set when it has happened.
        """
        return self._arm("request")

    def commit_lost_reply(self) -> threading.Event:
        """Lose the answer to the next COMMIT, then end the connection.

        Returns:
            An event that is set when it has happened.
        """
        return self._arm("reply")

    def stop(self) -> None:
        """End all connections, the listener and the thread. May be called twice."""
        if self._thread.is_alive():
            self._tell(self._stop)
        self._thread.join(PATIENCE_SECONDS)

    def _change(self, weather: _Weather) -> None:
        self._tell(lambda: self._set(weather))

    def _arm(self, fault: Literal["request", "reply"]) -> threading.Event:
        done = threading.Event()

        def arm() -> None:
            self._fault, self._fault_done = fault, done

        self._tell(arm)
        return done

    def _tell(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._commands.append((action, done))
        self._wake_out.send(b"!")
        if not done.wait(PATIENCE_SECONDS):
            raise TimeoutError(f"{self!r} does not react; has its thread died?")

    # -- commands, in the proxy's thread -------------------------------------------

    def _set(self, weather: _Weather) -> None:
        self._weather = weather
        for connection in self._connections:
            connection.lost = connection.lost or weather.natloss
            connection.budget = weather.tear

    def _heal(self) -> None:
        self._set(_Weather())
        self._listen()
        for connection in list(self._connections):
            if connection.lost and connection.up.ended:
                self._drop(connection, abort=True)  # As a server finds out, much later.

    def _drop_all(self, *, abort: bool) -> None:
        for connection in list(self._connections):
            self._drop(connection, abort=abort)

    def _half_close(self, side: str) -> None:
        for connection in list(self._connections):
            half = connection.down if side == "server" else connection.up
            half.ended = True
            half.waiting.clear()
            half.held = 0
            self._finish(connection, half)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self.port))
            self._listener.listen(128)
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _stop(self) -> None:
        self._stopping = True

    # -- the proxy's thread --------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                ready = self._selector.select(self._arrange())
                for key, mask in ready:
                    if key.fileobj is self._wake_in:
                        self._obey()
                    elif key.fileobj is self._listener:
                        self._accept()
                    elif key.data in self._connections:
                        self._serve(key.data, key.fileobj, mask)  # type: ignore[arg-type]
        finally:
            self._drop_all(abort=False)
            self._refuse()
            self._selector.close()
            for end in (self._place, self._wake_in, self._wake_out):
                end.close()

    def _obey(self) -> None:
        self._wake_in.recv(4096)
        while self._commands:
            action, done = self._commands.popleft()
            action()
            done.set()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # It has gone again.
        self.accepted += 1
        server = socket.socket()
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.connect_ex(self._server)  # A refusal shows at the first read.
        connection = _Connection(
            up=_Half(client, server, self.to_server),
            down=_Half(server, client, self.to_client),
            lost=self._weather.natloss,
            budget=self._weather.tear,
        )
        self._connections.append(connection)

    def _arrange(self) -> float | None:
        """Tell the selector what we wait for; return seconds until a piece is due."""
        now = time.monotonic()
        next_due: float | None = None
        for connection in self._connections:
            wanted = {connection.up.source: 0, connection.down.source: 0}
            for half in connection.halves():
                if connection.lost:
                    wanted[half.source] |= 0 if half.ended else selectors.EVENT_READ
                    continue
                if self._weather.frozen:
                    continue
                if not half.ended and half.held < CHUNK_BYTES:
                    wanted[half.source] |= selectors.EVENT_READ
                if half.waiting:
                    due = half.waiting[0][0]
                    if due <= now:
                        wanted[half.target] |= selectors.EVENT_WRITE
                    elif next_due is None or due < next_due:
                        next_due = due
            for end, events in wanted.items():
                self._watch(connection, end, events)
        return None if next_due is None else max(0.0, next_due - now)

    def _watch(self, connection: _Connection, end: socket.socket, events: int) -> None:
        known = self._selector.get_map().get(end)
        if known is None:
            if events:
                self._selector.register(end, events, connection)
        elif not events:  # Even for no events at all a hang-up would be reported.
            self._selector.unregister(end)
        elif known.events != events:
            self._selector.modify(end, events, connection)

    def _serve(self, connection: _Connection, end: socket.socket, mask: int) -> None:
        reading, writing = connection.halves()
        if reading.source is not end:
            reading, writing = writing, reading
        try:
            if mask & selectors.EVENT_READ:
                self._read(connection, reading)
            if mask & selectors.EVENT_WRITE:
                self._write(writing)
        except BlockingIOError:
            return
        except OSError:
            if not connection.lost:  # One side was rude to us; so are we to the other.
                self._drop(connection, abort=True)
                return
            reading.ended = True
        for half in connection.halves():
            self._finish(connection, half)

    def _read(self, connection: _Connection, half: _Half) -> None:
        data = half.source.recv(CHUNK_BYTES)
        if not data:
            half.ended = True
            return
        half.traffic.chunks += 1
        half.traffic.bytes += len(data)
        if connection.lost:
            return
        if half is connection.up:
            data = self._overhear(connection, data)
        else:
            data = self._distort(connection, data)
        if data and not half.finished:
            self._queue(half, memoryview(data))

    def _overhear(self, connection: _Connection, data: bytes) -> bytes:
        """Count the client's messages; return what of *data* may pass."""
        if connection.ending:
            return b""
        for kind, start, is_commit in connection.frontend.feed(data):
            self.messages[kind] += 1
            if not is_commit or not self._fault:
                continue
            if self._fault == "reply":
                connection.hushed = True
            else:
                connection.ending = True
                self._fault_done.set()
            self._fault = ""
            if connection.ending:
                return data[: max(0, start)]
        return data

    def _distort(self, connection: _Connection, data: bytes) -> bytes:
        """Return what the client hears when the server says *data*."""
        if connection.hushed:
            connection.heard = connection.heard[-32:] + data
            if any(tag in connection.heard for tag in COMMIT_DONE):
                connection.ending = True
                self._fault_done.set()
            return b""
        if self._weather.noise:
            junk = self._weather.junk
            data = junk.randbytes(len(data)) if junk else b"\xff" * len(data)
        if connection.budget is not None:
            data = data[: connection.budget]
            connection.budget -= len(data)
            connection.ending = connection.budget == 0
        return data

    def _queue(self, half: _Half, data: memoryview) -> None:
        piece = self._weather.piece or len(data)
        now = time.monotonic()
        if not self._weather.piece:
            # Later than what is queued already, or the bytes would change places.
            half.last_due = max(half.last_due, now + self._weather.delay)
            half.waiting.append((half.last_due, data))
        else:
            for start in range(0, len(data), piece):
                half.last_due = max(half.last_due, now) + self._weather.delay
                half.waiting.append((half.last_due, data[start : start + piece]))
        half.held += len(data)

    def _write(self, half: _Half) -> None:
        now = time.monotonic()
        while half.waiting and half.waiting[0][0] <= now:
            due, data = half.waiting.popleft()
            try:
                sent = half.target.send(data)
            except BlockingIOError:
                sent = 0
            half.held -= sent
            if sent < len(data):
                half.waiting.appendleft((due, data[sent:]))
                return

    def _finish(self, connection: _Connection, half: _Half) -> None:
        """Hand on the end of a half, once all that came before it has been written."""
        if connection not in self._connections:
            return
        up, down = connection.halves()
        if connection.lost:
            if up.ended and down.ended:
                self._drop(connection, abort=False)
            return
        if connection.ending and not (up.waiting or down.waiting):
            self._drop(connection, abort=False)
            return
        if half.ended and not half.waiting and not half.finished:
            half.finished = True
            with suppress(OSError):  # The other side may have gone already.
                half.target.shutdown(socket.SHUT_WR)
        if up.finished and down.finished and up.ended and down.ended:
            self._drop(connection, abort=False)

    def _drop(self, connection: _Connection, *, abort: bool) -> None:
        self._connections.remove(connection)
        for half in connection.halves():
            self._watch(connection, half.source, 0)
            if abort:
                linger = struct.pack("ii", 1, 0)
                half.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            half.source.close()

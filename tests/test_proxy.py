"""The proxy makes exactly the bad weather that it promises, and cleans up after it."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import ExitStack, closing

import psycopg
import pytest

from tests.frontend import Frontend
from tests.postgres import wait_until
from tests.proxy import Proxy


class Echo:
    """A server that says back what it hears, and ends when the client does."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard = bytearray()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection):
            while True:
                try:
                    data = connection.recv(65536)
                    self.heard += data
                    connection.sendall(data)
                except OSError:
                    return
                if not data:
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def echo():
    """A server of plain sockets."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo):
    """A proxy in front of the echo."""
    with Proxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def dial(proxy):
    """Make clients of the proxy, closed after the test."""
    with ExitStack() as stack:

        def connect():
            client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
            return stack.enter_context(client)

        yield connect


def receive(client: socket.socket, size: int) -> bytes:
    """Return *size* bytes, or fewer if the connection ends before."""
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def is_silent(client: socket.socket, seconds: float = 0.1) -> bool:
    """Tell whether nothing comes for a while."""
    client.settimeout(seconds)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def test_forwards_and_counts(proxy, dial):
    """Fair weather: every byte arrives, both directions are counted."""
    client = dial()
    client.sendall(b"hello")
    assert receive(client, 5) == b"hello"
    assert (proxy.to_server.bytes, proxy.to_server.chunks) == (5, 1)
    assert (proxy.to_client.bytes, proxy.to_client.chunks) == (5, 1)
    assert (proxy.accepted, proxy.open) == (1, 1)


def test_forwards_much_in_order(dial):
    """Eight megabytes come back unchanged, whatever the sizes of the buffers."""
    client = dial()
    data = random.Random(1).randbytes(8_000_000)
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert receive(client, len(data)) == data
    sender.join()


def test_end_is_handed_on(proxy, dial):
    """A client that ends its half gets all answers, then the end."""
    client = dial()
    client.sendall(b"bye")
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 100) == b"bye"
    wait_until(lambda: proxy.open == 0, "the proxy keeps the connection")


def test_delay(proxy, dial):
    """`delay` holds back each direction by that time, and loses nothing."""
    client = dial()
    proxy.delay(0.05)
    began = time.monotonic()
    client.sendall(b"slow")
    assert receive(client, 4) == b"slow"
    assert time.monotonic() - began >= 0.1


def test_dribble(proxy, dial):
    """`dribble` delivers small pieces, in order."""
    client = dial()
    proxy.dribble(97, 0.001)
    data = random.Random(2).randbytes(1000)
    client.sendall(data)
    first = client.recv(4096)
    assert len(first) <= 4 * 97  # A piece, or some if we were slow.
    assert first + receive(client, len(data) - len(first)) == data


def test_freeze_and_heal(proxy, dial, echo):
    """A frozen network accepts and is silent; healed, it delivers everything."""
    client = dial()
    proxy.freeze()
    late = dial()
    client.sendall(b"one")
    late.sendall(b"two")
    assert is_silent(client)
    assert not echo.heard
    proxy.heal()
    assert receive(client, 3) == b"one"
    assert receive(late, 3) == b"two"


def test_natloss_is_for_ever(proxy, dial, echo):
    """After `natloss` bytes are acknowledged and lost; only new connections heal."""
    client = dial()
    client.sendall(b"a")
    assert receive(client, 1) == b"a"
    proxy.natloss()
    late = dial()
    for end in (client, late):
        end.sendall(b"b" * 100_000)
        assert is_silent(end)
    proxy.heal()
    assert is_silent(client)
    assert is_silent(late)
    fresh = dial()
    fresh.sendall(b"c")
    assert receive(fresh, 1) == b"c"
    assert bytes(echo.heard) == b"ac"


def test_natloss_ends_after_the_client(proxy, dial):
    """A lost connection whose client has gone is forgotten by `heal`."""
    client = dial()
    wait_until(lambda: proxy.open == 1, "not accepted")
    proxy.natloss()
    client.close()
    assert proxy.open == 1
    wait_until(lambda: proxy.heal() or proxy.open == 0, "the lost one stays")


def test_cut_is_orderly(proxy, dial):
    """`cut` looks like an end of the stream."""
    client = dial()
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.cut()
    assert client.recv(1) == b""
    assert proxy.open == 0


def test_reset_is_rude(proxy, dial):
    """`reset` raises ConnectionResetError at the client."""
    client = dial()
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_half_close(proxy, dial, echo):
    """A half-closed connection reads as ended and still takes what is written."""
    client = dial()
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.half_close("server")
    assert client.recv(1) == b""
    client.sendall(b"y")
    wait_until(lambda: bytes(echo.heard) == b"xy", "the other half is closed as well")


def test_half_close_of_the_client(proxy, dial):
    """The server sees the client's end, which the client has not made."""
    client = dial()
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.half_close("client")
    assert client.recv(1) == b""  # The echo ends when the client seems to.


def test_tear(proxy, dial):
    """`tear` lets the first bytes of an answer through and no more."""
    client = dial()
    proxy.tear(3)
    client.sendall(b"answer")
    assert receive(client, 100) == b"ans"


@pytest.mark.parametrize("seed", [None, 7])
def test_garbage(proxy, dial, echo, seed):
    """`garbage` replaces what the server says, byte for byte."""
    client = dial()
    proxy.garbage(seed)
    client.sendall(b"good")
    answer = receive(client, 4)
    assert answer == (random.Random(7).randbytes(4) if seed else b"\xff" * 4)
    assert bytes(echo.heard) == b"good"


def test_refuse_and_heal(proxy, dial):
    """`refuse` turns new connections away, keeps the old, and `heal` opens again."""
    client = dial()
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial()
    client.sendall(b"y")
    assert receive(client, 1) == b"y"
    proxy.heal()
    dial()


def test_server_that_is_not_there():
    """If the server refuses, the client's connection is reset."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        with (
            Proxy(place.getsockname()[1]) as proxy,
            pytest.raises(ConnectionResetError),  # By either of the two.
            socket.create_connection(("127.0.0.1", proxy.port), 5) as client,
        ):
            client.recv(1)


def test_stop_twice_in_any_weather(echo):
    """A stopped proxy leaves no thread and no descriptor; twice is harmless."""
    proxy = Proxy(echo.port)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as client:
        client.sendall(b"x")
        proxy.freeze()
        proxy.stop()
        proxy.stop()
    assert proxy.open == 0


def packet(kind: bytes, body: bytes) -> bytes:
    """Return one message of the protocol."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


SESSION = [
    packet(b"", (80877103).to_bytes(4, "big")),  # Do you speak TLS?
    packet(b"", (196608).to_bytes(4, "big") + b"user\0x\0\0"),
    packet(b"Q", b"begin\0"),
    packet(b"P", b"\0insert into t values ($1) -- commit\0\0\0"),
    packet(b"B", b"\0\0" + b"v" * 200_000),
    packet(b"E", b"\0\0\0\0\0"),
    packet(b"S", b""),
    packet(b"P", b"done\0 COMMIT\0\0\0"),
    packet(b"B", b"\0done\0\0\0\0\0\0\0"),
    packet(b"E", b"\0\0\0\0\0"),
    packet(b"Q", b"select 1; commit\0"),
]


@pytest.mark.parametrize("size", [1, 7, 97, 1_000_000])
def test_frontend_finds_messages_in_any_pieces(size):
    """However the stream is cut, the messages and their places are the same."""
    stream = b"".join(SESSION)
    frontend = Frontend()
    found = []
    for start in range(0, len(stream), size):
        for kind, place, commit in frontend.feed(stream[start : start + size]):
            found += [(kind, start + place, commit)]
    places = [sum(map(len, SESSION[:number])) for number in range(len(SESSION))]
    kinds = ["ssl", "startup", *"QPBESPBEQ"]
    commits = [False] * 9 + [True] * 2
    assert found == list(zip(kinds, places, commits, strict=True))


def test_frontend_leaves_strangers_alone():
    """A stream that is not PostgreSQL's is not misread."""
    assert list(Frontend().feed(b"GET / HTTP/1.1\r\n\r\n")) == []


def connect(proxy: Proxy, **options: object) -> psycopg.Connection:
    """Connect psycopg through the proxy."""
    return psycopg.connect(
        f"host=127.0.0.1 port={proxy.port} user=postgres dbname=postgres", **options
    )


def test_statements_are_counted(pg_proxy):
    """N calls put N statements on the wire: simple ones, bound ones, prepared ones."""
    with connect(pg_proxy, autocommit=True) as connection:
        before = pg_proxy.statements
        connection.execute("select 1")
        connection.execute("select %s", (1,))
        for number in range(8):
            connection.execute("select %s + 1", (number,), prepare=True)
        assert pg_proxy.statements - before == 10
        assert pg_proxy.messages["startup"] == 1


@pytest.mark.parametrize("weather", ["delay", "dribble"])
def test_slow_network_gives_right_rows(pg_proxy, weather):
    """A slow network changes no answer."""
    with connect(pg_proxy) as connection:
        getattr(pg_proxy, weather)(seconds=0.002)
        query = "select n, repeat('x', n) from generate_series(1, 40) n"
        rows = connection.execute(query).fetchall()
        assert rows == [(n, "x" * n) for n in range(1, 41)]


@pytest.mark.parametrize("weather", ["cut", "reset", "half_close", "garbage", "tear"])
def test_broken_network_is_an_error(pg_proxy, weather):
    """A broken network makes psycopg raise; it never gives wrong rows."""
    with connect(pg_proxy, autocommit=True) as connection:
        argument = (9,) if weather == "tear" else ()
        getattr(pg_proxy, weather)(*argument)
        with pytest.raises(psycopg.DatabaseError):
            connection.execute("select 1")
        assert connection.broken


WAYS_TO_COMMIT = {
    "method": lambda connection: connection.commit(),
    "statement": lambda connection: connection.execute("commit"),
    "prepared": lambda connection: connection.execute("commit", prepare=True),
}


@pytest.mark.parametrize("way", ["method", "statement", "prepared", "pipeline"])
@pytest.mark.parametrize("lost", ["request", "reply"])
def test_commit_is_lost(pg_proxy, pg_proxy_url, postgres, way, lost):
    """A COMMIT lost on its way is not stored; one whose answer is lost, is."""
    name = pg_proxy_url.rpartition("/")[2]
    postgres.psql("create table t (n int)", name)
    url = pg_proxy_url.replace("+psycopg", "")
    with psycopg.connect(url, prepare_threshold=None) as connection:
        if way == "prepared":
            connection.execute("commit", prepare=True)
        connection.execute("insert into t values (%s)", (1,))
        done = getattr(pg_proxy, f"commit_lost_{lost}")()
        with pytest.raises(psycopg.OperationalError):
            if way == "pipeline":
                with connection.pipeline():
                    connection.execute("select 1")
                    connection.commit()
            else:
                WAYS_TO_COMMIT[way](connection)
        assert done.wait(5)
    wait_until(lambda: not postgres.backends(name), "the session goes on")
    stored = postgres.psql("select count(*) from t", name)
    assert stored == {"request": "0", "reply": "1"}[lost]


def test_fault_strikes_once(pg_proxy):
    """Only one COMMIT is lost; the next one gets through."""
    done = pg_proxy.commit_lost_reply()
    with (
        pytest.raises(psycopg.OperationalError),
        connect(pg_proxy) as connection,
    ):
        connection.execute("select 1")
    assert done.is_set()
    with connect(pg_proxy) as connection:
        connection.execute("select 1")

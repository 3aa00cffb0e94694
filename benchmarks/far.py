"""A server that is far away: a proxy that delivers everything a millisecond later.

In a process of its own, so that its work is not ours. One delay for all means that
what came first is due first: a single queue serves every connection.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections import deque
from contextlib import contextmanager, suppress
from time import perf_counter

DELAY_SECONDS = 0.001
CHUNK_BYTES = 65_536


@contextmanager
def proxy(port):
    """Run it before a loopback port; gives its own."""
    command = [sys.executable, "-m", "benchmarks.far", str(port)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()  # It ends with us, whatever happens.


class Proxy:
    """Forwards until its standard input ends."""

    def __init__(self, server_port: int):
        self.server = ("127.0.0.1", server_port)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.other = {}
        self.under_way = deque()

    def run(self) -> None:
        while True:
            # select, because epoll counts in whole milliseconds.
            sources = [sys.stdin, self.listener, *self.other]
            ready, _, _ = select.select(sources, (), (), self.until_due())
            if sys.stdin in ready:
                return
            due = perf_counter() + DELAY_SECONDS
            for source in ready:
                if source is self.listener:
                    self.accept()
                else:
                    self.receive(source, due)
            self.deliver()

    def until_due(self) -> float | None:
        if not self.under_way:
            return None
        return max(0.0, self.under_way[0][0] - perf_counter())

    def accept(self) -> None:
        ends = self.listener.accept()[0], socket.create_connection(self.server)
        for end, other in (ends, reversed(ends)):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.other[end] = other

    def receive(self, source: socket.socket, due: float) -> None:
        data = b""  # A peer that was rude is gone as well.
        with suppress(OSError):
            data = source.recv(CHUNK_BYTES)
        other = self.other[source]
        if not data:
            del self.other[source]  # There is no more to read; answers still pass.
        self.under_way.append((due, other, data))

    def deliver(self) -> None:
        now = perf_counter()
        while self.under_way and self.under_way[0][0] <= now:
            _, target, data = self.under_way.popleft()
            with suppress(OSError):  # It has hung up.
                if data:
                    target.sendall(data)
                else:
                    target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    far = Proxy(int(sys.argv[1]))
    print(far.listener.getsockname()[1], flush=True)
    far.run()

"""A loop as anybody may have one, and its adapter: the example of docs/loops.md."""

import heapq
import itertools
import queue
import time

from threadpool import loops


class Turnstile:
    """A loop of our own: what was posted, and what is due."""

    def __init__(self):
        self.posted = queue.SimpleQueue()
        self.due = []
        self.tie = itertools.count()
        self.events = loops.install(self)

    def post(self, function):
        self.posted.put(function)

    def later(self, seconds, function):
        timer = Timer(function)
        when = time.monotonic() + seconds
        heapq.heappush(self.due, (when, next(self.tie), timer))
        return timer

    def run(self, until):
        """Go round until the Deferred *until* has its result, and return that."""
        while not until.done():
            wait = self.due[0][0] - time.monotonic() if self.due else None
            try:
                self.posted.get(timeout=wait and max(wait, 0))()
            except queue.Empty:
                heapq.heappop(self.due)[2].function()
        return until.result()

    def end(self):
        self.run(self.events.farewell())
        self.events.close()


class Timer:
    def __init__(self, function):
        self.function = function

    def cancel(self):
        self.function = lambda: None

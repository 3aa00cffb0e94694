"""What the ground floor costs: synchronized methods beside hand-written locks.

    python -m benchmarks.ground_floor [--quick]

Each method adds a number to an attribute. All variants are measured in turn, again and
again, and the medians compared: what the machine does meanwhile meets them all alike.
The import is measured in processes of its own, with byte code at hand, as installed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

import threadable
from threadable import hook

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 2_000  # per turn: about a millisecond


class Ordinary:
    def __init__(self):
        self.total = 0

    def add(self, number):
        self.total += number


class Off(Ordinary):
    """Measured before threads are turned on."""

    synchronized = ("add",)

    def add(self, number):
        self.total += number


class HandWritten(Ordinary):
    def __init__(self):
        super().__init__()
        self._lock = threading.RLock()

    def add(self, number):
        with self._lock:
            self.total += number


class HandWrittenOfClass:
    total = 0
    _lock = threading.RLock()

    @classmethod
    def add(cls, number):
        with cls._lock:
            cls.total += number


class HandWrittenInherited(Ordinary):
    """Locks what it inherits from a class without locks."""

    def __init__(self):
        super().__init__()
        self._lock = threading.RLock()

    def add(self, number):
        with self._lock:
            return super().add(number)


class Pair(Ordinary):
    """Has exactly the one pre- and post-hook."""

    synchronized = ("add",)

    def add(self, number):
        self.total += number


class Slots:
    __slots__ = ("_threadable_lock", "total")
    synchronized = ("add",)

    def __init__(self):
        self.total = 0

    def add(self, number):
        self.total += number


class Inherited(Ordinary):
    """Names a method it inherits from a class without locks."""

    synchronized = ("add",)


class More(Pair):
    """Has a hook besides."""

    def add(self, number):
        self.total += number


class OfClass:
    total = 0
    synchronized = ("add",)

    @classmethod
    def add(cls, number):
        cls.total += number


def check(instance, number):
    """Stand for somebody's own pre-hook."""


def loop(thing) -> Callable[[], float]:
    """Make a function that measures CALLS calls, in seconds.

    Each variant gets code of its own: a shared one would be specialized by the
    interpreter for whichever class came first.
    """
    namespace = {"thing": thing, "clock": time.perf_counter, "turns": range(CALLS)}
    source = (
        "def run():\n"
        "    begin = clock()\n"
        "    for _ in turns: thing.add(1)\n"
        "    return clock() - begin\n"
    )
    exec(source, namespace)
    return namespace["run"]


def medians(things: dict[str, object], rounds: int) -> dict[str, float]:
    """Measure all, interleaved; the median of each, in seconds per call."""
    runs = {name: loop(thing) for name, thing in things.items()}
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run())
    return {name: statistics.median(each) / CALLS for name, each in times.items()}


def import_milliseconds(rounds: int) -> float:
    """Measure `import threadable`, which needs a fresh process each time."""
    program = (
        "import time; begin = time.perf_counter(); import threadable; "
        "print(time.perf_counter() - begin)"
    )
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        times = []
        for _ in range(rounds + 1):  # the first one compiles
            done = subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                check=True,
                env=env,
            )
            times.append(float(done.stdout))
    return statistics.median(times[1:]) * 1e3


def run(quick: bool) -> list[tuple[str, float, str]]:
    """Measure everything; threads are on afterwards.

    Returns:
        rows of what, a figure, and beside what: a ratio, but for the import.
    """
    rounds = 15 if quick else 201
    beside_ordinary = "x an ordinary method"
    beside_lock = "x the same method with a hand-written `with self._lock`"
    rows: list[tuple[str, float, str]] = []
    if threadable.threaded is not True:
        threadable.synchronize(Off)
        found = medians({"ordinary": Ordinary(), "off": Off()}, rounds)
        rows.append(
            ("synchronized, off", found["off"] / found["ordinary"], beside_ordinary)
        )
    threadable.init()
    threadable.synchronize(Pair, Slots, Inherited, OfClass, More)
    hook.addPre(More, "add", check)
    pairs = {
        "the two hooks": (Pair(), HandWritten()),
        "the lock in a slot": (Slots(), HandWritten()),
        "a class method": (OfClass(), HandWrittenOfClass()),
        "an inherited method": (Inherited(), HandWrittenInherited()),
        "one more pre-hook": (More(), HandWritten()),
    }
    things = {name: thing for name, (thing, _) in pairs.items()}
    hands = {f"{name}, by hand": hand for name, (_, hand) in pairs.items()}
    found = medians(things | hands, rounds)
    for name in things:
        ratio = found[name] / found[f"{name}, by hand"]
        rows.append((f"synchronized, {name}", ratio, beside_lock))
    milliseconds = import_milliseconds(3 if quick else 15)
    rows.append(("import threadable", milliseconds, "ms"))
    return rows


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}, uncontended, medians")
    for what, figure, beside in run("--quick" in sys.argv):
        print(f"{figure:6.2f} {beside:<72} {what}")

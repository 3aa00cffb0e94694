"""What an import costs, in a fresh interpreter that has imported what it stands on.

The packages import little by themselves, so it is their front doors that count. Timed
inside that interpreter, so that its own start is not in the figure; with byte code at
hand, as installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory

# Three here, in five rounds of their own, make a median of fifteen processes.
PROCESSES = 3

PROGRAM = """
from time import perf_counter
{before}
start = perf_counter()
{statement}
print((perf_counter() - start) * 1000)
"""


def stage():
    """The folder for the byte code: the first process fills it."""
    return TemporaryDirectory(prefix="benchmark-")


def threadable_over_python(load):
    return milliseconds(load, "import threadable")


def asyncio_over_python(load):
    return milliseconds(load, "import asyncio")


def threadpool_over_asyncio(load):
    front_door = "from threadpool.threads import deferToThread"
    return milliseconds(load, front_door, before="import asyncio")


def enterprise_over_asyncio(load):
    front_door = "from enterprise import ConnectionPool"
    return milliseconds(load, front_door, before="import asyncio")


def milliseconds(load, statement, before=""):
    program = PROGRAM.format(before=before, statement=statement)
    environment = os.environ | {"PYTHONPYCACHEPREFIX": load.target}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def measured():
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            check=True,
            env=environment,
        )
        return float(done.stdout)

    return median(measured() for _ in range(PROCESSES))

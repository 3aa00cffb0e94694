"""What an import costs, in a fresh interpreter that has imported what it stands on.

The packages import little by themselves, so it is their front doors that count.

Timed inside that interpreter, so that its own start is not in the figure.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from statistics import median

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
    return nullcontext("")


def milliseconds(statement, before=""):
    program = PROGRAM.format(before=before, statement=statement)
    command = [sys.executable, "-c", program]
    return median(
        float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        for _ in range(PROCESSES)
    )


def threadable_over_python(_load):
    return milliseconds("import threadable")


def asyncio_over_python(_load):
    return milliseconds("import asyncio")


def threadpool_over_asyncio(_load):
    front_door = "from threadpool.threads import deferToThread"
    return milliseconds(front_door, before="import asyncio")


def enterprise_over_asyncio(_load):
    front_door = "from enterprise import ConnectionPool"
    return milliseconds(front_door, before="import asyncio")

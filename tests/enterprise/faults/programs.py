"""Programs of their own, for the tests of how a process ends."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time

from tests.enterprise.helpers import ROOT

# What an exit may take: five seconds for what runs, and two for the interpreter.
EXIT_SECONDS = 7.0

PRELUDE = """
    import asyncio, faulthandler, os, sys, threading, warnings
    faulthandler.dump_traceback_later(15, exit=True)  # Nobody waits here for ever.
    from enterprise import ConnectionPool
    from tests.scripted import Scripted

    url, *rest = sys.argv[1:]
    begun = threading.Event()

    def long_c(raw):
        # One call of a C function that looks at no flag until it is through.
        raw.create_function("begun", 0, lambda: begun.set() or 1)

    LONG_C = ("with recursive n(i) as (select begun() union all select i + 1 from n) "
              "select count(*) from n")

    async def there(event=begun):
        while not event.is_set():
            await asyncio.sleep(0.001)

    def quiet(deferred):
        deferred.addErrback(lambda failure: None)
        return deferred

    def over():
        print("over", flush=True)
"""


def program(code, *arguments):
    """Run the prelude and *code* in a Python of its own."""
    code = inspect.cleandoc(PRELUDE) + "\n" + inspect.cleandoc(code)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def heard(process):
    """Return the next line of *process*, and take nothing of what comes behind it."""
    line = b""
    while (byte := os.read(process.stdout.fileno(), 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def end(*processes, status=0, printed=""):
    """Check that each of *processes*, which say "over", ends as it should."""
    try:
        for process in processes:
            line = heard(process)
            assert line == "over", line + process.stderr.read()
        began = time.monotonic()
        for process in processes:
            out, errors = process.communicate(timeout=4 * EXIT_SECONDS)
            found = process.returncode, out, errors
            assert found == (status, printed, ""), found
            took = time.monotonic() - began
            assert took <= EXIT_SECONDS, f"the exit took {took:.1f} s"
    finally:
        for process in processes:
            process.kill()
            process.communicate()

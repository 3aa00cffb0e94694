"""The last full run of each group: results/*.json, a plot, and the page in the docs.

What the page shows is made of what is kept and of the contenders' own docstrings, so
that neither can say something else than it does.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import platform
import sqlite3
import subprocess
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.groups import GROUND_FLOOR, GROUPS, Group
from benchmarks.plot import plot
from benchmarks.report import Line, table, verdict
from benchmarks.schedule import Effort
from tests.postgres import NoServerError, find_binaries

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"

DISTRIBUTIONS = (
    "aiosqlite",
    "anyio",
    "asyncpg",
    "psycopg",
    "psycopg_pool",
    "sqlalchemy",
    "twisted",
)


def save(group: Group, rows: list[Line], effort: Effort) -> None:
    """Keep one group's full run and show it on the page."""
    RESULTS.mkdir(exist_ok=True)
    run = {
        "title": group.title,
        "command": command(group, effort),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "lines": [asdict(row) for row in rows],
    }
    text = json.dumps(run, indent=1, ensure_ascii=False)
    (RESULTS / f"{group.name}.json").write_text(text + "\n", "utf-8")
    plot(group.title, rows, RESULTS / f"{group.name}.svg")
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")


def command(group: Group, effort: Effort) -> str:
    """Say what to type for the same again."""
    words = ["python -m benchmarks", group.name]
    if effort.seconds != Effort.seconds:
        words.append(f"--seconds {effort.seconds:g}")
    if effort.rounds != Effort.rounds:
        words.append(f"--rounds {effort.rounds}")
    return " ".join(words)


def page(text: str) -> str:
    """Give the page with what is kept between its markers, instead of what is there."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    rows, parts = {}, []
    for group in GROUPS:
        file = RESULTS / f"{group.name}.json"
        if file.exists():
            run = json.loads(file.read_text("utf-8"))
            rows[group.name] = [Line(**line) for line in run["lines"]]
            parts.append(section(group, run, rows[group.name]))
    tables = "\n".join([verdict(rows) + "\n", *parts])
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def section(group: Group, run: dict[str, Any], rows: list[Line]) -> str:
    names = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return (
        f"### {group.name}: {run['title']}\n\n"
        f"{meaning(group)}\n\n"
        f"{table(rows)}\n\n"
        f"![{run['title']}](../benchmarks/results/{group.name}.svg)\n\n"
        f"`{run['command']}` on {run['date']}, {run['machine']}; {names}.\n"
    )


def meaning(group: Group) -> str:
    """Say what the contenders of a group do: their module's docstring."""
    rooms = "benchmarks" if group is GROUND_FLOOR else "benchmarks.contenders"
    return inspect.getdoc(importlib.import_module(f"{rooms}.{group.name}"))


def machine() -> str:
    """Say what computed, without saying whose it is."""
    return f"{platform.system()}, {os.cpu_count()} cores, {processor()}"


def processor() -> str:
    """Ask Linux for the model; platform.processor() knows the architecture at most."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def versions() -> dict[str, str]:
    found = {
        platform.python_implementation(): platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
    }
    with suppress(NoServerError):
        server = subprocess.run(
            [find_binaries() / "postgres", "--version"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found["PostgreSQL"] = server.stdout.split()[-1]
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # Its line in the table says that it is missing.
    return found

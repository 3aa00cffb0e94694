"""The last full run of each group: results/*.json, a plot, and README.md's tables."""

from __future__ import annotations

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
from typing import TYPE_CHECKING

from benchmarks.groups import GROUPS, Group
from benchmarks.plot import plot
from benchmarks.report import Line, table
from tests.postgres import NoServerError, find_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE / "README.md"
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


def save(group: Group, rows: list[Line]) -> None:
    """Keep one group's full run and show it in the README."""
    RESULTS.mkdir(exist_ok=True)
    run = {
        "title": group.title,
        "command": f"python -m benchmarks {group.name}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "lines": [asdict(row) for row in rows],
    }
    text = json.dumps(run, indent=1, ensure_ascii=False)
    (RESULTS / f"{group.name}.json").write_text(text + "\n", "utf-8")
    plot(group.title, rows, RESULTS / f"{group.name}.svg")
    before, rest = README.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    tables = "\n".join(sections())
    README.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}", "utf-8")


def sections() -> Iterator[str]:
    """Give the README's section of each group that has been kept."""
    for group in GROUPS:
        file = RESULTS / f"{group.name}.json"
        if not file.exists():
            continue
        run = json.loads(file.read_text("utf-8"))
        rows = [Line(**line) for line in run["lines"]]
        names = ", ".join(
            f"{name} {number}" for name, number in run["versions"].items()
        )
        yield (
            f"### {run['title']}\n\n"
            f"{table(rows)}\n\n"
            f"![{run['title']}](results/{group.name}.svg)\n\n"
            f"`{run['command']}` on {run['date']}, {run['machine']}; {names}.\n"
        )


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

"""`python -m benchmarks`: measure, print the table, and keep a full run."""

from __future__ import annotations

import argparse
import sys

from benchmarks import ground_floor, kept
from benchmarks.groups import GROUND_FLOOR, GROUPS, Group
from benchmarks.report import Line, lines, table
from benchmarks.schedule import measure


def main() -> int:
    names = [group.name for group in GROUPS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "group", nargs="*", help=f"which ones: {', '.join(names)}; default: all"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="3 rounds of 0.3 s instead of 5 of 1 s; nothing is kept",
    )
    options = parser.parse_args()
    if unknown := set(options.group).difference(names):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")

    rows: list[Line] = []
    for group in GROUPS:
        if not options.group or group.name in options.group:
            rows += run(group, quick=options.quick)
    return 1 if any(row.failed for row in rows) else 0


def run(group: Group, *, quick: bool) -> list[Line]:
    if group is GROUND_FLOOR:
        rows = [
            Line(load=beside, contender=what, unit="", samples=[value], median=value)
            for what, value, beside in ground_floor.run(quick)
        ]
    else:
        seconds, rounds = (0.3, 3) if quick else (1.0, 5)
        rows = list(lines(group, measure(group, seconds, rounds, progress)))
        progress("")
    print(f"\n{group.title}\n\n{table(rows)}", flush=True)
    if not quick and not any(row.failed for row in rows):
        kept.save(group, rows)
    return rows


def progress(text: str) -> None:
    """Show what is running on the terminal's last line, if there is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

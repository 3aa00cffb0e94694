"""`python -m benchmarks`: measure, print the table, and keep a full run."""

from __future__ import annotations

import argparse
import sys

from benchmarks import ground_floor, kept
from benchmarks.groups import GROUND_FLOOR, GROUPS, Group
from benchmarks.report import Line, lines, table, verdict
from benchmarks.schedule import Effort, measure

QUICK = Effort(seconds=0.2, rounds=2, part=0.05, once=True)


def main() -> int:
    names = [group.name for group in GROUPS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "group", nargs="*", help=f"which ones: {', '.join(names)}; default: all"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK.rounds} rounds of {QUICK.seconds} s, and {QUICK.part:.0%} of the "
        "work that is counted; what stands alone runs once; nothing is kept",
    )
    parser.add_argument("--seconds", type=float, default=Effort.seconds)
    parser.add_argument("--rounds", type=int, default=Effort.rounds)
    options = parser.parse_args()
    if unknown := set(options.group).difference(names):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")

    effort = QUICK if options.quick else Effort(options.seconds, options.rounds)
    rows: dict[str, list[Line]] = {}
    for group in GROUPS:
        if not options.group or group.name in options.group:
            rows[group.name] = run(group, effort)
    print(f"\n{verdict(rows)}")
    return 1 if any(row.failed for each in rows.values() for row in each) else 0


def run(group: Group, effort: Effort) -> list[Line]:
    if group is GROUND_FLOOR:
        rows = [
            Line(load=beside, contender=what, unit="", samples=[value], median=value)
            for what, value, beside in ground_floor.run(quick=effort is QUICK)
        ]
    else:
        rows = list(lines(group, measure(group, effort, progress)))
        progress("")
    less = (
        f" (here {effort.rows(group):,} rows)" if effort.part < 1 < group.rows else ""
    )
    print(f"\n{group.title}{less}\n\n{table(rows)}", flush=True)
    if effort is QUICK:
        return rows
    if any(row.failed for row in rows):
        print(f"\n{group.name} is not kept, since not all of it ran.", flush=True)
    else:
        kept.save(group, rows, effort)
    return rows


def progress(text: str) -> None:
    """Show what is running on the terminal's last line, if there is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

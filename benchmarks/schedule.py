"""Who runs when: one child process at a time, in turns, until the medians are fair."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.groups import Case, Group

# One that hangs must not hang us; a million calls take some peers a minute.
PATIENCE_SECONDS = 300

# Counted work takes so long that its noise evens out within a round.
ROUNDS_OF_COUNTED = 3

# Why a contender that is installed has no figure.
FAILED = "failed"


@dataclass(frozen=True)
class Effort:
    """How long and how often each contender runs, and how much of counted work.

    `once` is for a quick look at groups where nobody is divided by anybody.
    """

    seconds: float = 1.0
    rounds: int = 5
    part: float = 1.0
    once: bool = False

    def rows(self, group: Group) -> int:
        return int(group.rows * self.part)

    def turns(self, group: Group) -> int:
        if self.once and not group.races:
            return 1
        return min(self.rounds, ROUNDS_OF_COUNTED) if group.rows else self.rounds


@dataclass
class Samples:
    """What the rounds gave for one case: figures, or the reason why there are none."""

    values: list[float] = field(default_factory=list)
    absent: str = ""

    @property
    def median(self) -> float | None:
        return None if self.absent else median(self.values)


def measure(
    group: Group, effort: Effort, progress: Callable[[str], None]
) -> dict[Case, Samples]:
    """Let each contender of the group run once per round; give all their figures."""
    results = {case: Samples() for case in group.cases()}
    module = importlib.import_module(f"benchmarks.contenders.{group.name}")
    with module.stage() as target:
        for turn in range(turns := effort.turns(group)):
            # Alternating, so that nobody always follows the same neighbour.
            order = list(results) if turn % 2 == 0 else list(reversed(results))
            for case in order:
                progress(f"{group.name} {turn + 1}/{turns} {case.contender}")
                if not results[case].absent:
                    run_child(group, case, effort, target, results[case])
    return results


def run_child(
    group: Group, case: Case, effort: Effort, target: str, samples: Samples
) -> None:
    command = [sys.executable, "-m", "benchmarks.child", group.name, case.contender]
    command += ["--seconds", str(effort.seconds), "--in-flight", str(case.in_flight)]
    command += ["--rows", str(effort.rows(group)), "--target", target]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        # The child's own traceback stands above this line already.
        print(error, file=sys.stderr)
        samples.absent = FAILED
        return
    # The answer is the last line: a contender's library may print as well.
    answer = json.loads(done.stdout.splitlines()[-1])
    if "missing" in answer:
        samples.absent = f"missing: {answer['missing']}"
    else:
        samples.values.append(answer["value"])

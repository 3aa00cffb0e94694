"""One contender in a process of its own; prints one line of JSON.

    python -m benchmarks.child sqlite threadbridge --seconds 5 --in-flight 64

`benchmarks` starts it; by hand it is what to put under a profiler.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
from contextlib import nullcontext

from benchmarks.load import Load

OUR_PACKAGES = {"threadable", "threadpool", "enterprise"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.child")
    parser.add_argument("group", help="a module of benchmarks.contenders")
    parser.add_argument("contender", help="a function of that module")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--target", help="the staged database; default: stage one")
    options = parser.parse_args()

    module = importlib.import_module(f"benchmarks.contenders.{options.group}")
    staged = module.stage() if options.target is None else nullcontext(options.target)
    with staged as target:
        correct = getattr(module, "correct", None)
        load = Load(options.seconds, options.in_flight, target, correct, options.rows)
        try:
            answer = {"value": run(getattr(module, options.contender), load)}
        except ModuleNotFoundError as error:
            # A peer may be missing; one of our own modules may not.
            if str(error.name).partition(".")[0] in OUR_PACKAGES:
                raise
            answer = {"missing": error.name}
    print(json.dumps(answer))


def run(contender, load: Load) -> float:
    value = contender(load)
    return asyncio.run(value) if inspect.iscoroutine(value) else value


if __name__ == "__main__":
    main()

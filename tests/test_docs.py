"""The documentation's examples are run, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_PAGES = (
    "README.md",
    "docs/adbapi.md",
    "docs/databases.md",
    "docs/deferred.md",
    "docs/errors.md",
    "docs/loops.md",
    "docs/reactor.md",
    "docs/streaming.md",
    "docs/transactions.md",
)
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _examples():
    for page in _PAGES:
        text = (_ROOT / page).read_text()
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            yield pytest.param(match[1], id=f"{page}:{line}")


@pytest.mark.parametrize("source", list(_examples()))
def test_every_example_runs_as_written(source, tmp_path):
    """An example in the documentation does what it says, and warns of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

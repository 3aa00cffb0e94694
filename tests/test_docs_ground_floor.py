"""The pages about the ground floor: each of their examples is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["switch", "synchronized", "hooks", "reflect", "options"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Runs the blocks of one page, one after the other, in one namespace and in a process of
# its own: a page about a switch begins with nothing decided.
RUNNER = """
import doctest, sys, types
blocks = BLOCKS
page = types.ModuleType("page")
sys.modules["page"] = page
space = vars(page)
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
for kind, line, text in blocks:
    if kind == "python":
        exec(compile("\\n" * (line - 1) + text, PAGE, "exec"), space)
    else:
        test = doctest.DocTestParser().get_doctest(text, space, PAGE, PAGE, line - 1)
        runner.run(test, clear_globs=False)
        space.update(test.globs)
sys.exit(runner.summarize(verbose=False).failed)
"""


def blocks(page):
    """The blocks of a page: language, line, text."""
    text = (DOCS / f"{page}.md").read_text()
    return [
        (found[1], text[: found.start()].count("\n") + 2, found[2])
        for found in BLOCK.finditer(text)
    ]


def run(command, cwd):
    """Run a command as a reader of this page would, with this checkout installed."""
    env = {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_work(page, tmp_path):
    """Each page's examples do what the page says, in their order."""
    inside = [block for block in blocks(page) if block[0] in ("python", "pycon")]
    assert inside
    # A block that names its file is a program by itself, for the console below.
    here = [block for block in inside if not block[2].startswith("# no_threads.py")]
    program = tmp_path / "run_page.py"
    program.write_text(f"PAGE = {page + '.md'!r}\nBLOCKS = {here!r}\n{RUNNER}")
    done = run([sys.executable, str(program)], tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_the_console_shows_what_a_page_says(page, tmp_path):
    """Each command on a page prints what the page shows."""
    for kind, _, text in blocks(page):
        named = re.match(r"# (\w+\.py)\n", text)
        if kind == "python" and named:
            (tmp_path / named[1]).write_text(text)
        if kind == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                assert run(command, tmp_path).stdout == shown


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """A link to another page leads to a page."""
    text = (DOCS / f"{page}.md").read_text()
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (DOCS / link).exists()

"""The house rules, read from the source: floors, sizes, names, docstrings, manners.

A rule gets one module and yields (line, what is wrong). Each comes with an example that
it must find, so that no rule passes because it looks at nothing.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
PACKAGES = ["threadable", "threadpool", "enterprise"]  # from the ground up

# Whose import is allowed below which folder only, and (but for the loops) only where it
# is needed: in a function, or for the type checker.
LOOPS = {"gi", "trio", "tkinter", "twisted", "uvloop", "wx", "PySide6", "PyQt6"}
DRIVERS = {"aiosqlite", "asyncpg", "duckdb", "greenlet", "oracledb", "psycopg"} | {
    *("pyodbc", "sqlite3", "trino", "MySQLdb", "pymysql")
}
DRIVER_ROOMS = {
    "enterprise/drivers/postgres.py": "psycopg",
    "enterprise/drivers/_conninfo.py": "psycopg",
    "enterprise/drivers/_round.py": "psycopg",
    "enterprise/drivers/_wire.py": "psycopg",
    "enterprise/drivers/sqlite.py": "sqlite3",
    "enterprise/drivers/_group.py": "sqlite3",
    "enterprise/drivers/_grouped.py": "sqlite3",
    "enterprise/drivers/_guarded.py": "sqlite3",
}
BELOW = (
    dict.fromkeys(LOOPS, "threadpool")
    | dict.fromkeys(DRIVERS, "enterprise/drivers")
    | {"sqlalchemy": "enterprise", "rich": "enterprise/tool"}
    | dict.fromkeys(["uvicorn", "tomlkit"], "enterprise/daemon")
)

FILE_LINES, FUNCTION_LINES = 400, 50

CAMEL = re.compile(r"[a-z][a-zA-Z0-9]*|opt_\w+")  # `opt_x` handles the option --x.
SNAKE = re.compile(r"[a-z0-9_]+|[A-Z0-9_]+")

# Verbs whose spelling is fixed elsewhere: by asyncio's futures, by the old API.
FOREIGN_VERBS = {"add_done_callback", "get_loop", "remove_done_callback"} | {
    *("safe_repr", "safe_str", "unpickle_lock"),
}
# Nouns that programs written for the old API pass or read.
OLD_NOUNS = {"baseClass", "coerceDoc", "ioThread", "subCommand", "subFailure"} | {
    *("defaultSubCommand", "optFlags", "optParameters", "optStrings", "subCommands"),
    *("subOptions", "compData", "curClass", "onResult", "globPattern", "multiUse"),
    *("mutuallyExclusive", "optActions", "extraActions"),
}

Finding = tuple[int, str]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Module:
    """One source file; *path* is relative to the root of the checkout."""

    path: str
    source: str
    exported: frozenset[str] = frozenset()  # in any __all__ of the package's rooms

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @cached_property
    def declared(self) -> frozenset[str] | None:
        """The names in `__all__`; None without one."""
        for node in self.tree.body:
            if (
                isinstance(node, ast.Assign)
                and ast.unparse(node.targets[0]) == "__all__"
            ):
                return frozenset(ast.literal_eval(node.value))
        return None

    @property
    def private(self) -> bool:
        """Whether it is for its own package only, and shown elsewhere."""
        stem = self.path.rpartition("/")[2]
        return stem.startswith("_") and not stem.startswith("__")

    def public(self) -> Iterator[tuple[Definition, bool]]:
        """Yield public functions, classes, methods; say which are declared so."""
        for node in self.tree.body:
            if not isinstance(node, Definition) or node.name.startswith("_"):
                continue
            if self.private and node.name not in self.exported:
                continue
            declared = self.declared is None or node.name in self.declared
            yield node, declared or self.private
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, FUNCTIONS) and not method.name.startswith(
                        "_"
                    ):
                        yield method, declared or self.private


def modules(*folders: str) -> list[Module]:
    """Return all modules below *folders*, which may still be empty."""
    found = []
    for folder in folders:
        paths = sorted((ROOT / folder).rglob("*.py"))
        batch = [Module(str(p.relative_to(ROOT)), p.read_text()) for p in paths]
        shown = [module.declared or () for module in batch if not module.private]
        exported = frozenset().union(*shown)
        for module in batch:
            module.exported = exported
        found += batch
    return found


def decorators(node: Definition) -> set[str]:
    """Return the last words of a definition's decorators."""
    return {
        re.sub(r"\(.*", "", ast.unparse(d)).rpartition(".")[2]
        for d in node.decorator_list
    }


def parameters(node: ast.AST | None) -> list[str]:
    """Return the names of a function's parameters, without self and cls."""
    if not isinstance(node, FUNCTIONS):
        return []
    args = node.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    skip = {"self", "cls"} if decorators(node) & {"classmethod"} else {"self"}
    return [arg.arg for arg in every if arg and arg.arg not in skip]


def maker(node: ast.ClassDef) -> ast.AST | None:
    """Return a class's own `__init__`."""
    return next((m for m in node.body if getattr(m, "name", "") == "__init__"), None)


def imports(node: ast.AST, when: str = "now") -> Iterator[tuple[int, str, str]]:
    """Yield (line, top-level package, when) of all imports below *node*."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield child.lineno, alias.name.partition(".")[0], when
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield child.lineno, str(child.module).partition(".")[0], when
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imports(ast.Module(child.body, []), "typing")
            yield from imports(ast.Module(child.orelse, []), when)
        else:
            yield from imports(child, "later" if isinstance(child, FUNCTIONS) else when)


def rooms_of_their_own(package: str) -> set[str]:
    """Return the modules that exist for the sake of one loop or one driver."""
    return {
        f"threadpool/loops/{package}.py",
        *(path for path, made_for in DRIVER_ROOMS.items() if made_for == package),
    }


# -- the rules ---------------------------------------------------------------------


def floors(module: Module) -> Iterator[Finding]:
    """Imports go down only; what is heavy or optional is imported where it is used."""
    floor = PACKAGES.index(module.path.partition("/")[0])
    for line, name, when in imports(module.tree):
        if name in PACKAGES:
            fine = PACKAGES.index(name) <= floor
        elif name == "asyncio":
            fine = floor > 0
        elif name in BELOW:
            # A room made for one loop or one driver is itself imported on demand.
            lazy = when != "now" or module.path in rooms_of_their_own(name)
            fine = lazy and module.path.startswith(BELOW[name] + "/")
        else:
            known = when == "typing" and name == "typing_extensions"
            fine = known or name in sys.stdlib_module_names
        if not fine:
            yield line, f"must not import {name} here ({when})"


def sizes(module: Module) -> Iterator[Finding]:
    """A file has fewer than 400 lines, a function at most 50 below its docstring."""
    lines = module.source.count("\n")
    if lines >= FILE_LINES:
        yield 1, f"has {lines} lines: split it by idea"
    for node in ast.walk(module.tree):
        if isinstance(node, FUNCTIONS):
            first = node.body[0] if ast.get_docstring(node) else node
            start = first.end_lineno if first is not node else node.lineno - 1
            length = node.end_lineno - start
            if length > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines: split it by idea"


def names(module: Module) -> Iterator[Finding]:
    """Verbs are camelCase or one word, nouns are snake_case."""
    for node, declared in module.public():
        is_noun = decorators(node) & {"property", "cached_property", "setter"}
        if isinstance(node, ast.ClassDef):
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign)]
            nouns = [ast.unparse(field.target) for field in fields]
            nouns += parameters(maker(node))
        else:
            nouns = [node.name] if is_noun else parameters(node)
            fine = is_noun or CAMEL.fullmatch(node.name) or node.name in FOREIGN_VERBS
            if declared and not fine:
                yield node.lineno, f"{node.name}() is a verb: spell it camelCase"
        for noun in nouns if declared else []:
            if not SNAKE.fullmatch(noun) and noun not in OLD_NOUNS:
                yield node.lineno, f"{noun} is a noun: spell it snake_case"


def docstrings(module: Module) -> Iterator[Finding]:
    """Every module and public name has a docstring; its Args are the parameters."""
    if not ast.get_docstring(module.tree):
        yield 1, "has no module docstring"
    for node, _ in module.public():
        if decorators(node) & {"overload", "setter", "deleter"}:
            continue
        text = ast.get_docstring(node)
        if not text:
            yield node.lineno, f"{node.name} has no docstring"
            continue
        found = re.search(r"^Args:\n((?:(?: .*)?\n?)*)", text, re.MULTILINE)
        owner = node
        if isinstance(node, ast.ClassDef):
            owner = maker(node)
        if not found or not owner:
            continue
        entries = re.findall(
            r"^    ((?:\**\w+(?:, )?)+)(?: \(.*\))?:", found[1], re.MULTILINE
        )
        told = {name.strip(" *") for entry in entries for name in entry.split(",")}
        real = set(parameters(owner))
        for name in sorted(told - real):
            yield node.lineno, f"{node.name} documents {name}, which is no parameter"
        for name in sorted(real - told):
            if not name.startswith("_"):
                yield node.lineno, f"{node.name} documents parameters, but not {name}"


def manners(module: Module) -> Iterator[Finding]:
    """No sleeping, no printing, no assert, and no error is swallowed."""
    talks = module.path.startswith(("enterprise/tool/", "threadable/usage"))
    broad = ("Exception", "BaseException")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert is gone under -O: raise"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            sleeps = [alias for alias in node.names if alias.name == "sleep"]
            yield from ((node.lineno, "sleeping is no way to wait") for _ in sleeps)
        elif isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            quiet = all(isinstance(s, ast.Pass | ast.Continue) for s in node.body)
            if quiet and caught in broad:
                yield node.lineno, f"swallows {caught}: log it, or catch less"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "time.sleep":
                yield node.lineno, "sleeping is no way to wait"
            elif called == "print" and not talks:
                yield node.lineno, "a library does not print"
            elif called.endswith("suppress") and any(
                ast.unparse(argument) in broad for argument in node.args
            ):
                yield node.lineno, "swallows everything: log it, or suppress less"


EXAMPLES: list[tuple[Callable[[Module], Iterator[Finding]], str, str]] = [
    (floors, "threadable/x.py", "def f():\n    import asyncio"),
    (floors, "threadable/x.py", "from threadpool import defer"),
    (floors, "threadpool/x.py", "from enterprise.rows import f"),
    (floors, "threadpool/x.py", "import uvloop"),
    (floors, "threadpool/x.py", "def f():\n    import sqlalchemy"),
    (floors, "enterprise/x.py", "from sqlalchemy import text"),
    (floors, "enterprise/x.py", "def f():\n    import psycopg"),
    (floors, "enterprise/drivers/base.py", "try:\n    import sqlite3\nfinally: pass"),
    (floors, "enterprise/drivers/sqlite.py", "import psycopg"),
    (floors, "enterprise/x.py", "if not TYPE_CHECKING:\n    pass\nelse: import numpy"),
    (sizes, "threadable/x.py", "\n" * 400),
    (sizes, "threadable/x.py", "def f():\n    'Doc.'" + "\n    f()" * 51),
    (names, "threadpool/x.py", "def run_query(): pass"),
    (names, "threadpool/x.py", "class A:\n    def get_it(self): pass"),
    (names, "threadpool/x.py", "class A:\n    @property\n    def maxSize(self): pass"),
    (names, "threadpool/x.py", "class A:\n    def __init__(self, maxSize): pass"),
    (names, "threadpool/x.py", "class A:\n    maxSize: int = 0"),
    (names, "threadpool/x.py", "def run(maxSize): pass"),
    (docstrings, "threadpool/x.py", "import os"),
    (docstrings, "threadpool/x.py", "'Doc.'\ndef f(): pass"),
    (docstrings, "threadpool/x.py", "'Doc.'\nclass A:\n    'Doc.'\n    def f(): pass"),
    (
        docstrings,
        "threadpool/x.py",
        "'D.'\ndef f():\n  '''D.\n\n  Args:\n      b: x.'''",
    ),
    (
        docstrings,
        "threadpool/x.py",
        "'D.'\ndef f(a,b):\n  '''D.\n\n  Args:\n      b: x'''",
    ),
    (manners, "threadable/x.py", "assert 1"),
    (manners, "enterprise/x.py", "print(1)"),
    (manners, "enterprise/x.py", "time.sleep(1)"),
    (manners, "enterprise/x.py", "from time import sleep"),
    (manners, "enterprise/x.py", "try: f()\nexcept Exception: pass"),
    (manners, "enterprise/x.py", "try: f()\nexcept: pass"),
    (manners, "enterprise/x.py", "with contextlib.suppress(Exception): f()"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in EXAMPLES))
GOOD = '''"""A module that keeps all the rules."""
import asyncio
if TYPE_CHECKING:
    import sqlalchemy
def runQuery(statement, *params, timeout=None, **_rest):
    """Run it.

    Args:
        statement: SQL.
        *params: values,
            more of them: many.
        timeout: seconds.
    """
    import sqlalchemy
'''


@pytest.mark.parametrize(("rule", "path", "source"), EXAMPLES)
def test_rule_finds_its_example(rule, path, source):
    """Each rule sees what breaks it, once."""
    assert len(list(rule(Module(path, source)))) == 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_likes_good_manners(rule):
    """No rule complains about a module that keeps them all."""
    assert list(rule(Module("enterprise/x.py", GOOD))) == []


def fail_for(findings: list[str]) -> None:
    """Fail with the places that break a rule, if there are any."""
    if findings:
        pytest.fail("\n".join(["the house rules are broken:", *findings]), False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house(rule):
    """All three packages keep the rule."""
    found = [
        f"{module.path}:{line}: {text}"
        for module in modules(*PACKAGES)
        for line, text in rule(module)
    ]
    fail_for(found)


def test_every_test_says_what_it_proves():
    """Each test function's docstring is the sentence that it proves."""
    found = [
        f"{module.path}:{node.lineno}: {node.name} has no docstring"
        for module in modules("tests")
        for node in ast.walk(module.tree)
        if isinstance(node, FUNCTIONS) and node.name.startswith("test_")
        if not ast.get_docstring(node)
    ]
    fail_for(found)


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("threadable", {"asyncio", "threadpool", "enterprise", "sqlalchemy"}),
        ("threadpool", {"enterprise", "sqlalchemy"} | LOOPS | DRIVERS),
        ("enterprise", {"sqlalchemy", "rich", "uvicorn", "tomlkit"} | LOOPS | DRIVERS),
    ],
)
def test_import_is_light(package, unwanted):
    """Importing a floor brings along nothing of the floors above, and no driver."""
    code = inspect.cleandoc(f"""
        import sys
        import {package}
        found = set(sys.modules) & {unwanted!r}
        sys.exit(', '.join(sorted(found)) or 0)
    """)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"import {package} imports {done.stderr}"

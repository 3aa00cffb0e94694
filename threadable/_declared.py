"""What a class of options declares, read once and made regular.

Any thread may enter this room. The thread that makes an `Options` object reads its
class here; nothing is kept between two calls.

Three ways of declaring meet: rows of `optFlags`, rows of `optParameters` (the paper's
`optStrings`), and methods called `opt_…`. Parsing, help and completion see only the
result, a `Table`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from threadable import reflect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from threadable.usage import Options


class UsageError(Exception):
    """The command line, or the declaration of its options, makes no sense.

    Its text is written for the person at the command line.
    """

    __module__ = "threadable.usage"


class Declared:
    """One option, in whichever way it was declared.

    Attributes:
        key: its name in the Options object, as written in the declaration.
        longs: spellings after two dashes, with dashes inside; may be empty.
        shorts: single letters.
        takes_value: False for a flag.
        default: its value before anything is parsed; a method alone has none.
        coerce: makes the value out of the text given, or None.
        method: the name of the method that handles it, or "".
        doc: one paragraph for the help text.
    """

    __slots__ = (
        "coerce",
        "default",
        "doc",
        "key",
        "longs",
        "method",
        "shorts",
        "takes_value",
    )

    def __init__(self, key: str, *, takes_value: bool, doc: str = "") -> None:
        self.key = key
        self.longs: list[str] = []
        self.shorts: list[str] = []
        self.takes_value = takes_value
        self.default: Any = None
        self.coerce: Callable[[str], Any] | None = None
        self.method = ""
        self.doc = doc

    def __repr__(self) -> str:
        return f"<option {'/'.join(self.spellings())}>"

    def spellings(self) -> list[str]:
        """List how the option can be written, letters first."""
        return [f"-{s}" for s in self.shorts] + [f"--{name}" for name in self.longs]

    def coerced(self, value: str, spelling: str) -> Any:
        """Make the option's value out of what was given after *spelling*."""
        if self.coerce is None:
            return value
        try:
            return self.coerce(value)
        except ValueError as error:
            hint = getattr(self.coerce, "coerceDoc", "") or "See --help."
            raise UsageError(
                f"{spelling} does not take {value!r}. Parameter type enforcement "
                f"failed: {error}. {hint}"
            ) from error

    def initial(self) -> Any:
        """Make the first value; a default that is a string counts as if given."""
        if self.coerce is None or not isinstance(self.default, str):
            return self.default
        try:
            return self.coerce(self.default)
        except ValueError as error:
            raise UsageError(
                f"The default of {self.key!r}, {self.default!r}, is refused by its own "
                f"coercion: {error}. Declare one that fits, or one that is no string."
            ) from error


class Table:
    """All options of one class, found by any of their spellings.

    Args:
        cls: the class to read; its superclasses are read with it.

    Raises:
        UsageError: a declaration cannot work; the text names it.
    """

    def __init__(self, cls: type[Options]) -> None:
        self.cls = cls
        self.by_long: dict[str, Declared] = {}
        self.by_short: dict[str, Declared] = {}
        self.kept: dict[str, Declared] = {}  # those with a value, by dashed key
        self._read_rows("optFlags", most=3)
        # The paper's name first: where a class has both, today's name comes later
        # and wins.
        self._read_rows("optStrings", most=5)
        self._read_rows("optParameters", most=5)
        self._read_methods()

    def __iter__(self) -> Iterator[Declared]:
        both = [*self.by_long.values(), *self.by_short.values()]
        return iter(dict.fromkeys(both))

    def find(self, name: str) -> Declared | None:
        """Find the option whose value is kept under *name*, dashes or underscores."""
        return self.kept.get(dashed(name))

    def _read_rows(self, attribute: str, most: int) -> None:
        rows: list[Sequence[Any]] = []
        reflect.accumulateClassList(self.cls, attribute, rows)
        for row in rows:
            if isinstance(row, str) or not 1 <= len(row) <= most:
                raise UsageError(
                    f"{self.cls.__name__}.{attribute} has the row {row!r}: a row is a "
                    f"list of 1 to {most} elements that begins with the long name and "
                    "the short one."
                )
            self._add_row(attribute, row)

    def _add_row(self, attribute: str, row: Sequence[Any]) -> None:
        key, short = row[0], (row[1] if len(row) > 1 else None) or ""
        if not isinstance(key, str) or not key or len(short) > 1:
            raise UsageError(
                f"{self.cls.__name__}.{attribute} has the row {row!r}: it begins with "
                "a long name and a short one, which is a single letter, '' or None."
            )
        takes_value = attribute != "optFlags"
        declared = Declared(key, takes_value=takes_value)
        known = self.by_long.get(dashed(key))
        if known is not None:
            if known.takes_value != takes_value:
                raise UsageError(
                    f"{self.cls.__name__} declares {key!r} both as a flag and with a "
                    "value: give one of them another name."
                )
            # A subclass's row appends: what it leaves out stays as the base says.
            declared.shorts = known.shorts
            declared.doc, declared.coerce = known.doc, known.coerce
        rest = list(row[2:])
        declared.default = (rest.pop(0) if rest else None) if takes_value else False
        if rest and rest[0]:
            declared.doc = str(rest[0])
        if len(rest) > 1:
            declared.coerce = rest[1]
        self.kept[dashed(key)] = declared
        self._enter(declared, [dashed(key)], [short] if short else [])

    def _read_methods(self) -> None:
        # Aliases are attributes that hold the same function: opt_g = opt_plugin.
        groups: dict[Any, list[str]] = {}
        for name in reflect.prefixedMethodNames(self.cls, "opt_"):
            function = getattr(self.cls, f"opt_{name}", None)
            if callable(function):  # a subclass may say opt_version = None
                groups.setdefault(function, []).append(name)
        # --help and --version last: in the help text, one's own options come first.
        everyones = _given_to_everyone(self.cls)
        for function in sorted(groups, key=lambda each: each in everyones):
            self._add_method(function, groups[function])

    def _add_method(self, function: Callable[..., object], names: list[str]) -> None:
        longs = [dashed(name) for name in names if len(name) > 1]
        shorts = [name for name in names if len(name) == 1]
        own = getattr(function, "__name__", "").removeprefix("opt_")
        key = own if own in names else names[0]
        row = self.kept.get(dashed(key))
        if row is not None and function in _given_to_everyone(self.cls):
            return  # the user's own --help or --version, declared as a row
        parameters = list(inspect.signature(function).parameters.values())[1:]
        flag = _is_flag(parameters, f"{self.cls.__name__}.opt_{key}")
        # A row of that name gives default, letter and doc; the method does the work.
        declared = row or Declared(key, takes_value=not flag)
        declared.takes_value, declared.method = not flag, f"opt_{key}"
        declared.doc = declared.doc or first_paragraph(function.__doc__)
        self._enter(declared, longs, shorts)

    def _enter(self, declared: Declared, longs: list[str], shorts: list[str]) -> None:
        """Take the names away from whoever had them: the later declaration wins."""
        for long in longs:
            self.by_long[long] = declared
        for short in shorts:
            before = self.by_short.get(short)
            if before is not None and before is not declared:
                before.shorts = [letter for letter in before.shorts if letter != short]
        declared.longs = list(dict.fromkeys([*declared.longs, *longs]))
        declared.shorts = list(dict.fromkeys([*declared.shorts, *shorts]))
        self.by_short.update(dict.fromkeys(declared.shorts, declared))


def _given_to_everyone(cls: type[Options]) -> list[object]:
    root = next(k for k in reversed(cls.__mro__) if "opt_help" in k.__dict__)
    return [value for name, value in root.__dict__.items() if name.startswith("opt_")]


def _is_flag(parameters: Sequence[inspect.Parameter], name: str) -> bool:
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(needed) > 1 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise UsageError(
            f"{name} needs {len(needed)} arguments "
            f"({', '.join(p.name for p in needed)}): what handles an option takes no "
            "argument (a flag) or one, the option's value."
        )
    return not needed


def flagFunction(method: Callable[..., object]) -> bool:
    """Tell whether a method is one for a flag, which takes no value.

    Args:
        method: a bound method, or a function without self.

    Returns:
        True if it can be called without an argument, False if it needs one.

    Raises:
        UsageError: it needs more than one.
    """
    parameters = list(inspect.signature(method).parameters.values())
    return _is_flag(parameters, getattr(method, "__name__", repr(method)))


def portCoerce(value: str) -> int:
    """Make a port number out of a text.

    Args:
        value: decimal digits.

    Returns:
        the number, 0 to 65535.

    Raises:
        ValueError: it is something else.
    """
    number = int(value)
    if not 0 <= number <= 65535:
        raise ValueError(f"port number out of range: {number}")
    return number


portCoerce.coerceDoc = "Must be an int between 0 and 65535."  # type: ignore[attr-defined]


def dashed(name: str) -> str:
    """Spell a name as on the command line: ``no_save`` is ``no-save``."""
    return name.replace("_", "-")


def first_paragraph(doc: str | None) -> str:
    """Cut a docstring down to what the help text shows, on one line."""
    return " ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split())

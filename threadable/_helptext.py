"""Help texts: what a person reads after `--help`, laid out for a given width.

Any thread may enter this room: plain functions from texts to text.
"""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import inspect
    from collections.abc import Iterable

    from threadable._declared import Table
    from threadable.usage import Options

DEFAULT_WIDTH = 80  # columns, where nothing says otherwise: the terminal of 1978
LEAST_WIDTH = 20  # columns; below, a column of text has no room for a word
MOST_LEFT = (
    32  # columns for the options themselves; longer ones get a line of their own
)


def terminal_width() -> int:
    """Read the width of the terminal, in columns, from $COLUMNS.

    Returns:
        that number; else what the terminal behind standard output says; else 80.
    """
    try:
        return max(int(os.environ["COLUMNS"]), LEAST_WIDTH)
    except (KeyError, ValueError):
        pass  # not set, or set to nonsense: ask the terminal
    try:
        return max(os.get_terminal_size().columns or DEFAULT_WIDTH, LEAST_WIDTH)
    except (OSError, ValueError):  # no terminal, but a pipe or a file
        return DEFAULT_WIDTH


def two_columns(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Lay out pairs of texts, the second ones wrapped in a column of their own.

    Args:
        rows: left and right text.
        width: of the whole, in columns.

    Returns:
        lines.
    """
    rows = list(rows)
    longest = max((len(left) for left, _ in rows), default=0)
    indent = min(longest + 4, MOST_LEFT, width // 2)
    lines: list[str] = []
    for left, right in rows:
        head = f"  {left}"
        wrapped = textwrap.wrap(right, max(width - indent, 10)) or [""]
        if len(head) > indent - 2:
            # Too long for the column: what follows it begins a line lower.
            lines += textwrap.wrap(head, width, subsequent_indent="      ")
        else:
            lines.append(f"{head:<{indent}}{wrapped.pop(0)}".rstrip())
        lines += [f"{'':<{indent}}{line}" for line in wrapped if line]
    return lines


def option_lines(table: Table, width: int) -> list[str]:
    """List the options of a class with their documentation.

    Args:
        table: the options.
        width: in columns.

    Returns:
        lines, the headline first; none where there are no options.
    """
    rows: list[tuple[str, str]] = []
    for option in table:
        letters = [f"-{letter}" for letter in option.shorts]
        equals = "=" if option.takes_value else ""
        longs = [f"--{name}{equals}" for name in option.longs]
        # Long names stand below each other, whether a letter comes before or not.
        left = ", ".join(letters + longs) if letters else "    " + ", ".join(longs)
        doc = option.doc
        hint = getattr(option.coerce, "coerceDoc", "")
        if hint:
            doc = f"{doc} {hint}".strip()
        if option.takes_value and option.default is not None and option.default != "":
            doc = f"{doc} [default: {option.default}]".strip()
        rows.append((left, doc))
    return ["Options:", *two_columns(rows, width)] if rows else []


def command_lines(
    commands: Iterable[tuple[str, str | None, object, str]], width: int
) -> list[str]:
    """List sub-commands with their documentation.

    Args:
        commands: rows of `subCommands`.
        width: in columns.

    Returns:
        lines, the headline first; none where there are no commands.
    """
    rows = [
        (f"{name}, {short}" if short else name, doc) for name, short, _, doc in commands
    ]
    return ["Commands:", *two_columns(rows, width)] if rows else []


def paragraphs(text: str, width: int) -> list[str]:
    """Wrap a text, paragraph by paragraph; indented lines keep their indent.

    Args:
        text: paragraphs with an empty line between them.
        width: in columns.

    Returns:
        lines.
    """
    lines: list[str] = []
    flowing: list[str] = []

    def flush() -> None:
        lines.extend(textwrap.wrap(" ".join(flowing), width))
        flowing.clear()

    for line in textwrap.dedent(text).strip("\n").splitlines():
        stripped = line.strip()
        if stripped and not line[0].isspace():
            flowing.append(stripped)
            continue
        flush()
        if not stripped:
            lines.append("")
            continue
        # An example, perhaps: it is not joined with its neighbours.
        indent = line[: len(line) - len(line.lstrip())][: width // 2]
        deeper = indent + "  "
        lines += textwrap.wrap(
            stripped, width, initial_indent=indent, subsequent_indent=deeper
        )
    flush()
    return lines


def program_name() -> str:
    """Name the running program as its user would type it."""
    path = Path(sys.argv[0] if sys.argv else "")
    if path.name == "__main__.py":
        return f"python -m {path.parent.name}"
    return path.name


def command_path(options: Options) -> str:
    """Write how one gets to these options: the program, and commands after it."""
    if options.parent is None:
        return f"Usage: {program_name()}"
    return f"{command_path(options.parent)} {options.parent.subCommand}"


def synopsis(options: Options, arguments: inspect.Signature) -> str:
    """Write the first line of a help text; see `Options.getSynopsis`."""
    if options.synopsis is not None and options.parent is None:
        return options.synopsis
    if options.synopsis is not None:
        return f"{command_path(options)} {options.synopsis}"
    if options.subCommands:
        rest = ["[command]" if options.defaultSubCommand else "<command>"]
    else:
        rest = argument_names(arguments)
    return " ".join([command_path(options), "[options]", *rest])


def argument_names(signature: inspect.Signature) -> list[str]:
    """Name positional arguments as a synopsis does, optional ones in brackets."""
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names.append(f"[{parameter.name} ...]")
        elif parameter.default is not parameter.empty:
            names.append(f"[{parameter.name}]")
        else:
            names.append(parameter.name)
    return names

"""From words to options and arguments.

Any thread may enter this room; nothing is kept between two calls. Spelling is strict:
a shortened long option is unknown, since it would change its meaning with the next
option that begins alike. What was probably meant is in the error's text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadable._declared import Declared, Table, UsageError, dashed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Given = tuple[Declared, str, str | None]  # the option, as it was spelled, its value


def read(table: Table, words: list[str], *, stop_early: bool) -> Iterator[Given | str]:
    """Read words one after the other.

    Args:
        table: the options there are.
        words: of a command line, without the program's name.
        stop_early: from the first positional argument on, all words are positional.

    Yields:
        options, as tuples, and positional arguments, as strings, in their order. The
        next word is looked at only when the one before is dealt with: `--help` works
        also where a later word is wrong.

    Raises:
        UsageError: an option is unknown, lacks its value, or is a flag and has one.
    """
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            break
        if word.startswith("--"):
            yield _long(table, word, waiting)
        elif word.startswith("-") and word != "-":
            yield from _letters(table, word, waiting)
        else:
            yield word
            if stop_early:
                break
    yield from waiting


def _long(table: Table, word: str, waiting: Iterator[str]) -> Given:
    name, equals, value = word[2:].partition("=")
    spelling = f"--{name}"
    declared = table.by_long.get(dashed(name))
    if declared is None:
        known = [f"--{long}" for long in table.by_long]
        raise UsageError(
            f"Unknown option {spelling}. {guess(f'--{dashed(name)}', known)}"
        )
    if declared.takes_value:
        return declared, spelling, value if equals else _next(spelling, waiting)
    if equals:
        raise UsageError(
            f"{spelling} is a flag and takes no value, but {value!r} was given. Leave "
            f"out ={value}."
        )
    return declared, spelling, None


def _letters(table: Table, word: str, waiting: Iterator[str]) -> Iterator[Given]:
    """Read ``-vvo file`` or ``-vvofile``: flags, up to the first that takes a value."""
    for position, letter in enumerate(word[1:], start=2):
        spelling = f"-{letter}"
        declared = table.by_short.get(letter)
        if declared is None:
            inside = f" in {word}" if len(word) > 2 else ""
            known = [f"--{long}" for long in table.by_long]
            raise UsageError(
                f"Unknown option {spelling}{inside}. {guess(f'-{word}', known)} "
                "An argument that begins with a dash comes after '--'."
            )
        if declared.takes_value:
            rest = word[position:]
            yield declared, spelling, rest or _next(spelling, waiting)
            return
        yield declared, spelling, None


def _next(spelling: str, waiting: Iterator[str]) -> str:
    for word in waiting:
        return word
    raise UsageError(
        f"{spelling} needs a value, and the line ends after it. Write it after the "
        "option."
    )


def guess(word: str, known: Iterable[str]) -> str:
    """Say what was probably meant.

    Args:
        word: what was written.
        known: what could have been.

    Returns:
        a sentence: the nearest known word, or where to look.
    """
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(word, list(known), n=1)
    if not near:
        longer = [name for name in known if name.startswith(word)]
        near = longer if len(longer) == 1 else []
    return f"Did you mean {near[0]}?" if near else "See --help."

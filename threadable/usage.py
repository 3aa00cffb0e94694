"""Command-line options: a class says what there is, an object holds what was given.

One thread at a time may use an `Options` object; it has no locks. A program reads its
command line once, in its main thread, before others exist.

    class ServerOptions(usage.Options):
        optFlags = [["quiet", "q", "Say nothing."]]
        optParameters = [["port", "p", "8080", "Listen there.", usage.portCoerce]]

        def parseArgs(self, folder):
            self.folder = folder

    config = ServerOptions()
    config.parseOptions()
    config["port"], config.port, config.folder
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from threadable import _helptext
from threadable._completers import (
    CompleteDirs,
    CompleteFiles,
    CompleteGroups,
    CompleteHostnames,
    CompleteList,
    CompleteMultiList,
    CompleteNetInterfaces,
    Completer,
    CompleteUserAtHost,
    CompleteUsernames,
    Completions,
)
from threadable._declared import (
    Declared,
    Table,
    UsageError,
    flagFunction,
    portCoerce,
)
from threadable._parse import guess, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "CompleteDirs",
    "CompleteFiles",
    "CompleteGroups",
    "CompleteHostnames",
    "CompleteList",
    "CompleteMultiList",
    "CompleteNetInterfaces",
    "CompleteUserAtHost",
    "CompleteUsernames",
    "Completer",
    "Completions",
    "Options",
    "UsageError",
    "completionScript",
    "error",
    "flagFunction",
    "portCoerce",
]

error = UsageError


class Options(dict[str, Any]):
    """The options of a program; inherit from it and declare them.

    Every declaration adds to those of the base classes. Values are read by key or as
    attributes, with ``-`` or ``_`` in their names: ``config["no-save"]``,
    ``config.no_save``. An option that has the name of a method or of an attribute of
    the class (``items``, ``parent``) is read by key only. An object equals a
    dictionary with the same values, and is hashable by identity.

    Attributes:
        optFlags: rows ``[long, short, doc]``: False by default, True when given.
        optParameters: rows ``[long, short, default, doc, coerce]``. What is given
            arrives as str, and goes through *coerce* if there is one. So does a default
            that is a string; another default stays as it is, which tells reliably
            whether the option was given.
        optStrings: the same, as the paper called it.
        subCommands: rows ``(name, short, class, doc)``. The first positional argument
            names one, and what follows it is the command's. Instead of the class, a
            function that makes the object will do.
        defaultSubCommand: the name of the one to take where none is given.
        synopsis: the first line of the help text, or in a command's options what
            follows the command's name there; None makes one.
        longdesc: text below the options; None takes the docstring of the main module.
        version: what ``--version`` says; None takes ``__version__`` of the main module.
        compData: hints for the shell, see `Completions`.
        subCommand: the name of the command given, or None.
        subOptions: the `Options` of that command, or None.
        parent: in a command's options, those that named it; else None.

    A method ``opt_name(self)`` is a flag, ``opt_name(self, value)`` takes one argument;
    it is called each time the option is given. ``opt_g = opt_plugin`` gives it another
    name; one letter stands after one dash. The docstring is the help text.

    Raises:
        UsageError: a declaration cannot work.

    Source: usage.Options of the paper, whose options are attributes; later ones are
        keys of a dictionary.
    """

    optFlags: ClassVar[Sequence[Sequence[Any]]] = ()  # noqa: N815 - the old vocabulary
    optParameters: ClassVar[Sequence[Sequence[Any]]] = ()  # noqa: N815
    optStrings: ClassVar[Sequence[Sequence[Any]]] = ()  # noqa: N815
    subCommands: ClassVar[Sequence[tuple[str, str | None, Any, str]]] = ()  # noqa: N815
    defaultSubCommand: ClassVar[str | None] = None  # noqa: N815
    synopsis: str | None = None
    longdesc: str | None = None
    version: str | None = None
    compData: Completions | None = None  # noqa: N815
    subCommand: str | None = None  # noqa: N815
    subOptions: Options | None = None  # noqa: N815
    parent: Options | None = None
    _table: Table

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_given", set())
        table = self._declared()
        for declared in table.kept.values():
            super().__setitem__(declared.key, declared.initial())

    # -- parsing -----------------------------------------------------------------------

    def parseOptions(self, argv: Sequence[str] | None = None) -> None:
        """Read a command line.

        Options may stand before, between and after the positional arguments; ``--``
        ends them. Where there are sub-commands, those after the command's name are the
        command's. In the end `postOptions` is called, the command's first.

        Args:
            argv: the words after the program's name; None takes ``sys.argv[1:]``.

        Raises:
            UsageError: an option is unknown, lacks its value or is a flag and has one,
                a value does not fit, a command is unknown, or the number of positional
                arguments is wrong.
            SystemExit: `--help` or `--version` was given, after printing it.
        """
        words = list(sys.argv[1:] if argv is None else argv)
        if self.parent is None and words[:1] == ["--_shell-completion"]:
            from threadable import _completion  # only under a TAB key

            sys.stdout.write(
                _completion.answer(self, words[1:], _helptext.program_name())
            )
            sys.exit(0)
        positionals: list[str] = []
        commands = self.subCommands
        for item in read(self._declared(), words, stop_early=bool(commands)):
            if isinstance(item, str):
                positionals.append(item)
            else:
                self._apply(*item)
        if commands and not positionals and self.defaultSubCommand is not None:
            positionals = [self.defaultSubCommand]
        if commands and positionals:
            self._enter_command(positionals[0], positionals[1:])
        else:
            self._call_parse_args(positionals)
        self.postOptions()

    def parseArgs(self) -> None:
        """Receive the positional arguments; override it with the parameters you want.

        As it stands it takes none. ``*rest`` takes any number. `parsedArgs` is the
        paper's name for it, and is called where a class defines that instead.
        """

    def postOptions(self) -> None:
        """Check or complete the values after parsing; override it."""

    def opt_help(self) -> None:
        """Display this help and exit."""
        sys.stdout.write(f"{self}\n")
        sys.exit(0)

    def opt_version(self) -> None:
        """Display the version and exit."""
        options: Options | None = self
        version = None
        while options is not None and version is None:  # a command's, else its parent's
            version, options = options.version, options.parent
        version = version or getattr(_main(), "__version__", None)
        sys.stdout.write(
            f"{_helptext.program_name()} {version or '(no version stated)'}\n"
        )
        sys.exit(0)

    def _apply(self, declared: Declared, spelling: str, value: str | None) -> None:
        self._given.add(declared.key)
        if declared.method:
            words = () if value is None else (value,)
            getattr(self, declared.method)(*words)
        elif value is None:
            self[declared.key] = True
        else:
            self[declared.key] = declared.coerced(value, spelling)

    def _enter_command(self, word: str, rest: list[str]) -> None:
        for name, short, make, _doc in self.subCommands:
            if word == name or (short and word == short):
                self.subCommand = name
                options = make()
                options.parent = self
                self.subOptions = options
                options.parseOptions(rest)
                return
        names = [row[0] for row in self.subCommands]
        raise UsageError(
            f"Unknown command: {word}. {guess(word, names)} "
            f"Commands are {', '.join(names)}."
        )

    def _call_parse_args(self, words: list[str]) -> None:
        method = self._positional_method()
        signature = inspect.signature(method)
        try:
            signature.bind(*words)
        except TypeError:
            # Asked before the call, so a TypeError inside the method stays one.
            wanted = _helptext.argument_names(signature)
            raise UsageError(
                f"Wrong number of arguments: {len(words)} given"
                f"{' (' + ' '.join(words) + ')' if words else ''}, but this takes "
                f"{' '.join(wanted) if wanted else 'none'}. See --help."
            ) from None
        method(*words)

    def _positional_method(self) -> Callable[..., object]:
        """Find the method of the class closest to ours that defines either name."""
        names = ("parseArgs", "parsedArgs")
        kinds = type(self).__mro__
        found = next(n for kind in kinds for n in names if n in kind.__dict__)
        method: Callable[..., object] = getattr(self, found)
        return method

    # -- reading and writing values ----------------------------------------------------

    @property
    def opts(self) -> Options:
        """The values by name: this very object."""
        return self

    @property
    def defaults(self) -> dict[str, Any]:
        """The values before anything was parsed, by name."""
        kept = self._declared().kept.values()
        return {option.key: option.initial() for option in kept}

    @property
    def docs(self) -> dict[str, str]:
        """The one-paragraph documentation of each option, by name."""
        return {option.key: option.doc for option in self._declared()}

    def __missing__(self, key: str) -> Any:
        found = self._key(key)
        if found is None:
            raise KeyError(key)
        return self[found]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(self._key(key) or key, value)

    def __getattr__(self, name: str) -> Any:
        key = None if name.startswith("__") else self._key(name)
        if key is None:
            raise AttributeError(
                f"{type(self).__name__} has neither an option nor an attribute {name!r}"
            )
        return self[key]

    def __setattr__(self, name: str, value: Any) -> None:
        declared = self._declared().find(name)
        of_the_class = inspect.getattr_static(type(self), name, None)
        if declared is None or name in Options.__annotations__:
            object.__setattr__(self, name, value)
        elif of_the_class is None:
            self[declared.key] = value
        elif hasattr(of_the_class, "__set__"):  # the user's own property
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(
                f"{name!r} is an option of {type(self).__name__} and an attribute of "
                f"the class as well: write it by key, config[{declared.key!r}]."
            )

    def _key(self, name: str) -> str | None:
        """Find the key that is meant, whichever way its dashes are written."""
        if name in self:
            return name
        for other in (name.replace("_", "-"), name.replace("-", "_")):
            if other in self:
                return other
        return None

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __repr__(self) -> str:
        # Names only: a value may be a password.
        given = ", ".join(sorted(self._given)) or "none"
        return f"<{type(self).__name__}: {len(self)} values, given: {given}>"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_table", None)  # read again from the class; a lambda in it is fine
        return state

    def _declared(self) -> Table:
        table: Table | None = self.__dict__.get("_table")
        if table is None:
            table = Table(type(self))
            object.__setattr__(self, "_table", table)
        return table

    # -- help --------------------------------------------------------------------------

    def getSynopsis(self) -> str:
        """Write the first line of the help text.

        Returns:
            `synopsis` if there is one, after the names of program and command where
            these are a command's options; else "Usage: program [options] arguments",
            the arguments named as in the signature of `parseArgs`.
        """
        arguments = inspect.signature(self._positional_method())
        return _helptext.synopsis(self, arguments)

    def getUsage(self, width: int | None = None) -> str:
        """Write the help text below its first line.

        Args:
            width: columns; None takes $COLUMNS, else the terminal's width, else 80.

        Returns:
            the options, the commands, and `longdesc`.
        """
        columns = _helptext.terminal_width() if width is None else width
        blocks = [
            _helptext.option_lines(self._declared(), columns),
            _helptext.command_lines(self.subCommands, columns),
            _helptext.paragraphs(self._description(), columns),
        ]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def __str__(self) -> str:
        columns = _helptext.terminal_width()
        synopsis = "\n".join(_helptext.paragraphs(self.getSynopsis(), columns))
        return f"{synopsis}\n\n{self.getUsage(columns)}"

    def _description(self) -> str:
        if self.longdesc is not None:
            return self.longdesc
        if self.parent is None:
            return _main().__doc__ or ""
        rows = self.parent.subCommands
        return next(
            (doc for name, *_, doc in rows if name == self.parent.subCommand), ""
        )


def completionScript(options: Options, shell: str, program: str | None = None) -> str:
    """Write what a shell must read to complete this program's words.

    Args:
        options: of the program; the script asks the program itself at each TAB.
        shell: "bash", "zsh" or "fish".
        program: its name on the command line; None takes the current one.

    Returns:
        a script to be sourced, or put where the shell looks for completions.

    Raises:
        UsageError: no such shell is known here, or *program* is more than one word.
    """
    from threadable import _completion  # rarely wanted

    return _completion.answer(options, [shell], program or _helptext.program_name())


def _main() -> Any:
    return sys.modules.get("__main__")

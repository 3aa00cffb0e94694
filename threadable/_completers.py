"""What a value or an argument can be: hints for the shell, given by a class of options.

Any thread may enter this room. Completers are asked at a TAB key, in a process of its
own that ends right after.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadable import reflect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from threadable.usage import Options


class Completer:
    """Knows nothing: completes to nothing. The base of those that know something.

    Args:
        descr: what the value is, for shells that show it.
        repeat: as the last one of `extraActions`, serve all further arguments, too.

    Attributes:
        directive: asks the shell itself: "", "dirs", or "files" with a pattern.
    """

    directive = ""

    def __init__(self, descr: str = "", repeat: bool = False) -> None:
        self.descr = descr
        self.repeat = repeat

    def candidates(self, word: str) -> Iterable[str]:
        """List what *word* can become.

        Args:
            word: the part already typed.

        Returns:
            whole words; those that do not begin with *word* are left out later.
        """
        del word
        return ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.descr!r}>"


class CompleteFiles(Completer):
    """Completes to names of files.

    Args:
        globPattern: such as "*.py"; folders are offered besides.
        descr: what the file is for.
        repeat: serve all further arguments, too.
    """

    def __init__(
        self,
        globPattern: str = "*",  # noqa: N803 - the old vocabulary
        descr: str = "",
        repeat: bool = False,
    ) -> None:
        super().__init__(descr, repeat)
        self.directive = f"files {globPattern}"


class CompleteDirs(Completer):
    """Completes to names of folders."""

    directive = "dirs"


class CompleteList(Completer):
    """Completes to the items of a list.

    Args:
        items: strings.
        descr: what they are.
        repeat: serve all further arguments, too.
    """

    def __init__(
        self, items: Iterable[str], descr: str = "", repeat: bool = False
    ) -> None:
        super().__init__(descr, repeat)
        self.items = list(items)

    def candidates(self, word: str) -> Iterable[str]:
        """List all items."""
        del word
        return self.items


class CompleteMultiList(CompleteList):
    """Completes to several items of a list, with commas between them."""

    def candidates(self, word: str) -> Iterable[str]:
        """List each item not yet taken, after what is typed up to the last comma."""
        before, comma, _ = word.rpartition(",")
        taken = before.split(",")
        return [before + comma + item for item in self.items if item not in taken]


class CompleteUsernames(Completer):
    """Completes to the users of this machine."""

    def candidates(self, word: str) -> Iterable[str]:
        """List all users; none where the system has no such list."""
        del word
        pwd = reflect.requireModule("pwd")
        return [] if pwd is None else [entry.pw_name for entry in pwd.getpwall()]


class CompleteGroups(Completer):
    """Completes to the groups of this machine."""

    def candidates(self, word: str) -> Iterable[str]:
        """List all groups; none where the system has no such list."""
        del word
        grp = reflect.requireModule("grp")
        return [] if grp is None else [entry.gr_name for entry in grp.getgrall()]


class CompleteHostnames(Completer):
    """Completes to the hosts this machine and its user have names for."""

    def candidates(self, word: str) -> Iterable[str]:
        """List the names in /etc/hosts and in the user's list of known ssh hosts."""
        del word
        return _host_names()


class CompleteUserAtHost(CompleteHostnames):
    """Completes to user@host: users before the at sign, hosts after it."""

    def candidates(self, word: str) -> Iterable[str]:
        """List users with an at sign, or hosts after the user that is typed."""
        user, at, _ = word.partition("@")
        if not at:
            return [f"{name}@" for name in CompleteUsernames().candidates(word)]
        return [f"{user}@{host}" for host in _host_names()]


class CompleteNetInterfaces(Completer):
    """Completes to the network interfaces of this machine."""

    def candidates(self, word: str) -> Iterable[str]:
        """List all interfaces; none where the system has no such list."""
        del word
        names = getattr(reflect.namedModule("socket"), "if_nameindex", lambda: ())
        return [name for _, name in names()]


class Completions:
    """What a class of options knows about its values, as `compData`.

    Those of base classes count, too; what is closer to the class wins. Options are
    named as in their declaration.

    Args:
        descriptions: other texts than the documentation, by option.
        multiUse: options that make sense several times. Others are not offered again.
        mutuallyExclusive: groups of options of which one excludes the rest.
        optActions: a `Completer` for the value, by option. Without one, files.
        extraActions: a `Completer` for each positional argument. Without one, files.
    """

    def __init__(
        self,
        descriptions: Mapping[str, str] | None = None,
        multiUse: Iterable[str] = (),  # noqa: N803 - the old vocabulary
        mutuallyExclusive: Iterable[Iterable[str]] = (),  # noqa: N803
        optActions: Mapping[str, Completer] | None = None,  # noqa: N803
        extraActions: Sequence[Completer] = (),  # noqa: N803
    ) -> None:
        self.descriptions: dict[str, str] = dict(descriptions or {})
        self.multiUse = list(multiUse)
        self.mutuallyExclusive = [list(group) for group in mutuallyExclusive]
        self.optActions: dict[str, Completer] = dict(optActions or {})
        self.extraActions = list(extraActions)

    def __repr__(self) -> str:
        return (
            f"<Completions for {len(self.optActions)} option(s) and "
            f"{len(self.extraActions)} argument(s)>"
        )


def collected(cls: type[Options]) -> Completions:
    """Merge the `compData` of a class and its bases.

    Args:
        cls: a class of options.

    Returns:
        a new object; `extraActions` are those of the closest class that has any.
    """
    whole = Completions()
    for klass in reversed(cls.__mro__):
        own: Any = klass.__dict__.get("compData")
        if own is not None:
            whole.descriptions.update(own.descriptions)
            whole.multiUse += own.multiUse
            whole.mutuallyExclusive += own.mutuallyExclusive
            whole.optActions.update(own.optActions)
            whole.extraActions = own.extraActions or whole.extraActions
    return whole


def _host_names() -> list[str]:
    names: list[str] = []
    for line in _lines(Path("/etc/hosts")):
        names += line.partition("#")[0].split()[1:]
    for line in _lines(Path("~/.ssh/known_hosts").expanduser()):
        # "name,address type key"; a hashed name begins with a bar, a marker with @.
        if line and line[0] not in "|@#":
            names += (name for name in line.split()[0].split(",") if name[0] != "[")
    return sorted(set(names))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # absent or unreadable: then it names nobody
        return []

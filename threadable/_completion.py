"""Shell completion: scripts for bash, zsh and fish, and the answers they ask for.

Any thread may enter this room; it runs in a process of its own, at a TAB key. The
scripts are short and know nothing: each TAB asks the program itself, through the
hidden first word ``--_shell-completion``. So there is one description of the options,
and the three shells cannot disagree about it.

An answer has a first line, which is empty or asks the shell to add names of files
(``files *.py``) or folders (``dirs``), and a line for each candidate: the word, a tab,
its description.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from threadable import _completers
from threadable._declared import Declared, UsageError, dashed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from threadable._declared import Table
    from threadable.usage import Options

Candidates = list[tuple[str, str]]  # word and description


def answer(options: Options, words: Sequence[str], program: str) -> str:
    """Answer a shell.

    Args:
        options: of the program, nothing parsed yet.
        words: the shell's name alone to get its script; after it the words of the
            line behind the program's name, the last one being completed, to get
            candidates.
        program: its name on the command line.

    Returns:
        the script, or the candidates.

    Raises:
        UsageError: no shell is named, or an unknown one; or the program is not run by
            a name of its own, but as ``python -m name``.
    """
    shell = words[0] if words else ""
    if shell not in _SCRIPTS:
        raise UsageError(
            f"No completion for the shell {shell!r}: there is one for "
            f"{', '.join(_SCRIPTS)}."
        )
    if len(words) == 1:
        if " " in program:
            raise UsageError(
                f"A shell completes the words of a command, and {program!r} is none: "
                "run the program by the name under which it is installed."
            )
        function = re.sub(r"\W", "_", program)
        return _SCRIPTS[shell].replace("@PROGRAM@", program).replace("@NAME@", function)
    line = list(words[1:])
    whole = _rejoined(line) if shell == "bash" else line
    directive, candidates = complete(options, whole)
    if whole[-1] != line[-1]:
        # bash has cut "--port=80" into three words, and replaces only the last one.
        keep = 0 if _GLUE.fullmatch(line[-1]) else len(line[-1])
        cut = len(whole[-1]) - keep
        candidates = [(word[cut:], doc) for word, doc in candidates]
    lines = [directive]
    for word, doc in candidates:
        lines.append(f"{word}\t{' '.join(doc.split())}")
    return "\n".join(lines) + "\n"


def complete(options: Options, words: Sequence[str]) -> tuple[str, Candidates]:
    """Find what the last of *words* can become.

    Args:
        options: of the program, nothing parsed yet.
        words: of the line, without the program's name; the last one may be empty.

    Returns:
        a request to the shell ("", "dirs", "files PATTERN"), and candidates.
    """
    *before, word = words
    scene = _Scene(options)
    for earlier in before:
        scene = scene.after(earlier)
    directive, found = scene.offers(word)
    return directive, [(name, doc) for name, doc in found if name.startswith(word)]


class _Scene:
    """Where on the line we are: whose options count, and what has been given."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.table: Table = options._declared()
        self.hints = _completers.collected(type(options))
        self.used: list[Declared] = []
        self.waiting: Declared | None = None  # the option whose value comes next
        self.positionals = 0
        self.only_positionals = False

    def after(self, word: str) -> _Scene:
        """Walk over a word that is complete."""
        if self.waiting is not None:
            self.waiting = None
        elif self.only_positionals or word == "-" or not word.startswith("-"):
            return self._after_positional(word)
        elif word == "--":
            self.only_positionals = True
        elif word.startswith("--"):
            name, equals, _ = word[2:].partition("=")
            self._use(self.table.by_long.get(dashed(name)), complete=bool(equals))
        else:
            for position, letter in enumerate(word[1:], start=2):
                option = self.table.by_short.get(letter)
                self._use(option, complete=position < len(word))
                if option is not None and option.takes_value:
                    break
        return self

    def _use(self, option: Declared | None, *, complete: bool) -> None:
        if option is not None:
            self.used.append(option)
            if option.takes_value and not complete:
                self.waiting = option

    def _after_positional(self, word: str) -> _Scene:
        self.positionals += 1
        for name, short, make, _doc in self.options.subCommands:
            if self.positionals == 1 and word in (name, short or name):
                options = make()
                options.parent = self.options
                return _Scene(options)
        return self

    def offers(self, word: str) -> tuple[str, Iterable[tuple[str, str]]]:
        """List what can stand here, whether it fits *word* or not."""
        if self.waiting is not None:
            return self._values(self._action(self.waiting), word)
        if self.only_positionals or not word.startswith("-"):
            return self._arguments(word)
        name, equals, value = word.partition("=")
        option = self.table.by_long.get(dashed(name[2:]))
        if word.startswith("--") and equals and option is not None:
            directive, found = self._values(self._action(option), value)
            return directive, [(f"{name}={text}", doc) for text, doc in found]
        return "", self._options()

    def _arguments(self, word: str) -> tuple[str, Iterable[tuple[str, str]]]:
        if self.options.subCommands and not self.positionals:
            return "", [(name, doc) for name, _, _, doc in self.options.subCommands]
        actions = self.hints.extraActions
        if self.positionals < len(actions):
            return self._values(actions[self.positionals], word)
        if actions:
            last = actions[-1] if actions[-1].repeat else _completers.Completer()
            return self._values(last, word)
        return self._values(_completers.CompleteFiles(), word)

    def _values(
        self, action: _completers.Completer, word: str
    ) -> tuple[str, list[tuple[str, str]]]:
        found = [(text, action.descr) for text in action.candidates(word)]
        return action.directive, found

    def _action(self, option: Declared) -> _completers.Completer:
        for name, action in self.hints.optActions.items():
            if self._named(name) is option:
                return action
        return _completers.CompleteFiles()

    def _options(self) -> list[tuple[str, str]]:
        taken = {*self.used}
        for group in self.hints.mutuallyExclusive:
            members = {self._named(name) for name in group}
            if not members.isdisjoint(taken):
                taken |= {member for member in members if member is not None}
        taken -= {self._named(name) for name in self.hints.multiUse}
        texts = {self._named(k): text for k, text in self.hints.descriptions.items()}
        return [
            (spelling, texts.get(option, option.doc))
            for option in self.table
            if option not in taken
            for spelling in sorted(option.spellings(), reverse=True)
        ]

    def _named(self, name: str) -> Declared | None:
        return self.table.by_long.get(dashed(name)) or self.table.by_short.get(name)


def _rejoined(words: list[str]) -> list[str]:
    """Put together what bash cuts at : and =, as in ``--port``, ``=``, ``80``.

    It does not tell whether there was a space; next to these signs there seldom is.
    """
    joined: list[str] = []
    glued = False
    for word in words:
        glue = bool(_GLUE.fullmatch(word)) and bool(joined) and joined[-1] != ""
        if glue and "=" in word:
            glue = joined[-1].startswith("--")
        if glue or glued:
            joined[-1] += word
        else:
            joined.append(word)
        glued = glue
    return joined


_GLUE = re.compile(r"[=:]+")

_BASH = """\
# Completion for @PROGRAM@ in bash: source this file, or put it into
# ~/.local/share/bash-completion/completions/@PROGRAM@
_@NAME@_complete() {
    local line word directive="" first=1 IFS=$'\\n'
    local current="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $first == 1 ]]; then first=0; directive="$line"; continue; fi
        printf -v word '%q' "${line%%$'\\t'*}"
        COMPREPLY+=("$word")
    done < <("${COMP_WORDS[0]/#\\~/$HOME}" --_shell-completion bash \\
        "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    [[ $current == [=:] ]] && current=""
    case "$directive" in
        files\\ *)
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -d -- "$current"))
            while IFS= read -r line; do
                [[ ! -d $line && ${line##*/} == ${directive#files } ]] &&
                    COMPREPLY+=("$line")
            done < <(compgen -f -- "$current") ;;
        dirs)
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -d -- "$current")) ;;
    esac
    return 0
}
complete -F _@NAME@_complete @PROGRAM@
"""

_ZSH = """\
#compdef @PROGRAM@
# Completion for @PROGRAM@ in zsh: put this file as _@PROGRAM@ into a folder of $fpath.
_@NAME@_complete() {
    local line word directive
    local -a lines found
    lines=("${(@f)$("${words[1]}" --_shell-completion zsh \\
        "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    directive="${lines[1]}"
    for line in "${(@)lines[2,-1]}"; do
        [[ -n "$line" ]] || continue
        word="${line%%$'\\t'*}"
        found+=("${word//:/\\\\:}:${line#*$'\\t'}")
    done
    (( $#found )) && _describe '@PROGRAM@' found
    [[ -n "$directive" && "${words[CURRENT]}" == --*=* ]] && compset -P '*='
    case "$directive" in
        files\\ *) _files -g "${directive#files }" ;;
        dirs) _files -/ ;;
    esac
}
if [[ "${funcstack[1]}" == "_@PROGRAM@" ]]; then
    _@NAME@_complete
else
    compdef _@NAME@_complete @PROGRAM@
fi
"""

_FISH = """\
# Completion for @PROGRAM@ in fish: put this file as @PROGRAM@.fish into
# ~/.config/fish/completions
function __@NAME@_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] --_shell-completion fish $words[2..-1] "$current" \\
        2>/dev/null)
    set -l directive $lines[1]
    for line in $lines[2..-1]
        echo $line
    end
    switch "$directive"
        case 'files *'
            __fish_complete_suffix (string replace -r '^files \\\\*?' '' -- $directive)
        case dirs
            __fish_complete_directories "$current"
    end
end
complete -c @PROGRAM@ -f -a '(__@NAME@_complete)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

"""Completion in bash, zsh and fish."""

# ruff: noqa: N815, RUF012 - the old vocabulary, and lists that nobody changes

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from threadable import _completers, _completion, usage


class Load(usage.Options):
    """A command."""

    optFlags = [["force", "f", "Whatever is there."]]
    optParameters = [["format", "F", "csv", "How it is written."]]
    compData = usage.Completions(
        optActions={"format": usage.CompleteList(["csv", "json"], "format")},
        extraActions=[
            usage.CompleteFiles("*.db", "database"),
            usage.CompleteList(["users", "items"], repeat=True),
        ],
    )


class Main(usage.Options):
    """Has one of everything."""

    optFlags = [
        ["quiet", "q", "Say\tnothing."],
        ["loud", "l", "Say all."],
        ["no_save", "o"],
    ]
    optParameters = [
        ["port", "p", 80, "Listen there."],
        ["dir", "d", "."],
        ["log", "", "x"],
    ]
    subCommands = [
        ("load", "l", Load, "Load a file."),
        ("list", None, usage.Options, "List all."),
    ]
    compData = usage.Completions(
        descriptions={"no_save": "Do not write."},
        multiUse=["verbose", "p"],
        mutuallyExclusive=[["quiet", "loud"]],
        optActions={
            "port": usage.CompleteList(["80", "8080", "443"], "a port"),
            "dir": usage.CompleteDirs(),
        },
    )

    def opt_verbose(self):
        """Say more."""

    opt_v = opt_verbose


def words(*line, options=Main):
    """The words offered for the last one of a line, and what the shell must add."""
    directive, found = _completion.complete(options(), line)
    return directive, [word for word, _ in found]


def test_options_are_offered_with_their_texts():
    """A dash offers the options that begin so, with their documentation."""
    _, found = _completion.complete(Main(), ["--l"])
    assert found == [("--loud", "Say all."), ("--log", "")]
    assert ("--no-save", "Do not write.") in _completion.complete(Main(), ["-"])[1]
    assert "-q" in words("-")[1]
    assert "-q" not in words("--")[1]


def test_an_option_that_was_given_is_not_offered_again():
    """What makes sense once is offered once; `multiUse` names the others."""
    offered = words("-o", "--verbose", "-p", "3", "--log=x", "--")[1]
    assert "--no-save" not in offered
    assert "--log" not in offered
    assert "--verbose" in offered
    assert "--port" in offered


def test_options_that_exclude_each_other_are_not_offered_together():
    """Of a group in `mutuallyExclusive`, one silences the others."""
    assert "--loud" in words("--")[1]
    offered = words("-vq", "--")[1]
    assert "--loud" not in offered
    assert "--quiet" not in offered


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (("--port", "8"), ["80", "8080"]),
        (("-p", "8"), ["80", "8080"]),
        (("-vp", "4"), ["443"]),
        (("--port=8",), ["--port=80", "--port=8080"]),
        (("--port", "80", "l"), ["load", "list"]),
        (("-p80", "l"), ["load", "list"]),
    ],
)
def test_values_are_offered_where_a_value_stands(line, found):
    """The completer of an option serves its value, however that is written."""
    assert words(*line) == ("", found)


def test_files_are_offered_where_nothing_is_known():
    """A value without completer, and arguments without, are names of files."""
    assert words("--log", "") == ("files *", [])
    assert words("-d", "") == ("dirs", [])
    assert words("x", options=usage.Options) == ("files *", [])


def test_commands_are_offered_and_then_theirs():
    """The first argument is a command; after it, its own options and arguments."""
    assert words("")[1] == ["load", "list"]
    assert words("-q", "li")[1] == ["list"]
    for name in ("load", "l"):
        assert words(name, "--f")[1] == ["--force", "--format"]
        assert words(name, "--format", "")[1] == ["csv", "json"]
        assert words(name, "") == ("files *.db", [])
    assert words("unknown", "x") == ("files *", [])


def test_arguments_have_completers_in_their_order():
    """`extraActions` serve one argument each; the last one more, if it repeats."""
    assert words("load", "a.db", "")[1] == ["users", "items"]
    assert words("load", "a.db", "users", "i")[1] == ["items"]
    once = type(
        "Once",
        (usage.Options,),
        {"compData": usage.Completions(extraActions=[usage.CompleteList(["a"])])},
    )
    assert words("a", "", options=once) == ("", [])


def test_after_two_dashes_everything_is_an_argument():
    """`--` ends the options for the shell, too, and a lone dash is an argument."""
    assert words("load", "--", "-")[0] == "files *.db"
    assert words("load", "-", "u")[1] == ["users"]
    assert words("load", "--", "x", "i")[1] == ["items"]


def test_what_does_not_exist_is_passed_over():
    """An unknown option on the line hinders nothing."""
    assert words("--nonsense", "-Z", "--port", "44")[1] == ["443"]
    assert words("--nonsense=x") == ("", [])


def test_hints_accumulate_over_the_hierarchy():
    """`compData` of the bases counts; what is closer to the class wins."""

    class Sub(Main):
        compData = usage.Completions(
            descriptions={"quiet": "Hush."},
            optActions={"port": usage.CompleteList(["1"])},
            extraActions=[usage.CompleteDirs()],
        )

    merged = _completers.collected(Sub)
    assert merged.descriptions == {"no_save": "Do not write.", "quiet": "Hush."}
    assert merged.optActions["port"].items == ["1"]
    assert merged.mutuallyExclusive == [["quiet", "loud"]]
    assert len(merged.extraActions) == 1
    assert repr(merged) == "<Completions for 2 option(s) and 1 argument(s)>"
    assert Main.compData.descriptions == {"no_save": "Do not write."}


# -- completers ------------------------------------------------------------------------


def test_the_base_completer_knows_nothing():
    """A bare Completer offers nothing, and no files either."""
    assert list(usage.Completer("text").candidates("x")) == []
    assert repr(usage.Completer("text")) == "<Completer 'text'>"
    assert usage.Completer().directive == ""


def test_several_items_with_commas():
    """CompleteMultiList offers each item once, after what is typed."""
    several = usage.CompleteMultiList(["a", "b", "c"])
    assert several.candidates("") == ["a", "b", "c"]
    assert several.candidates("a,") == ["a,b", "a,c"]
    assert several.candidates("a,c,x") == ["a,c,b"]


def test_users_and_groups_of_this_machine():
    """CompleteUsernames and CompleteGroups ask the system."""
    assert "root" in usage.CompleteUsernames().candidates("")
    assert usage.CompleteGroups().candidates("")


def test_interfaces_of_this_machine():
    """CompleteNetInterfaces asks the system."""
    names = [name for _, name in socket.if_nameindex()]
    assert usage.CompleteNetInterfaces().candidates("") == names


def test_hosts_are_those_one_has_names_for(monkeypatch, tmp_path):
    """CompleteHostnames reads the known hosts; CompleteUserAtHost both."""
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    (ssh / "known_hosts").write_text(
        "one.example,10.0.0.1 ssh-rsa AAAA\n|1|hash ssh-rsa AAAA\n"
        "[two.example]:22 ssh-rsa AAAA\n# remark\n@revoked x y\n\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    hosts = usage.CompleteHostnames().candidates("")
    assert {"one.example", "10.0.0.1"} <= set(hosts)
    assert not [name for name in hosts if name[0] in "|[#@"]
    both = usage.CompleteUserAtHost()
    assert "me@one.example" in both.candidates("me@o")
    assert "root@" in both.candidates("ro")


def test_a_machine_without_such_files_has_no_names(monkeypatch, tmp_path):
    """A file that cannot be read names nobody."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _completers._lines(tmp_path / "absent") == []


# -- the shells ------------------------------------------------------------------------


def test_each_shell_has_a_script():
    """`completionScript` gives a script that asks the program itself."""
    for shell in ("bash", "zsh", "fish"):
        script = usage.completionScript(Main(), shell, "my-prog")
        assert f"--_shell-completion {shell}" in script
        assert "my-prog" in script
        assert "@" not in script.replace("[@]", "").replace("(@", "")
    assert "#compdef my-prog\n" in usage.completionScript(Main(), "zsh", "my-prog")
    with pytest.raises(usage.UsageError, match="'tcsh': there is one for bash, zsh"):
        usage.completionScript(Main(), "tcsh")


def test_a_program_without_a_name_of_its_own_has_no_script(monkeypatch):
    """A shell knows commands; `python -m package` is none."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/package/__main__.py"])
    with pytest.raises(usage.UsageError, match="'python -m package' is none"):
        usage.completionScript(Main(), "bash")


def test_the_hidden_word_answers_and_exits(capsys, monkeypatch):
    """`--_shell-completion SHELL` prints the script, with words their candidates."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/my-prog"])
    for line, out in [
        (["bash"], usage.completionScript(Main(), "bash")),
        (["fish", "--q"], "\n--quiet\tSay nothing.\n"),
        (["zsh", "load", ""], "files *.db\n"),
    ]:
        with pytest.raises(SystemExit) as caught:
            Main().parseOptions(["--_shell-completion", *line])
        assert caught.value.code == 0
        assert capsys.readouterr().out == out
    assert "_shell" not in str(Main())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["--port", "=", "8"], ["80", "8080"]),
        (["--port", "="], ["80", "8080", "443"]),
        (["--port=8"], ["--port=80", "--port=8080"]),
        (["--log", "=", "a", "l"], ["load", "list"]),
        (["--port", "8"], ["80", "8080"]),
    ],
)
def test_bash_cuts_words_at_equals_signs(line, found):
    """Bash hands over `--port=8` as three words and replaces only the last."""
    lines = _completion.answer(Main(), ["bash", *line], "prog").splitlines()[1:]
    assert [each.split("\t")[0] for each in lines] == found


def test_bash_cuts_words_at_colons():
    """So it does with `sqlite://`."""
    urls = type(
        "Urls",
        (usage.Options,),
        {
            "compData": usage.Completions(
                extraActions=[usage.CompleteList(["db://one", "db://two"])]
            )
        },
    )
    for line, found in [
        (["db", ":", "//o"], ["//one"]),
        (["db", ":"], ["//one", "//two"]),
        (["d"], ["db://one", "db://two"]),
    ]:
        lines = _completion.answer(urls(), ["bash", *line], "prog").splitlines()[1:]
        assert [each.split("\t")[0] for each in lines] == found


PROGRAM = """#!{python}
import sys
sys.path[:0] = {path!r}
from threadable import usage

class Options(usage.Options):
    optFlags = [["quiet", "q", "Say nothing."]]
    optParameters = [["port", "p", 80], ["dir", "d", "."], ["name", "", ""]]
    compData = usage.Completions(
        optActions={{
            "port": usage.CompleteList(["80", "8080"]),
            "dir": usage.CompleteDirs(),
            "name": usage.CompleteList(["two words", "plain"]),
        }},
        extraActions=[usage.CompleteFiles("*.db")],
    )

Options().parseOptions()
"""


@pytest.fixture
def in_bash(tmp_path):
    """Press TAB in a real bash: the words it would offer."""
    bash = shutil.which("bash")
    assert bash, "this test needs bash: install it, every system has it"
    program = tmp_path / "my-prog"
    program.write_text(
        PROGRAM.format(python=sys.executable, path=[p for p in sys.path if p])
    )
    program.chmod(0o755)
    (tmp_path / "one.db").write_text("")
    (tmp_path / "other.txt").write_text("")
    (tmp_path / "folder").mkdir()

    def press(*line):
        script = (
            f'source <("{program}" --_shell-completion bash)\n'
            f'COMP_WORDS=("{program}" "$@")\nCOMP_CWORD=$#\n'
            '_my_prog_complete\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(
            [bash, "--norc", "-c", script, "bash", *line],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        return sorted(done.stdout.split("\n")[:-1])

    return press


def test_bash_completes(in_bash):
    """In a real bash: options, values, folders, files of a pattern, quoting."""
    assert in_bash("--q") == ["--quiet"]
    assert in_bash("-p", "8") == ["80", "8080"]
    assert in_bash("--port", "=", "808") == ["8080"]
    assert in_bash("--port", "=") == ["80", "8080"]
    assert in_bash("--dir", "") == ["folder"]
    assert in_bash("") == ["folder", "one.db"]
    assert in_bash("oth") == [""]
    assert in_bash("--name", "t") == ["two\\ words"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_valid_where_the_shell_is_at_hand(shell, tmp_path):
    """Each script is accepted by its shell's own syntax check."""
    path = Path(tmp_path / "script")
    path.write_text(usage.completionScript(Main(), shell, "my-prog"))
    program = shutil.which(shell)
    if program is None:
        # Not every machine has all three. Then at least the quotes are in pairs.
        assert path.read_text().count('"') % 2 == 0
        return
    subprocess.run([program, "-n", str(path)], check=True, timeout=60)

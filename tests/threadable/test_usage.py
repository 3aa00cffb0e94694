"""Options: declaring, parsing, reading, help."""

# ruff: noqa: N815, RUF012 - the old vocabulary, and lists that nobody changes

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from threadable import usage


class Server(usage.Options):
    """Has one of everything."""

    optFlags = [
        ["quiet", "q", "Say nothing."],
        ["no_save", "", "Do not write the file."],
        ["bare", None],
    ]
    optParameters = [
        ["port", "p", 8080, "Listen on this port.", usage.portCoerce],
        ["log-file", "l", None, "Log there."],
        ["ratio", None, "0.5", "How much.", float],
    ]
    optStrings = [["rundir", "d", "."]]

    def __init__(self):
        super().__init__()
        self.loud = 0
        self.seen = []

    def opt_verbose(self):
        """Say more; may be given several times.

        Not in the help text.
        """
        self.loud += 1

    opt_v = opt_verbose

    def opt_define(self, pair):
        """Set a value, as name=value."""
        self.seen.append(pair)

    opt_D = opt_define

    def parseArgs(self, source, target="out", *rest):
        self.source, self.target, self.rest = source, target, rest


def parse(line, cls=Server):
    """Parse a line of words."""
    config = cls()
    config.parseOptions(line.split())
    return config


def refusal(line, cls=Server):
    """The text of the UsageError for a line of words."""
    with pytest.raises(usage.UsageError) as caught:
        parse(line, cls)
    return str(caught.value)


# -- flags and values ------------------------------------------------------------------


def test_flags_are_false_and_true_when_given():
    """`optFlags`: False by default, True when given; no short name is '' or None."""
    assert parse("a")["quiet"] is False
    config = parse("-q --no-save --bare a")
    assert config["quiet"] is config["no_save"] is config["bare"] is True


def test_values_have_defaults_and_arrive_as_text():
    """`optParameters` and `optStrings`: the default, else what was given, as str."""
    assert parse("a")["rundir"] == "."
    assert parse("a")["log-file"] is None
    config = parse("--log-file 5 -d /tmp a")
    assert (config["log-file"], config["rundir"]) == ("5", "/tmp")


@pytest.mark.parametrize(
    "line", ["--port 81 a", "--port=81 a", "-p 81 a", "-p81 a", "-qp81 a", "a -qp 81"]
)
def test_a_value_can_be_written_in_five_ways(line):
    """Long or short, with a space, an equals sign, or nothing in between."""
    assert parse(line).port == 81


def test_a_value_may_begin_with_a_dash():
    """What follows an option is its value, whatever it looks like."""
    assert parse("--log-file --quiet a")["log-file"] == "--quiet"
    assert parse("--log-file= a")["log-file"] == ""


def test_a_default_that_is_no_string_tells_whether_the_option_was_given():
    """A non-string default stays as it is; what is given is never equal to None."""
    assert parse("a")["log-file"] is None
    assert parse("a").port == 8080
    assert parse("--log-file None a")["log-file"] == "None"


def test_string_defaults_are_coerced_and_others_kept():
    """A string default goes through the coercion, as if it had been given."""
    assert parse("a").ratio == 0.5
    assert Server().defaults["ratio"] == 0.5
    refused = type("O", (usage.Options,), {"optParameters": [["n", "", "x", "", int]]})
    with pytest.raises(usage.UsageError, match="default of 'n', 'x', is refused"):
        refused()


def test_a_value_that_does_not_fit_is_a_usage_error():
    """A ValueError of the coercion becomes a UsageError that says what would fit."""
    text = refusal("--port http a")
    assert "--port does not take 'http'" in text
    assert "Parameter type enforcement failed: invalid literal" in text
    assert "Must be an int between 0 and 65535." in text
    assert "port number out of range: 70000" in refusal("-p 70000 a")


def test_other_exceptions_of_a_coercion_propagate():
    """Only ValueError means that the value is wrong."""

    def broken(value):
        raise KeyError(value)

    cls = type("O", (usage.Options,), {"optParameters": [["n", "", 1, "", broken]]})
    with pytest.raises(KeyError, match="x"):
        parse("--n x", cls)


def test_port_coerce_knows_ports():
    """`portCoerce` gives an int between 0 and 65535."""
    assert [usage.portCoerce(p) for p in ("0", "65535")] == [0, 65535]
    for wrong in ("-1", "65536", "x", ""):
        with pytest.raises(ValueError, match=r"port|literal"):
            usage.portCoerce(wrong)


# -- methods ---------------------------------------------------------------------------


def test_methods_are_flags_or_take_a_value_by_their_signature():
    """`opt_name(self)` is a flag, `opt_name(self, value)` takes one argument."""
    config = parse("--verbose --define a=1 a")
    assert config.loud == 1
    assert config.seen == ["a=1"]


def test_methods_are_called_each_time():
    """An option may be given repeatedly: -vvv."""
    config = parse("-vvv -v -Da=1 -D b=2 --define=c=3 a")
    assert config.loud == 4
    assert config.seen == ["a=1", "b=2", "c=3"]


def test_an_alias_of_one_letter_has_one_dash():
    """`opt_v = opt_verbose` is -v, and never --v."""
    assert "Unknown option --v." in refusal("--v a")


def test_a_method_with_more_parameters_is_refused_at_construction():
    """A method that needs two values cannot handle an option."""

    class Wrong(usage.Options):
        def opt_two(self, one, two):
            pass

    with pytest.raises(usage.UsageError, match=r"opt_two needs 2 arguments \(one, two"):
        Wrong()

    class Keyword(usage.Options):
        def opt_one(self, *, one):
            pass

    with pytest.raises(usage.UsageError, match="needs 1 arguments"):
        Keyword()


def test_a_parameter_with_a_default_makes_a_flag():
    """What can be called without a value is a flag."""

    class Optional(usage.Options):
        def opt_maybe(self, value="nothing"):
            self.value = value

        def opt_all(self, *values):
            self.values = values

    config = parse("--maybe --all", Optional)
    assert (config.value, config.values) == ("nothing", ())


def test_flag_function_tells_flags():
    """`flagFunction(method)`: True for a flag, False if it takes a value."""
    config = Server()
    assert usage.flagFunction(config.opt_verbose) is True
    assert usage.flagFunction(config.opt_define) is False
    with pytest.raises(usage.UsageError, match="needs 2 arguments"):
        usage.flagFunction(lambda one, two: None)


def test_assignment_in_a_method_writes_the_option():
    """`self.python = ...` inside an `opt_` method writes the option."""

    class Paper(usage.Options):
        optStrings = [["python", "y", ""]]

        def opt_plugin(self, name):
            self.python = f"{name}/config.tac"

    config = parse("--plugin web", Paper)
    assert config["python"] == config.python == "web/config.tac"
    assert "python" not in vars(config)


def test_a_row_and_a_method_of_one_name_work_together():
    """The row gives default, letter and text; the method handles what is given."""

    class Both(usage.Options):
        optParameters = [["level", "l", 3, "How much."]]

        def opt_level(self, value):
            """Not this text."""
            self["level"] = int(value) * 10

    assert Both().level == 3
    assert parse("-l 4", Both).level == parse("--level=4", Both).level == 40
    assert Both().docs["level"] == "How much."


# -- along the class hierarchy ---------------------------------------------------------


class Special(Server):
    """Adds to everything."""

    optFlags = [["fast", "f", "Be fast."]]
    optParameters = [["port", None, "81"], ["size", "p", "big"]]

    def opt_extra(self):
        self.seen.append("extra")


def test_declarations_accumulate_over_the_hierarchy():
    """Attributes do not override those of the base class, but append."""
    config = parse("-q -f --verbose --extra --size small a", Special)
    assert config.quiet
    assert config.fast
    assert (config.loud, config.seen, config.size) == (1, ["extra"], "small")


def test_a_row_of_a_subclass_changes_what_it_says_and_no_more():
    """A subclass may give another default; text and coercion stay."""
    config = Special()
    assert config.port == 81
    assert config.docs["port"] == "Listen on this port."
    with pytest.raises(usage.UsageError, match="enforcement"):
        config.parseOptions(["--port", "x", "a"])


def test_a_letter_belongs_to_the_subclass_that_takes_it():
    """Where two rows want one letter, the subclass has it."""
    assert parse("-p small a", Special).size == "small"
    assert "-p" not in str(Special()).split("--port")[0]


def test_a_subclass_can_take_an_option_away():
    """`opt_version = None` leaves no --version."""

    class Bare(usage.Options):
        opt_version = None

    assert "Unknown option --version" in refusal("--version", Bare)


def test_ones_own_help_and_version_win():
    """A row called version is the user's option, not ours."""

    class Own(usage.Options):
        optParameters = [["version", "v", None, "Which one."]]
        optFlags = [["h", "h"]]

        def opt_help(self):
            self.helped = True

    config = parse("--version 3 --help -h", Own)
    assert config["version"] == "3"
    assert config.helped


@pytest.mark.parametrize(
    ("attribute", "row"),
    [
        ("optFlags", []),
        ("optFlags", ["a", "a", "text", "more"]),
        ("optFlags", "quiet"),
        ("optFlags", ["", "q"]),
        ("optFlags", ["quiet", "qu"]),
        ("optParameters", ["a", "a", 1, "text", int, "more"]),
        ("optParameters", [3]),
    ],
)
def test_a_row_that_cannot_work_is_refused_at_construction(attribute, row):
    """A wrong row is named in a UsageError."""
    cls = type("Wrong", (usage.Options,), {attribute: [row]})
    with pytest.raises(usage.UsageError, match=f"Wrong.{attribute} has the row"):
        cls()


def test_an_option_is_a_flag_or_has_a_value():
    """Two rows of one name and different kinds contradict each other."""
    cls = type(
        "Wrong", (usage.Options,), {"optFlags": [["a"]], "optParameters": [["a"]]}
    )
    with pytest.raises(usage.UsageError, match="both as a flag and with a value"):
        cls()


# -- mistakes on the command line ------------------------------------------------------


def test_usage_error_has_two_names():
    """`usage.error` is `UsageError`."""
    assert usage.error is usage.UsageError


def test_unknown_options_are_named_and_guessed():
    """An unknown option is a UsageError that says what was probably meant."""
    assert refusal("--prot 3 a") == "Unknown option --prot. Did you mean --port?"
    assert refusal("--no-svae a").endswith("Did you mean --no-save?")
    assert refusal("--zzz a").endswith("See --help.")
    assert refusal("-x a").startswith("Unknown option -x. ")
    assert refusal("-qx a").startswith("Unknown option -x in -qx. ")


def test_long_options_cannot_be_abbreviated():
    """A beginning is unknown, since a new option could change its meaning."""
    assert refusal("--verb a") == "Unknown option --verb. Did you mean --verbose?"
    assert refusal("--log a") == "Unknown option --log. Did you mean --log-file?"


def test_a_missing_value_is_a_usage_error():
    """An option that takes a value needs one."""
    assert "--port needs a value" in refusal("a --port")
    assert "-p needs a value" in refusal("a -qp")


def test_a_value_for_a_flag_is_a_usage_error():
    """A flag takes no value."""
    assert "--quiet is a flag and takes no value" in refusal("--quiet=yes a")
    assert "--verbose is a flag" in refusal("--verbose=3 a")


def test_too_few_or_too_many_arguments_are_a_usage_error():
    """The number of positional arguments is checked by the signature."""
    assert refusal("") == (
        "Wrong number of arguments: 0 given, but this takes source [target] "
        "[rest ...]. See --help."
    )
    assert "2 given (a b), but this takes none" in refusal("a b", usage.Options)


def test_type_errors_inside_methods_are_not_wrong_arguments():
    """A TypeError raised inside a method arrives as what it is."""

    class Broken(usage.Options):
        def parseArgs(self, word):
            len(3)

        def opt_flag(self):
            len(3)

        def opt_value(self, value):
            len(3)

    for line in ("word", "--flag", "--value 3"):
        with pytest.raises(TypeError, match="has no len"):
            parse(line, Broken)


def test_a_usage_error_of_ones_own_arrives():
    """Methods may raise UsageError themselves."""

    class Strict(usage.Options):
        def postOptions(self):
            raise usage.UsageError("nothing fits")

    assert refusal("", Strict) == "nothing fits"


# -- positional arguments --------------------------------------------------------------


def test_positional_arguments_go_to_parse_args():
    """`parseArgs(*args)`; defaults and `*rest` take any number."""
    assert parse("a").target == "out"
    config = parse("a b c d")
    assert (config.source, config.target, config.rest) == ("a", "b", ("c", "d"))


class PaperArgs(usage.Options):
    """Uses the paper's name."""

    def parsedArgs(self, one):
        self.one = one


def test_the_papers_name_is_honoured():
    """`parsedArgs` is called where a class defines that instead."""
    assert parse("x", PaperArgs).one == "x"

    class Newer(PaperArgs):
        def parseArgs(self, one, two):
            self.two = two

    assert parse("x y", Newer).two == "y"


def test_options_may_stand_after_arguments():
    """Options are recognised before, between and after positional arguments."""
    config = parse("a -q b --port 81 c")
    assert config.quiet
    assert config.port == 81
    assert (config.source, config.target, config.rest) == ("a", "b", ("c",))


def test_two_dashes_end_the_options():
    """After `--` everything is positional; a lone dash always is."""
    config = parse("-q -- -x -- --port")
    assert (config.source, config.target, config.rest) == ("-x", "--", ("--port",))
    assert parse("-").source == "-"


def test_parse_options_reads_the_process_arguments(monkeypatch):
    """`parseOptions(None)` reads sys.argv[1:]."""
    monkeypatch.setattr(sys, "argv", ["prog", "-q", "a"])
    config = Server()
    config.parseOptions()
    assert config.quiet
    assert config.source == "a"


def test_post_options_is_called_at_the_end():
    """`postOptions()` sees everything that was given."""

    class Checked(Server):
        def postOptions(self):
            self.summary = (self.source, self.port)

    assert parse("--port 81 a", Checked).summary == ("a", 81)


# -- reading and writing ---------------------------------------------------------------


def test_values_are_read_both_ways():
    """`config["port"]` and `config.port` are the same."""
    config = parse("--port 81 a")
    assert config["port"] == config.port == config.opts["port"] == 81
    with pytest.raises(KeyError):
        _ = config["prot"]
    with pytest.raises(AttributeError, match=r"Server has neither .* 'prot'"):
        _ = config.prot


@pytest.mark.parametrize("given", ["--no-save", "--no_save"])
@pytest.mark.parametrize("log", ["--log-file", "--log_file"])
def test_dashes_and_underscores_are_interchangeable(given, log):
    """`_` and `-` mean the same, on the line and in the program."""
    config = parse(f"{given} {log} x a")
    assert config["no_save"] is config["no-save"] is config.no_save is True
    assert config["log-file"] == config["log_file"] == config.log_file == "x"
    config["log_file"] = "y"
    config.no_save = False
    assert dict(config)["log-file"] == "y"
    assert dict(config)["no_save"] is False
    assert len(config) == len(Server())


class Clash(usage.Options):
    """Has options with the names of methods and attributes."""

    optParameters = [["items", "", "1"], ["copy", "", "2"], ["parent", "", "3"]]
    optFlags = [["docs"]]


def test_an_option_named_like_a_method_is_read_by_key_only():
    """`items` stays the method of a dictionary; the option is `config["items"]`."""
    config = parse("--items 5 --copy 6 --parent 7 --docs", Clash)
    assert (config["items"], config["copy"], config["parent"]) == ("5", "6", "7")
    assert dict(config.items())["docs"] is True
    assert config.parent is None
    with pytest.raises(AttributeError, match=r"write it by key, config\['items'\]"):
        config.items = 3
    config["items"] = "8"
    assert config["items"] == "8"


def test_ones_own_property_is_respected():
    """A property with the name of an option is written through."""

    class Upper(usage.Options):
        optParameters = [["name", "", "x"]]

        @property
        def name(self):
            return self["name"].upper()

        @name.setter
        def name(self, value):
            self["name"] = f"<{value}>"

    config = Upper()
    config.name = "y"
    assert config.name == "<Y>"


def test_it_is_a_dictionary_and_hashable():
    """The dict API works, and an object can be a key."""
    one, two = Server(), Server()
    assert one == two == dict(one)
    assert len({one, two}) == 2
    assert one.opts is one
    assert sorted(one) == sorted(
        ["quiet", "no_save", "bare", "port", "log-file", "ratio", "rundir"]
    )
    assert one.defaults == dict(one)
    assert one.docs["define"] == "Set a value, as name=value."
    assert one.docs["verbose"] == "Say more; may be given several times."


class Pickled(Server):
    """At the top of the module, with what pickle cannot take: a lambda."""

    optParameters = [["twice", "t", 0, "Doubled.", lambda text: 2 * int(text)]]


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_it_can_be_copied_and_pickled(duplicate):
    """A copy has the values and attributes, and can parse again."""
    config = parse("-t 4 -v a", Pickled)
    other = duplicate(config)
    assert other == config
    assert (other.source, other.loud, other.twice) == ("a", 1, 8)
    other.parseOptions(["--twice", "5", "b"])
    assert (other.twice, config.twice) == (10, 8)


def test_attributes_that_are_no_options_are_only_attributes():
    """What is assigned without being declared is no value of the dictionary."""
    config = Server()
    config.folder = "x"
    assert config.folder == "x"
    assert "folder" not in config
    assert repr(next(iter(config._declared()))) == "<option -q/--quiet>"


def test_repr_tells_what_was_given_and_no_values():
    """A value may be a password: repr names the options, no more."""
    assert repr(Server()) == "<Server: 7 values, given: none>"
    config = parse("--port 81 -v a")
    assert repr(config) == "<Server: 7 values, given: port, verbose>"


# -- sub-commands ----------------------------------------------------------------------


class Load(usage.Options):
    """A command."""

    optFlags = [["force", "f", "Whatever is there."]]

    def parseArgs(self, name):
        self.name = name

    def postOptions(self):
        self.order = [*self.parent.order, "load"]


class Dump(usage.Options):
    """Another command, with commands of its own."""

    optFlags = [["force", "f"]]
    subCommands = [("rows", None, usage.Options, "The rows.")]


class Main(usage.Options):
    """Has commands."""

    optFlags = [["quiet", "q", "Say nothing."]]
    subCommands = [
        ("load", "l", Load, "Load a file."),
        ("dump", None, lambda: Dump(), "Write a file."),
    ]

    def __init__(self):
        super().__init__()
        self.order = []

    def postOptions(self):
        self.order = [*(getattr(self.subOptions, "order", [])), "main"]


@pytest.mark.parametrize("name", ["load", "l"])
def test_a_sub_command_has_options_of_its_own(name):
    """The first argument names the command; what follows is the command's."""
    config = parse(f"-q {name} -f file", Main)
    assert config.quiet
    assert config.subCommand == "load"
    assert isinstance(config.subOptions, Load)
    assert config.subOptions.force
    assert config.subOptions.name == "file"
    assert config.subOptions.parent is config
    assert config.order == ["load", "main"]


def test_options_before_the_command_are_the_programs():
    """After the command's name, the program's own options are unknown."""
    assert "Unknown option -q" in refusal("load -q file", Main)
    assert "Unknown option -f" in refusal("-f load file", Main)


def test_unknown_commands_are_named_and_guessed():
    """An unknown command is a UsageError that says what was probably meant."""
    assert refusal("laod x", Main) == (
        "Unknown command: laod. Did you mean load? Commands are load, dump."
    )


def test_without_a_command_the_default_is_taken():
    """`defaultSubCommand` is taken where none is given; without it there is none."""
    assert parse("", Main).subCommand is None
    default = type("Default", (Main,), {"defaultSubCommand": "dump"})
    config = parse("-q", default)
    assert config.subCommand == "dump"
    assert isinstance(config.subOptions, Dump)


def test_commands_may_have_commands():
    """Sub-commands nest, and a function may make the options."""
    config = parse("dump -f rows", Main)
    assert config.subOptions.subCommand == "rows"
    assert config.subOptions.force


# -- help ------------------------------------------------------------------------------


HELP = """\
Usage: serve [options] source [target] [rest ...]

Options:
  -q, --quiet      Say nothing.
      --no-save    Do not write the file.
      --bare
  -d, --rundir=    [default: .]
  -p, --port=      Listen on this port. Must be an int between 0 and
                   65535. [default: 8080]
  -l, --log-file=  Log there.
      --ratio=     How much. [default: 0.5]
  -v, --verbose    Say more; may be given several times.
  -D, --define=    Set a value, as name=value.
      --help       Display this help and exit.
      --version    Display the version and exit.

It serves."""


@pytest.fixture
def program(monkeypatch):
    """The name of the program, and the width of its terminal."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/serve"])
    monkeypatch.setenv("COLUMNS", "70")


def test_help_prints_the_whole_and_exits_with_success(program, capsys, monkeypatch):
    """`--help` prints str(self), in the width of $COLUMNS, and exits 0."""
    monkeypatch.setattr(Server, "longdesc", "It serves.")
    for line in ("--help", "-q --help --unknown"):
        with pytest.raises(SystemExit) as caught:
            parse(line)
        assert caught.value.code == 0
        assert capsys.readouterr().out == HELP + "\n"
    assert str(Server()) == HELP


LONG = "word " * 40 + "\n\nAn example:\n\n    serve --port 80 " + "more " * 30


@pytest.mark.parametrize("columns", [20, 33, 47, 80, 200])
def test_help_fits_the_columns(columns, monkeypatch, program):
    """No line is longer than $COLUMNS."""
    wide = type(
        "Wide",
        (Main,),
        {
            "optParameters": [["an-option-with-a-long-name", "x", "value", LONG]],
            "longdesc": LONG,
        },
    )
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = str(wide()).splitlines()
    assert max(map(len, lines)) <= columns
    assert wide().getUsage(columns) in str(wide())
    assert any("word word" in line for line in lines)
    assert any(line.startswith("    serve") for line in lines)


@pytest.mark.parametrize("columns", [None, "", "wide"])
def test_without_columns_a_pipe_is_eighty_wide(columns, monkeypatch):
    """$COLUMNS that says nothing, and no terminal: 80 columns."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    text = type("Wide", (usage.Options,), {"longdesc": LONG})().getUsage()
    assert 70 < max(map(len, text.splitlines())) <= 80


def test_short_is_free_for_the_users_options():
    """`-h` is not taken by help."""
    assert "Unknown option -h" in refusal("-h")
    host = type("H", (usage.Options,), {"optParameters": [["host", "h", ""]]})
    assert parse("-h x", host).host == "x"


def test_the_long_description_is_the_main_modules(program, monkeypatch):
    """Without `longdesc`, the docstring of `__main__` stands below the options."""
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", "What the program is for.")
    assert str(usage.Options()).endswith("\n\nWhat the program is for.")


def test_the_synopsis_can_be_given(program):
    """`synopsis` replaces the first line."""
    given = type("Given", (usage.Options,), {"synopsis": "Usage: serve it"})
    assert str(given()).startswith("Usage: serve it\n\nOptions:\n")


def test_the_help_of_commands(program, capsys):
    """Commands are listed with their texts; a command's help names its place."""
    text = str(Main())
    assert text.startswith("Usage: serve [options] <command>\n")
    assert "Commands:\n  load, l  Load a file.\n  dump     Write a file." in text
    with pytest.raises(SystemExit):
        parse("-q load --help", Main)
    out = capsys.readouterr().out
    assert out.startswith("Usage: serve load [options] name\n")
    assert "-f, --force" in out
    assert out.endswith("\n\nLoad a file.\n")


def test_the_synopsis_of_a_command_follows_its_name(program):
    """A command's `synopsis` stands after the names of program and command."""
    config = parse("load x", Main)
    config.subOptions.synopsis = "[--force] file"
    assert config.subOptions.getSynopsis() == "Usage: serve load [--force] file"


def test_version_is_displayed(program, capsys, monkeypatch):
    """`--version` prints the version and exits 0, also after a command."""
    monkeypatch.setattr(Main, "version", "1.2.3")
    for line in ("--version", "load --version"):
        with pytest.raises(SystemExit) as caught:
            parse(line, Main)
        assert caught.value.code == 0
        assert capsys.readouterr().out == "serve 1.2.3\n"


def test_the_version_is_the_main_modules(program, capsys, monkeypatch):
    """Without `version`, `__version__` of the main module; else it says so."""
    with pytest.raises(SystemExit):
        parse("--version", usage.Options)
    assert capsys.readouterr().out == "serve (no version stated)\n"
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__version__", "7", raising=False)
    with pytest.raises(SystemExit):
        parse("--version", usage.Options)
    assert capsys.readouterr().out == "serve 7\n"


def test_a_package_run_as_a_program_is_named_so(monkeypatch):
    """`python -m package` is what its user would type."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/package/__main__.py"])
    assert usage.Options().getSynopsis() == "Usage: python -m package [options]"


PROGRAM = '''
"""A program for a test."""
import sys
from threadable import usage

class Options(usage.Options):
    optParameters = [["port", "p", 80, "Listen there.", usage.portCoerce]]

config = Options()
try:
    config.parseOptions()
except usage.error as error:
    sys.exit(f"{sys.argv[0]}: {error}")
print(config.port)
'''


def test_a_whole_program(tmp_path, run_python):
    """The usual program: prints its value, its help, or an error and code 1."""
    assert run_python(PROGRAM, "-p", "81") == "81\n"
    assert "A program for a test." in run_python(PROGRAM, "--help")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), "--prot"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(p for p in sys.path if p)},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("Unknown option --prot. Did you mean --port?\n")

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import tomllib
import unicodedata
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from enterprise.tool.showcase import accounts, tables
from tests.postgres import GUARDED_PASSWORD

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, "-m", "enterprise.tool.main"]
PATIENCE_SECONDS = 30

SMALL = ("--characters=3000", "--lookups=500", "--transfers=100")
ENDLESS = ("--characters=3000", "--lookups=500", "--transfers=100000")

STEPS = [
    f"{work}, {way}"
    for work in ("load characters", "look-ups", "transfers")
    for way in ("plain loop", "pool")
]


@contextmanager
def started(*words, folder):
    """Start the tool, whose temporary files go below *folder*; end it at the end."""
    with subprocess.Popen(
        [*PROGRAM, *words],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder), "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # Nothing happens if it has ended, as it should.


def run(*words, folder):
    """Run the tool to its end; return its exit status, output and error lines."""
    with started(*words, folder=folder) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err.splitlines()


def complaint_of(*words, folder):
    """Return the one line of a run that must fail."""
    status, out, lines = run(*words, folder=folder)
    assert (status, out, len(lines)) == (1, "", 1), lines
    assert lines[0].startswith("enterprise: ")
    return lines[0].removeprefix("enterprise: ")


@pytest.fixture
def scratch(tmp_path):
    """A folder for temporary files, which must be empty again at the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def inhabited(database):
    """A database in which somebody else has a table."""
    database.rows("create table resident (id integer primary key, name varchar(9))")
    database.rows("insert into resident values (1, 'Ada')")
    return database


def table_names(database):
    """Return the names of all tables."""
    if database.kind == "sqlite":
        query = "select name from sqlite_master where type = 'table'"
    else:
        query = "select tablename from pg_tables where schemaname = 'public'"
    return {name for (name,) in database.rows(query)}


def assert_untouched(database):
    """See that nothing is there but the resident."""
    assert table_names(database) == {"resident"}
    assert database.rows("select * from resident") == [(1, "Ada")]


# -- what it shows -----------------------------------------------------------------


def test_demo_needs_nothing(scratch):
    """Without options the demo works in a temporary file, which goes with it."""
    status, out, lines = run("demo", *SMALL, folder=scratch)
    assert status == 0, lines
    rows = [re.split(r"\s{2,}", line) for line in out.splitlines()[:5]]
    assert rows[0][:4] == ["step", "rows/calls", "seconds", "per second"]
    assert [row[:2] for row in rows[2:]] == [
        ["load characters", "3,000"],
        ["look-ups", "500"],
        ["transfers", "100"],
    ]
    assert all(len(row) == 7 and float(row[-1]) > 0 for row in rows[2:])
    assert "5 transfers asked\nfor more" in out
    assert re.search(r"longer than 0\.\d+ s\.$", out)
    assert [line.partition(":")[0] for line in lines] == STEPS


def test_demo_works_beside_others(inhabited, scratch):
    """Any database will do; in the end it is as it was, but for the time that passed.

    SQLite's file also keeps its journal mode, without a warning about it.
    """
    status, out, lines = run("demo", "--url", inhabited.url, *SMALL, folder=scratch)
    assert status == 0, lines
    assert out.splitlines()[4].startswith("transfers")
    assert [line.partition(":")[0] for line in lines] == STEPS
    assert_untouched(inhabited)
    if inhabited.kind == "sqlite":
        assert inhabited.rows("pragma journal_mode") == [("delete",)]
        assert list(inhabited.path.parent.glob("test.db*")) == [inhabited.path]


def test_demo_leaves_no_file_where_there_was_none(tmp_path, scratch):
    """The file of a SQLite URL comes with the demo, and goes with it."""
    path = tmp_path / "new.db"
    status, _, lines = run("demo", f"--url=sqlite:///{path}", *SMALL, folder=scratch)
    assert (status, len(lines)) == (0, len(STEPS)), lines
    assert not list(tmp_path.glob("new.db*"))


def test_demo_works_in_memory(scratch):
    """A database without a file is one, too."""
    status, _, lines = run("demo", "--url=sqlite://", *SMALL, folder=scratch)
    assert status == 0, lines


def test_kept_file_holds_all(tmp_path, scratch):
    """With --keep the file stays: every character by name, and all the money."""
    path = tmp_path / "a kept?file#.db"
    words = ("demo", "--keep", str(path), "--lookups=10", "--transfers=40")
    status, _, lines = run(*words, folder=scratch)
    assert status == 0, lines
    assert [entry for entry in tmp_path.iterdir() if entry != scratch] == [path]
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"select * from {tables.CHARACTER}").fetchall()
        assert connection.execute("pragma journal_mode").fetchone() == ("delete",)
        [money] = connection.execute(f"select sum(balance) from {tables.ACCOUNT}")
    assert len(rows) > 130_000
    for code_point, name, category in rows:
        assert unicodedata.name(chr(code_point)) == name
        assert unicodedata.category(chr(code_point)) == category
    assert money == (accounts.ACCOUNTS * accounts.MOST * 40,)


# -- bars and lines ----------------------------------------------------------------


def on_a_terminal(*program, folder):
    """Run the tool with a terminal for its errors; return what that shows."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*program, "demo", *SMALL],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder), "COLUMNS": "120", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=slave,
    ) as process:
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:
            pass  # Linux's way to say that nobody is at the other end.
        os.close(master)
    assert process.returncode == 0, shown
    return shown.decode()


def test_bar_on_a_terminal(scratch):
    """A terminal shows a bar for each step."""
    shown = on_a_terminal(*PROGRAM, folder=scratch)
    assert "━" in shown
    assert "3000/3000" in shown
    assert all(step in shown for step in STEPS)


def test_lines_without_rich(scratch):
    """Without rich a terminal shows a line for each step."""
    code = (
        "import sys; sys.modules['rich'] = None\n"
        "from enterprise.tool.main import main; sys.exit(main())"
    )
    shown = on_a_terminal(sys.executable, "-c", code, folder=scratch)
    assert [line.partition(":")[0] for line in shown.splitlines()] == STEPS


# -- the command line --------------------------------------------------------------


def test_version(scratch):
    """--version says the distribution's version, with and without a command."""
    try:
        version = metadata.version("threadbridge")
    except metadata.PackageNotFoundError:
        pytest.fail("threadbridge is not installed here: pip install -e '.[test]'")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version == project["version"]
    for words in (["--version"], ["demo", "--version"]):
        status, out, lines = run(*words, folder=scratch)
        assert (status, out.split()[-1], lines) == (0, version, [])


def test_help_names_every_command_and_option(scratch):
    """--help tells what there is: commands, and the options of one."""
    status, out, lines = run("--help", folder=scratch)
    assert (status, lines) == (0, [])
    assert re.search(r"^  demo +Show the pool at work", out, re.MULTILINE)
    status, out, lines = run("demo", "--help", folder=scratch)
    assert (status, lines) == (0, [])
    for option in ("url", "keep", "characters", "lookups", "transfers"):
        assert f"--{option}=" in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["dmeo"], "Unknown command: dmeo. Did you mean demo?"),
        ([], "No command was given"),
        (["demo", "--lookup=1"], "Unknown option --lookup. Did you mean --lookups?"),
        (["demo", "--lookups", "many"], "--lookups does not take 'many'"),
        (["demo", "--transfers=0"], "too few: 0. A whole number from 1 on."),
        (["demo", "here.db"], "Wrong number of arguments: 1 given (here.db)"),
        (["demo", "--url=sqlite://", "--keep=x.db"], "Leave out --keep"),
        (["demo", "--url=nosql://host/x"], "No driver is known for 'nosql' URLs"),
        (["demo", "--url=shop"], "shop"),
        (["demo", "--keep=no/such/folder/x.db"], "No such file or directory"),
        (["demo", "--url=sqlite:///no/such/x.db"], "No such file or directory"),
    ],
)
def test_mistake_is_told_in_a_line(words, text, scratch):
    """What is wrong on the command line is one line on stderr, and exit status 1."""
    assert text in complaint_of(*words, folder=scratch)


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--url=postgresql://ada:Sw0rd%40fish@127.0.0.1:1/x"],
        ["demo", "--url=postgresql://127.0.0.1:1/x?user=ada&password=Sw0rdfish"],
        ["demo", "--url=postgresql://ada:Sw0rd@fish@127.0.0.1:port/x"],
        ["demo", "--url=postgresql+asyncpg://ada:Sw0rd@fish@127.0.0.1/x"],
        ["demo", "postgresql://ada:Sw0rd@fish@127.0.0.1/x"],
        ["postgresql://ada:Sw0rd@fish@127.0.0.1/x"],
    ],
)
def test_password_is_never_shown(words, scratch):
    """Wherever a URL ends up, its password does not."""
    line = complaint_of(*words, folder=scratch)
    assert "Sw0rd" not in line
    assert "fish" not in line


def test_wrong_password(postgres, scratch):
    """The server's refusal is the reason; the password is not in it."""
    url = f"postgresql://guarded:wr0ng@127.0.0.1:{postgres.port}/postgres"
    line = complaint_of("demo", f"--url={url}", folder=scratch)
    assert "password authentication failed" in line
    assert "wr0ng" not in line
    assert GUARDED_PASSWORD not in line


# -- what is in the way, and what comes in between -----------------------------------


def test_file_in_the_way(tmp_path, scratch):
    """--keep makes a new file or none: an old one stays as it is."""
    path = tmp_path / "old.db"
    path.write_text("precious")
    line = complaint_of("demo", f"--keep={path}", folder=scratch)
    assert f"{path} exists already" in line
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", [tables.CHARACTER, tables.ACCOUNT])
def test_table_in_the_way(name, inhabited, scratch):
    """A table that has the demo's name is not the demo's: nothing happens to it."""
    inhabited.rows(f"create table {name} (dear varchar(9))")
    inhabited.rows(f"insert into {name} values ('precious')")
    line = complaint_of("demo", f"--url={inhabited.url}", *SMALL, folder=scratch)
    assert f"The table {name} cannot be created" in line
    assert "exists" in line
    assert table_names(inhabited) == {"resident", name}
    assert inhabited.rows(f"select * from {name}") == [("precious",)]


def wait_for(step, process):
    """Let the demo work until it has done *step*."""
    for line in process.stderr:
        if line.startswith(step):
            return
    pytest.fail(f"The demo ended before it had done {step!r}.")


def ending_of(process):
    """Return the exit status and the reason, which must be all that it still says."""
    out, rest = process.communicate(timeout=PATIENCE_SECONDS)
    assert out == ""
    lines = [line for line in rest.splitlines() if not line.startswith(tuple(STEPS))]
    assert len(lines) == 1, rest
    return process.returncode, lines[0]


def interrupted_after(step, how, *words, folder):
    """Interrupt the demo once *step* is done; return exit status and reason."""
    with started("demo", *words, *ENDLESS, folder=folder) as process:
        wait_for(step, process)
        process.send_signal(how)
        return ending_of(process)


INTERRUPTED = (130, "enterprise: Interrupted.")
TERMINATED = (143, "enterprise: Terminated.")


@pytest.mark.parametrize(
    ("step", "how", "ending"),
    [(step, signal.SIGINT, INTERRUPTED) for step in STEPS[:4]]
    + [(STEPS[3], signal.SIGTERM, TERMINATED)],
)
def test_interrupt_leaves_nothing_behind(step, how, ending, inhabited, scratch):
    """Ctrl-C and SIGTERM stop the demo at any time, and its tables go."""
    words = ("--url", inhabited.url)
    assert interrupted_after(step, how, *words, folder=scratch) == ending
    assert_untouched(inhabited)


def test_interrupt_removes_the_file(tmp_path, scratch):
    """A file that was to be kept does not stay half done."""
    path = tmp_path / "kept.db"
    words = (STEPS[1], signal.SIGINT, "--keep", str(path))
    assert interrupted_after(*words, folder=scratch) == INTERRUPTED
    assert not list(tmp_path.glob("kept.db*"))


def test_lost_connections_are_a_reason(postgres, pg_name, pg_url, scratch):
    """Where the server ends all connections, the demo says so and cleans up."""
    with started("demo", "--url", pg_url, *ENDLESS, folder=scratch) as process:
        wait_for(STEPS[3], process)
        at_work = f"where datname = '{pg_name}' and pid <> pg_backend_pid()"
        updating = f"{at_work} and query like 'update {tables.ACCOUNT}%'"
        while not postgres.psql(f"select pid from pg_stat_activity {updating}"):
            pass
        postgres.psql(
            f"select pg_terminate_backend(pid) from pg_stat_activity {at_work}"
        )
        status, reason = ending_of(process)
    assert status == 1
    assert re.search("terminating connection|closed the connection", reason)
    remaining = "select count(*) from pg_tables where schemaname = 'public'"
    assert postgres.psql(remaining, pg_name).strip() == "0"

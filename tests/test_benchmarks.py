"""The benchmarks say what they measure, and nothing that they have not measured."""

from __future__ import annotations

import importlib
import inspect
import socket
import threading
from time import perf_counter

import pytest

from benchmarks import far, kept
from benchmarks.groups import GROUND_FLOOR, GROUPS, OURS, Case, Cost, Group, Race
from benchmarks.load import Load
from benchmarks.report import lines, verdict
from benchmarks.schedule import FAILED, Effort, Samples, run_child

MEASURED = [group for group in GROUPS if group is not GROUND_FLOOR]

RACE = Group(
    "noop",
    "A title",
    races=(Race(64, {"to_thread": 2, "anyio": None}, wished={"to_thread": 3}),),
    costs=(Cost("resident", "KB", at_most=1),),
)


def results(ours, theirs, kilobytes):
    """Make what the rounds gave, for RACE."""
    return {
        Case(OURS, 64): ours,
        Case("to_thread", 64): Samples(theirs),
        Case("anyio", 64): Samples(theirs),
        Case("resident"): Samples([kilobytes]),
    }


def load(rows=0):
    return Load(seconds=2.0, in_flight=1, target="", correct=None, rows=rows)


@pytest.mark.parametrize("group", MEASURED, ids=lambda group: group.name)
def test_every_contender_exists(group):
    """Each name in the list is a function of the group's module, which has a stage."""
    module = importlib.import_module(f"benchmarks.contenders.{group.name}")
    names = {"stage", *(case.contender for case in group.cases())}
    assert [name for name in names if not callable(getattr(module, name, None))] == []


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_every_group_says_what_it_means(group):
    """The page explains each group in words of its own module."""
    assert len(kept.meaning(group).splitlines()) >= 1


def test_wishes_are_beyond_what_is_required():
    """A wish is about a contender that something is required of, and asks for more."""
    for race in (race for group in GROUPS for race in group.races):
        for contender, wished in race.wished.items():
            assert wished > race.others[contender]


def test_the_page_shows_what_is_kept():
    """Docs and results agree: writing the page anew changes nothing."""
    text = kept.PAGE.read_text("utf-8")
    assert kept.page(text) == text


def test_a_ratio_is_that_of_the_rounds():
    """Ours divided by theirs, round by round, and the median of that is judged."""
    rows = list(lines(RACE, results(Samples([30.0, 2.0, 5.0]), [10.0, 1.0, 2.0], 0.9)))
    assert [row.ratio for row in rows] == [None, 2.5, 2.5, None]
    assert [row.verdict for row in rows] == ["", "ok", "", "ok"]
    assert rows[1].cells()[-2] == "≥ 2 (3)"
    assert verdict({"noop": rows}) == "2 of 2 required figures are reached."


def test_what_falls_short_is_told():
    """Each figure that is not as required is named at the end, with its value."""
    rows = list(lines(RACE, results(Samples([15.0]), [10.0], 2.0)))
    assert verdict({"noop": rows}).splitlines() == [
        "0 of 2 required figures are reached.",
        "",
        "- noop beside to_thread, 64 in flight: 1.50, not ≥ 2",
        "- noop resident: 2 KB, not ≤ 1 KB",
    ]


def test_a_feature_that_is_missing_fails_loudly(capfd):
    """A contender that breaks is failed, with its traceback, and has no figure."""
    samples = Samples()
    effort = Effort(seconds=0.01)
    run_child(MEASURED[0], Case("no_such_thing"), effort, "", samples)
    assert samples == Samples(absent=FAILED)
    assert "AttributeError" in capfd.readouterr().err


def test_ours_without_a_figure_is_not_passed_over():
    """Where we failed, every figure that is required is reported as lacking."""
    rows = list(lines(RACE, results(Samples(absent=FAILED), [10.0], 0.5)))
    assert any(row.failed for row in rows)
    assert verdict({"noop": rows}).splitlines() == [
        "1 of 2 required figures are reached.",
        "",
        "- noop threadbridge, 64 in flight: no figure (failed)",
        "- noop beside to_thread, 64 in flight: no figure",
    ]


def test_inserts_that_are_not_there_do_not_count():
    """A rate of inserts is refused if the table has fewer rows than it says."""
    assert load().inserted(rows=20, rate=10.0) == 10.0
    with pytest.raises(ValueError, match="19 rows are there, not 20"):
        load().inserted(rows=19, rate=10.0)


def test_counted_work_is_done_to_its_end():
    """Counted work that gave another number of rows has no speed."""
    assert load(rows=5).finished(5, perf_counter() - 1.0) == pytest.approx(5.0, abs=0.5)
    with pytest.raises(ValueError, match="4 rows, not 5"):
        load(rows=5).finished(4, 0.0)


def test_a_command_gives_the_same_again():
    """The command that is kept says what was not as usual."""
    assert kept.command(RACE, Effort()) == "python -m benchmarks noop"
    command = kept.command(RACE, Effort(seconds=2.0, rounds=3))
    assert command == "python -m benchmarks noop --seconds 2 --rounds 3"


def test_contenders_of_missing_peers_can_be_listed():
    """No module of contenders needs a peer before its contender runs."""
    for group in MEASURED:
        module = importlib.import_module(f"benchmarks.contenders.{group.name}")
        inside = {
            name for name, value in vars(module).items() if inspect.ismodule(value)
        }
        assert inside.isdisjoint({"aiosqlite", "anyio", "asyncpg", "twisted"})


def echo(listener):
    """Serve one connection until it ends."""
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(65_536):
            connection.sendall(data)


def test_far_is_a_millisecond_each_way_and_keeps_the_order():
    """Everything arrives, in order and not before its time, and so does the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=echo, args=(listener,))
        server.start()
        with far.proxy(listener.getsockname()[1]) as port:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                fastest = 1.0
                for number in range(20):
                    start = perf_counter()
                    client.sendall(b"%d" % number)
                    assert client.recv(100) == b"%d" % number
                    fastest = min(fastest, perf_counter() - start)
                sent = bytes(range(256)) * 64
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                received = b""
                while data := client.recv(65_536):
                    received += data
            assert received == sent
            assert fastest >= 2 * far.DELAY_SECONDS
        server.join(10)
        assert not server.is_alive()


def test_turns_are_as_many_as_the_kind_of_work_needs():
    """Counted work takes 3 rounds at the most; a quick look at costs takes one."""
    alone = Group("memory", "A title", costs=RACE.costs)
    counted = Group("stream", "A title", rows=100, races=RACE.races)
    assert [Effort().turns(group) for group in (RACE, alone, counted)] == [5, 5, 3]
    quick = Effort(rounds=2, part=0.05, once=True)
    assert [quick.turns(group) for group in (RACE, alone, counted)] == [2, 1, 2]
    assert quick.rows(counted) == 5

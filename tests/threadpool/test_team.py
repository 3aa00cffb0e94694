"""The team's rules, one step after the other."""

from __future__ import annotations

import math

import pytest

from tests.threadpool.stepping import LONG, SHORT
from threadpool.error import LoopClosed, PoolClosed, PoolFull
from threadpool.events import PendingEvents
from threadpool.job import Job
from threadpool.roster import STARVING_SECONDS
from threadpool.team import Team
from threadpool.testing import MemoryWorker


def test_nobody_is_hired_before_there_is_work(stage):
    """A team without a minimum starts with no worker at all."""
    crew = stage(maximum=3)
    assert crew.workers == []
    assert repr(crew.team) == "<Team MemoryCrew open, 0 busy, 0 idle, 0 waiting>"


def test_first_job_hires(stage):
    """The first job hires a worker, which runs it and then parks."""
    crew = stage(maximum=3)
    crew.submit("a")
    assert crew.doing() == ["hired"]
    crew.run()
    assert crew.diary == ["a"]
    assert crew.doing() == ["parked"]


def test_minimum_is_there_without_work(stage):
    """Opening the team hires its minimum, and no more."""
    crew = stage(minimum=2, maximum=5)
    assert crew.doing() == ["hired", "hired"]
    crew.run()
    assert crew.doing() == ["parked", "parked"]
    assert [worker.patience for worker in crew.workers] == [math.inf, math.inf]


def test_jobs_run_in_order(stage):
    """A single worker runs the jobs in the order in which they were submitted."""
    crew = stage(maximum=1)
    crew.submit("a", "b", "c")
    crew.run()
    assert crew.diary == ["a", "b", "c"]


def test_last_to_park_is_woken_first(stage):
    """Idle workers are woken last in, first out: the others may retire."""
    crew = stage(minimum=3, maximum=3)
    first, second, third = crew.workers
    for worker in (first, third, second):
        worker.step()
    crew.submit("a")
    assert second.wakes == 1
    crew.run()
    crew.submit("b")
    assert second.wakes == 1
    assert first.wakes == third.wakes == 0


def test_one_wakes_at_a_time(stage):
    """While one worker is on its way, more jobs wake nobody else."""
    crew = stage(minimum=3, maximum=3)
    crew.run()
    crew.submit("a", "b", "c")
    assert [worker.wakes for worker in crew.workers] == [0, 0, 1]


def test_one_is_hired_at_a_time(stage):
    """While one worker's thread starts, more jobs hire nobody else."""
    crew = stage(maximum=3)
    crew.submit("a", "b", "c")
    assert crew.doing() == ["hired"]


def test_who_comes_calls_the_next(stage):
    """A worker that came and finds more than it can take calls the next one."""
    crew = stage(maximum=3)
    crew.submit("a", "b", "c")
    crew.workers[0].step()
    assert crew.doing() == ["running", "hired"]
    crew.workers[1].step()
    assert crew.doing() == ["running", "running", "hired"]


def test_growth_ends_at_the_maximum(stage):
    """There are never more workers than the maximum, however many jobs wait."""
    crew = stage(maximum=2)
    crew.submit(*"abcdefgh")
    crew.run()
    assert crew.team.stats().most_workers == 2
    assert sorted(crew.diary) == list("abcdefgh")


def test_short_jobs_keep_one_worker(stage):
    """Jobs that are over sooner than a worker wakes do not wake a second one."""
    crew = stage(maximum=8)
    crew.submit("first", seconds=SHORT)
    crew.run()
    crew.submit(*"abcdefgh", seconds=SHORT)
    crew.run()
    assert len(crew.workers) == 1
    assert len(crew.diary) == 9


def test_long_jobs_spread(stage):
    """Jobs that would keep the others waiting are spread over all workers."""
    crew = stage(maximum=8)
    crew.submit(*"abcdefgh")
    while "hired" in crew.doing():
        next(w for w in crew.workers if w.doing == "hired").step()
    assert crew.doing() == ["running"] * 8


def test_ticker_helps_behind_a_long_job(stage):
    """A job that counted on a worker which then went into a long job gets another.

    The first jobs were short, so nobody was woken for the next. But its worker has
    begun something long: the ticker notices that nobody pulls any more.
    """
    crew = stage(maximum=2)
    crew.submit("short", seconds=SHORT)
    crew.run()
    crew.submit("long", "behind", seconds=SHORT)
    worker = crew.workers[0]
    worker.step()
    assert worker.doing == "running"
    assert crew.ticker.watched
    assert len(crew.workers) == 1
    crew.clock.advance(0.001)  # Still inside "long".
    crew.ticker.tick()
    assert crew.doing() == ["running", "hired"]
    crew.workers[1].step()
    crew.workers[1].step()
    assert crew.diary == ["short", "behind"]


def test_ticker_forgets_a_team_without_waiting_jobs(stage):
    """Nothing waits, so the team does not keep the ticker awake."""
    crew = stage(maximum=2)
    crew.submit("a", seconds=SHORT)
    crew.run()
    crew.submit("b", "c", seconds=SHORT)
    crew.run()
    crew.ticker.tick()
    assert not crew.ticker.watched


def test_idle_worker_above_the_minimum_retires(stage):
    """A worker above the minimum waits for `idle_seconds`, then leaves."""
    crew = stage(minimum=1, maximum=2, idle_seconds=7.0)
    crew.run()
    crew.submit("a", "b")
    crew.run()
    assert len(crew.workers) == 2
    last = max(crew.workers, key=lambda worker: worker.patience != math.inf)
    assert last.patience == 7.0
    last.timeOut()
    assert len(crew.workers) == 1
    assert crew.team.stats().workers == 1


def test_minimum_stays(stage):
    """A worker whose patience ends stays when the team is down to its minimum."""
    crew = stage(minimum=0, maximum=2, idle_seconds=7.0)
    crew.submit("a", "b")
    crew.run()
    crew.team.resize(1, 2)
    crew.run()
    first, second = crew.workers
    first.timeOut()
    assert crew.workers == [second]
    crew.run()
    second.timeOut()
    assert second.doing == "parked"
    assert second.patience == math.inf


def test_race_between_idle_exit_and_job_assignment(stage):
    """A job given to a worker whose patience ended at that moment is run by it.

    1. The worker is parked and its patience ends.
    2. Before it can say so, a job comes: the team takes it off the idle list, and
       wakes it.
    3. Its `park` says False (the bell rang too late), and it must not leave.
    """
    crew = stage(maximum=1, idle_seconds=1.0)
    crew.submit("a")
    crew.run()
    worker = crew.workers[0]
    crew.submit("b")
    assert worker.wakes == 1
    worker.timeOut()  # The lie: woken, and yet out of patience.
    assert worker.doing == "parked"
    assert worker.patience == math.inf
    crew.run()
    assert crew.diary == ["a", "b"]
    assert crew.team.stats().workers == 1
    crew.submit("c")
    crew.run()
    assert crew.diary == ["a", "b", "c"]


def test_job_that_comes_while_the_only_worker_leaves(stage):
    """A job that finds the last worker on its way out is run by a new one."""
    crew = stage(maximum=1, idle_seconds=1.0)
    crew.submit("a")
    crew.run()
    worker = crew.workers[0]

    real_gone = crew.team.gone

    def gone_late(leaver):
        crew.submit("b")  # It has left the idle list and is not gone yet.
        real_gone(leaver)

    crew.team.gone = gone_late
    worker.timeOut()
    del crew.team.gone
    assert crew.doing() == ["hired"]
    crew.run()
    assert crew.diary == ["a", "b"]


@pytest.mark.parametrize(("maximum", "backlog"), [(1, 0), (2, 0), (1, 3), (3, 2)])
def test_full_exactly_at_the_bound(stage, maximum, backlog):
    """PoolFull if and only if unfinished jobs >= maximum + backlog, with figures."""
    limit = maximum + backlog
    crew = stage(maximum=maximum, backlog=backlog)
    crew.submit(*range(limit))
    with pytest.raises(PoolFull) as caught:
        crew.submit("too much")
    assert (caught.value.unfinished, caught.value.limit) == (limit, limit)
    for figure in (f"{limit} unfinished", f"{maximum} workers", f"of {backlog}"):
        assert figure in str(caught.value)
    assert crew.team.stats().refused == 1
    while not crew.diary:  # Begun is not finished: still full until the first ends.
        with pytest.raises(PoolFull):
            crew.submit("too much")
        crew.movable()[0].step()
    crew.submit("fits")
    crew.run()
    assert len(crew.diary) == limit + 1


def test_removed_job_makes_room(stage):
    """A job taken back counts no longer, and is never run."""
    crew = stage(maximum=1, backlog=1)
    first, second = crew.job("a"), crew.job("b")
    crew.team.submit(first)
    crew.team.submit(second)
    assert crew.team.remove(first)
    crew.submit("c")
    crew.run()
    assert crew.diary == ["b", "c"]
    stats = crew.team.stats()
    assert (stats.removed, stats.finished, stats.submitted) == (1, 2, 3)


def test_running_job_cannot_be_removed(stage):
    """What a worker has, or had, is not taken back."""
    crew = stage(maximum=1)
    job = crew.submit("a")
    crew.workers[0].step()
    assert not crew.team.remove(job)
    crew.run()
    assert not crew.team.remove(job)
    assert crew.diary == ["a"]


def test_removing_twice(stage):
    """The second removal of a job says False and counts nothing."""
    crew = stage(maximum=1)
    crew.submit("a")
    job = crew.submit("b")
    assert crew.team.remove(job)
    assert not crew.team.remove(job)
    assert crew.team.stats().removed == 1


def test_removed_jobs_do_not_pile_up(stage):
    """Ten thousand removed jobs behind a busy worker leave nothing in the queue."""
    crew = stage(maximum=1)
    crew.submit("busy")
    crew.workers[0].step()
    for number in range(10_000):
        assert crew.team.remove(crew.submit(number))
    assert len(crew.team._queue) < 100
    stats = crew.team.stats()
    assert (stats.waiting, stats.unfinished, stats.removed) == (0, 1, 10_000)
    crew.submit("last")
    crew.run()
    assert crew.diary == ["busy", "last"]


def test_withdraw_takes_back_what_is_wanted(stage):
    """`withdraw` takes back the waiting jobs that the caller names, in order."""
    crew = stage(maximum=1)
    jobs = [crew.submit(name) for name in "abcd"]
    crew.workers[0].step()
    mine = {jobs[0], jobs[1], jobs[3]}
    assert crew.team.withdraw(mine.__contains__) == [jobs[1], jobs[3]]
    crew.run()
    assert crew.diary == ["a", "c"]


def test_growing_the_bounds_hires_at_once(stage):
    """A larger maximum is used at once by the jobs that wait."""
    crew = stage(maximum=1)
    crew.submit("a", "b")
    crew.workers[0].step()
    assert crew.doing() == ["running"]
    crew.team.resize(0, 2)
    assert crew.doing() == ["running", "hired"]


def test_larger_minimum_hires_at_once(stage):
    """A larger minimum is hired at once."""
    crew = stage(maximum=3)
    crew.team.resize(2, 3)
    assert crew.doing() == ["hired", "hired"]


def test_larger_maximum_allows_more_jobs(stage):
    """The bound on unfinished jobs follows the maximum."""
    crew = stage(maximum=1, backlog=0)
    crew.submit("a")
    crew.team.resize(0, 2)
    crew.submit("b")
    with pytest.raises(PoolFull) as caught:
        crew.submit("c")
    assert caught.value.limit == 2


def test_smaller_maximum_lets_idle_workers_go(stage):
    """Idle workers above a new maximum leave at once."""
    crew = stage(minimum=3, maximum=3)
    crew.run()
    crew.team.resize(0, 1)
    crew.run()
    for worker in crew.workers:
        if worker.patience == 0.0:
            worker.timeOut()
    crew.run()
    assert len(crew.workers) == 1


def test_smaller_maximum_does_not_disturb_a_running_job(stage):
    """A busy worker above a new maximum finishes its job, then leaves."""
    crew = stage(maximum=2)
    crew.submit("a", "b")
    crew.workers[0].step()
    crew.workers[1].step()
    crew.team.resize(0, 1)
    crew.run()
    assert sorted(crew.diary) == ["a", "b"]
    impatient = [worker for worker in crew.workers if worker.patience == 0.0]
    for worker in impatient[:1]:
        worker.timeOut()
    assert len(crew.workers) == 1


def test_close_drains(stage):
    """A closed team runs what it has, refuses more, and tells when all are gone."""
    crew = stage(maximum=1)
    told = []
    crew.submit("a", "b")
    crew.workers[0].step()
    crew.team.close(lambda: told.append(list(crew.diary)))
    with pytest.raises(PoolClosed, match="closed"):
        crew.submit("c")
    assert told == []
    crew.run()
    assert crew.workers[0].patience == 0.0
    crew.workers[0].timeOut()
    assert told == [["a", "b"]]
    assert crew.team.stats().workers == 0


def test_close_sends_everybody_home(stage):
    """Closing wakes all idle workers, the minimum included, and each leaves."""
    crew = stage(minimum=3, maximum=3)
    crew.run()
    told = []
    crew.team.close(lambda: told.append("gone"))
    crew.run()
    while crew.workers:
        crew.workers[0].timeOut()
    assert told == ["gone"]


def test_close_of_an_empty_team_tells_at_once(stage):
    """Where nobody works, closing is over at once."""
    crew = stage(maximum=3)
    told = []
    crew.team.close(lambda: told.append("gone"))
    assert told == ["gone"]


def test_closing_twice_tells_both(stage):
    """Whoever closes hears of the end, also when somebody else closed before."""
    crew = stage(maximum=1)
    crew.submit("a")
    told = []
    crew.team.close(lambda: told.append(1))
    crew.team.close(lambda: told.append(2))
    crew.run()
    crew.workers[0].timeOut()
    assert told == [1, 2]


def test_closed_while_a_thread_starts(stage):
    """A worker whose thread starts while the team closes still drains the queue."""
    crew = stage(maximum=1)
    told = []
    crew.submit("a")
    crew.team.close(lambda: told.append(list(crew.diary)))
    crew.run()
    crew.workers[0].timeOut()
    assert told == [["a"]]


def test_jobs_wait_for_the_opening(stage):
    """A team that is not open yet queues; opening begins the work."""
    hired = []
    team = Team(
        "early",
        lambda: hired.append(1),
        minimum=0,
        maximum=1,
        backlog=None,
        idle_seconds=1.0,
    )
    team.submit(stage().job("a"))
    assert hired == []
    assert "not started" in repr(team)
    team.open()
    assert hired == [1]


def test_job_is_refused_when_no_thread_starts_at_all(stage):
    """Nobody can be hired and nobody is there: the job's submitter is told."""
    crew = stage(maximum=2)
    crew.refusal = RuntimeError("can't start new thread")
    with pytest.raises(RuntimeError, match="can't start"):
        crew.submit("a")
    stats = crew.team.stats()
    assert (stats.unfinished, stats.workers, stats.waiting) == (0, 0, 0)
    crew.refusal = None
    crew.submit("b")
    crew.run()
    assert crew.diary == ["b"]


def test_team_goes_on_with_the_threads_it_has(stage, caplog):
    """One more thread cannot be started: a warning, and the others do the work."""
    crew = stage(maximum=2)
    crew.submit("a")
    crew.workers[0].step()
    crew.clock.advance(LONG)
    crew.refusal = RuntimeError("can't start new thread")
    crew.submit("b")
    assert "could not start one more thread" in caplog.text
    assert crew.team.stats().workers == 1
    crew.run()
    assert crew.diary == ["a", "b"]


def test_minimum_that_cannot_be_hired_does_not_spin(stage, caplog):
    """Threads for the minimum cannot be started: opening ends all the same."""
    crew = stage(maximum=4)
    crew.submit("a")
    crew.run()
    attempts = []

    def refuse():
        attempts.append(1)
        if len(attempts) > 50:
            raise MemoryError("tried for ever")
        raise RuntimeError("can't start new thread")

    crew.team._hire = refuse
    crew.team.resize(3, 4)
    assert len(attempts) < 50


def test_job_is_not_lost_when_the_last_worker_cannot_be_replaced(stage):
    """The last worker leaves, a job has come, no thread starts: it runs later.

    The leaving worker's thread must end in peace, whoever cannot be hired; the next
    look of the ticker, or the next job, hires again.
    """
    crew = stage(maximum=1, idle_seconds=1.0)
    crew.submit("a")
    crew.run()
    real_gone = crew.team.gone

    def gone_late(leaver):
        crew.submit("b")
        crew.refusal = RuntimeError("can't start new thread")
        real_gone(leaver)

    crew.team.gone = gone_late
    crew.workers[0].timeOut()
    del crew.team.gone
    crew.refusal = None
    crew.clock.advance(0.1)
    crew.ticker.tick()
    crew.run()
    assert crew.diary == ["a", "b"]


def test_missing_threads_are_not_asked_for_all_the_time(stage, caplog):
    """Without a thread to be had, the team asks again later, and says so rarely."""
    crew = stage(maximum=3)
    crew.submit("a")
    crew.workers[0].step()
    crew.refusal = RuntimeError("can't start new thread")
    for number in range(200):
        crew.submit(str(number))
        crew.clock.advance(0.0005)
        crew.ticker.tick()
    assert caplog.text.count("could not start") == 1
    crew.refusal = None
    crew.clock.advance(0.1)
    crew.ticker.tick()
    assert crew.team.stats().workers == 2


def test_ctrl_c_while_hiring(stage):
    """Interrupted while a thread is being started, the team is as it was before."""
    crew = stage(maximum=1)
    crew.refusal = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        crew.submit("a")
    crew.refusal = None
    crew.submit("b")
    crew.clock.advance(0.1)
    crew.ticker.tick()
    crew.run()
    assert crew.diary == ["a", "b"]
    assert crew.team.stats().unfinished == 0


def test_worker_that_is_not_ready_prepares_before_the_next_job(stage):
    """A worker that lost what it works with gets it back before it takes a job."""
    crew = stage(maximum=1)
    crew.submit("a", "b")
    worker = crew.workers[0]
    worker.step()
    worker.ready = False
    worker.step()
    assert crew.diary == ["a"]
    assert worker.doing == "preparing"
    crew.run()
    assert crew.diary == ["a", "b"]


def test_worker_that_cannot_get_ready_is_replaced(stage):
    """A worker that resigns leaves its job to a new one."""
    crew = stage(maximum=1)
    crew.submit("a", "b")
    worker = crew.workers[0]
    worker.step()
    worker.ready, worker.resigns = False, True
    worker.step()
    assert crew.team.running() == []
    worker.step()
    assert worker.doing == "gone"
    crew.run()
    assert crew.diary == ["a", "b"]
    assert crew.team.stats().unfinished == 0


def test_idle_worker_does_not_wait_for_one_that_prepares(stage):
    """A job never waits for a worker that is getting ready while another is idle."""
    crew = stage(minimum=2, maximum=2)
    crew.run()
    crew.submit("a")
    busy = crew.movable()[0]
    busy.step()
    busy.ready = False
    busy.step()
    assert busy.doing == "preparing"
    crew.submit("b")
    crew.clock.advance(1.0)
    crew.ticker.tick()
    other = next(worker for worker in crew.workers if worker is not busy)
    assert other.wakes == 1


def test_job_left_behind_by_one_that_prepares_finds_an_idle_worker(stage):
    """A worker that has to get ready leaves the queue to those who are."""
    crew = stage(minimum=2, maximum=2)
    crew.run()
    crew.submit("short", seconds=SHORT)
    crew.run()
    crew.submit("a", "b", seconds=SHORT)
    busy = crew.movable()[0]
    busy.step()
    busy.ready = False
    busy.step()
    assert (busy.doing, crew.diary) == ("preparing", ["short", "a"])
    crew.clock.advance(1.0)
    crew.ticker.tick()
    other = next(worker for worker in crew.workers if worker is not busy)
    assert other.wakes == 1


def test_stats_add_up(stage):
    """The figures tell what was done, and how long it waited and ran."""
    crew = stage(maximum=1, backlog=9)
    crew.submit("a", "b")
    crew.clock.advance(1.0)
    crew.run()
    stats = crew.team.stats()
    assert stats.run_seconds == pytest.approx(2 * LONG)
    assert stats.wait_seconds == pytest.approx(2 * 1.0 + LONG)
    assert (stats.submitted, stats.finished, stats.unfinished) == (2, 2, 0)
    assert (stats.workers, stats.busy, stats.idle, stats.waiting) == (1, 0, 1, 0)
    assert (stats.most_workers, stats.most_unfinished) == (1, 2)


def test_team_starts_anew_after_a_fork(stage):
    """In a forked child the team has no workers, no jobs, and figures that add up."""
    crew = stage(maximum=2)
    crew.submit("a", "b")
    crew.movable()[0].step()
    crew.team.afterFork()
    stats = crew.team.stats()
    assert (stats.workers, stats.unfinished, stats.waiting, stats.busy) == (0, 0, 0, 0)
    assert stats.submitted == stats.finished + stats.removed
    hired = len(crew._hired)
    crew.submit("c")
    assert len(crew._hired) == hired + 1


# -- one comes at a time -------------------------------------------------------------


def test_one_wakes_at_a_time_while_another_is_hired(stage):
    """A hired worker that arrives does not count as the one that was woken.

    1. Two workers rest; the minimum is raised, and a third is hired.
    2. Two jobs come: the second worker is woken, and nobody else.
    3. The third arrives first, takes a job, and calls nobody: the woken one comes.
    """
    crew = stage(minimum=2, maximum=3)
    crew.run()
    first, second = crew.workers
    crew.team.resize(3, 3)
    crew.run_only(first, second)
    woken = crew.team._idle[-1]
    other = first if woken is second else second
    crew.submit("a", "b")
    assert (woken.wakes, other.wakes) == (1, 0)
    third = crew.workers[2]
    third.step()
    assert third.doing == "running"
    assert (woken.wakes, other.wakes) == (1, 0)
    woken.step()
    assert woken.doing == "running"
    assert other.wakes == 0


def test_one_is_hired_at_a_time_beside_the_minimum(stage):
    """Jobs that the minimum will take when it is here hire nobody else."""
    crew = stage(minimum=2, maximum=5)
    crew.submit("a", "b")
    assert crew.doing() == ["hired"] * 2
    crew.submit("c")
    assert crew.doing() == ["hired"] * 3
    crew.workers[0].step()
    crew.submit("d")
    assert crew.doing() == ["running", "hired", "hired"]


def test_failed_hire_does_not_count_as_an_arrival(stage):
    """A worker that was woken is still on its way when another cannot be hired."""
    crew = stage(minimum=2, maximum=3)
    crew.run()
    crew.submit("a")
    (woken,) = [worker for worker in crew.workers if worker.wakes]
    crew.refusal = RuntimeError("can't start new thread")
    with crew.team._lock:
        crew.team._enlist()
    crew.team._bring("hired")
    crew.submit("b")
    assert [w.wakes for w in crew.workers if w is not woken] == [0]


def test_worker_that_leaves_does_not_count_as_an_arrival(stage):
    """Nor when another one goes home meanwhile."""
    crew = stage(maximum=3, idle_seconds=1.0)
    crew.submit("a", "b", "c")
    for _ in range(3):
        crew.workers[-1].step()
    crew.run()
    crew.submit("d")
    (woken,) = [worker for worker in crew.workers if worker.wakes]
    leaver, other = [worker for worker in crew.workers if worker is not woken]
    leaver.timeOut()
    assert leaver not in crew.workers
    assert other.wakes == 0


# -- no outcome is lost at the end of a loop -----------------------------------------


class EndingWorker(MemoryWorker):
    """A worker that finds its job's loop at its end, at the worst moment."""

    def run(self, job):
        if job.args:
            job.args[0].close()
        return super().run(job)


def test_loop_that_ends_between_the_pull_and_the_run(stage):
    """A job that was pulled and not yet begun is told of the end of its loop."""
    crew = stage(maximum=1, make_worker=EndingWorker)
    home = PendingEvents(lambda _: None)
    job = Job(home, lambda _: "late", (home,), {}, crew.team)
    crew.team.submit(job)
    crew.run()
    with pytest.raises(LoopClosed):
        job.result()


def test_loop_that_ends_between_the_run_and_the_delivery(stage):
    """A job that was run and is not yet on its way home is told, too."""
    crew = stage(maximum=1)
    home = PendingEvents(lambda _: None)
    hold = home.hold

    def end_before(event, now, **how):
        home.close()
        hold(event, now, **how)

    home.hold = end_before
    job = Job(home, lambda: "late", (), {}, crew.team)
    crew.team.submit(job)
    crew.run()
    with pytest.raises(LoopClosed):
        job.result()


def test_loop_that_ends_after_the_delivery(stage):
    """A job that is on its way home has its own outcome, whenever its loop ends."""
    crew = stage(maximum=1)
    home = PendingEvents(lambda _: None)
    job = Job(home, lambda: "in time", (), {}, crew.team)
    crew.team.submit(job)
    crew.run()
    home.close()
    assert job.result() == "in time"


def test_worker_in_a_long_job_keeps_nothing_of_the_last_one(stage):
    """What was delivered is not kept alive by the worker's next job."""
    crew = stage(maximum=1)
    crew.submit("a", "b")
    (worker,) = crew.workers
    worker.step()
    worker.step()
    assert worker.doing == "running"
    assert worker.delivering is None
    crew.run()
    assert worker.job is None


def test_worker_that_breaks_leaves_no_unfinished_job(stage):
    """A worker that breaks in the middle of a job is gone, and so is the job."""
    crew = stage(maximum=1)
    crew.submit("a")
    (worker,) = crew.workers
    worker.step()

    def broken(*args):
        raise MemoryError

    crew.team._pull = broken
    with pytest.raises(MemoryError):
        worker.step()
    del crew.team._pull
    stats = crew.team.stats()
    assert (stats.unfinished, stats.busy, stats.workers) == (0, 0, 0)
    crew.submit("b")
    crew.run()
    assert crew.diary == ["a", "b"]


# -- growing, shrinking, opening again -----------------------------------------------


def test_grow_hires_one(stage):
    """`grow` hires one worker without any job, up to the maximum."""
    crew = stage(maximum=2)
    for count in (1, 2, 2):
        crew.team.grow()
        assert len(crew.workers) == count


def test_grow_does_nothing_where_nobody_may_work(stage):
    """Before the opening and after the end, `grow` hires nobody."""
    hired = []
    team = Team(
        "x",
        lambda: hired.append(1),
        minimum=0,
        maximum=1,
        backlog=None,
        idle_seconds=1.0,
    )
    team.grow()
    team.open()
    team.close(lambda: None)
    team.grow()
    assert hired == []


def test_shrink_sends_an_idle_worker_home(stage):
    """`shrink` lets one idle worker leave now, the one that rested longest."""
    crew = stage(minimum=3, maximum=3)
    crew.run()
    oldest = crew.team._idle[0]
    crew.team.shrink()
    crew.run()
    assert oldest.patience == 0.0
    oldest.timeOut()
    assert oldest not in crew.workers
    assert [worker.patience for worker in crew.workers] == [math.inf] * 2
    assert crew.team.stats().workers == 2


def test_shrink_lets_busy_workers_finish(stage):
    """Where nobody is idle, the next one that finds nothing to do leaves."""
    crew = stage(maximum=2)
    crew.submit("a", "b", "c")
    for worker in crew.workers[:]:
        worker.step()
    crew.workers[1].step()
    crew.team.shrink()
    crew.run()
    assert sorted(crew.diary) == ["a", "b", "c"]
    leaving = [worker for worker in crew.workers if worker.patience == 0.0]
    leaving[0].timeOut()
    assert crew.team.stats().workers == 1
    crew.submit("d")
    crew.run()
    assert [worker.patience for worker in crew.workers] == [60.0]
    assert crew.diary[-1] == "d"


def test_only_one_leaves_for_one_shrink(stage):
    """Of two that look at the same moment, one stays."""
    crew = stage(minimum=2, maximum=2)
    crew.submit("a")
    crew.run()
    crew.team.shrink()
    woken = next(worker for worker in crew.workers if worker.wakes)
    other = next(worker for worker in crew.workers if worker is not woken)
    crew.team.resize(2, 2)  # Wakes the other one, too.
    crew.run()
    assert woken.patience == other.patience == 0.0
    other.timeOut()
    woken.timeOut()
    assert crew.workers == [woken]
    assert woken.patience == math.inf


def test_worker_that_resigns_counts_for_a_shrink(stage):
    """A worker that leaves for another reason leaves in place of one more."""
    crew = stage(maximum=2)
    crew.submit("a", "b")
    for _ in range(2):
        crew.workers[-1].step()
    first, second = crew.workers
    crew.team.shrink()
    second.ready, second.resigns = False, True
    crew.run_only(second)
    crew.run()
    assert crew.workers == [first]
    assert first.patience == 60.0


def test_shrink_never_asks_for_more_than_there_are(stage):
    """Asked to shrink more often than it has workers, a team forgets the surplus."""
    crew = stage(minimum=1, maximum=1)
    crew.run()
    for _ in range(5):
        crew.team.shrink()
    crew.run()
    crew.workers[0].timeOut()
    crew.submit("a")
    crew.run()
    assert crew.diary == ["a"]
    assert crew.workers[0].patience == math.inf


def test_team_opens_again(stage):
    """Closed and empty, a team takes work again after `reopen`."""
    crew = stage(minimum=1, maximum=2, backlog=0)
    crew.run()
    crew.team.close(lambda: None)
    with pytest.raises(PoolClosed, match=r"still closing.*1 of its workers"):
        crew.team.reopen()
    crew.run()
    crew.workers[0].timeOut()
    crew.team.resize(2, 3)
    assert crew.workers == []
    crew.team.reopen()
    assert crew.workers == []
    crew.team.open()
    assert crew.doing() == ["hired"] * 2
    crew.submit(*"abc")
    with pytest.raises(PoolFull):
        crew.submit("d")
    crew.run()
    assert sorted(crew.diary) == list("abc")
    assert {worker.patience for worker in crew.workers} <= {math.inf, 60.0}


def test_opening_a_closed_team_changes_nothing(stage):
    """`open` alone brings nobody back: a team that was closed stays closed."""
    crew = stage(minimum=1, maximum=1)
    crew.run()
    crew.team.close(lambda: None)
    crew.run()
    crew.workers[0].timeOut()
    crew.team.open()
    assert crew.workers == []
    with pytest.raises(PoolClosed):
        crew.submit("a")


# -- starvation ----------------------------------------------------------------------


def starved(caplog):
    return [r.getMessage() for r in caplog.records if "starves" in r.getMessage()]


def wait_and_look(crew, seconds=STARVING_SECONDS):
    """Let so much time pass under the ticker's eyes."""
    for _ in range(4):
        crew.clock.advance(seconds / 4)
        crew.ticker.tick()


def test_team_that_starves_is_told_of(stage, caplog):
    """All workers of a full team wait for the loop and jobs wait: one WARNING.

    It names the team, the figures and the remedy, and comes after a second: a wait
    that the loop ends soon is no news.
    """
    crew = stage(maximum=2)
    crew.submit("a", "b")
    for worker in crew.workers[:]:
        worker.step()
    crew.workers[1].step()
    crew.team.blocked()
    crew.submit("c", "d", "e")
    wait_and_look(crew)
    assert starved(caplog) == []  # One of them may still come for the others.
    crew.team.blocked()
    wait_and_look(crew, STARVING_SECONDS * 0.99)
    assert starved(caplog) == []
    wait_and_look(crew)
    (text,) = starved(caplog)
    for part in ("MemoryCrew", "all its 2 workers", "3 job(s)", "more than 2 workers"):
        assert part in text
    assert "a pool of its own" in text
    wait_and_look(crew, 10.0)
    crew.submit("f")
    assert len(starved(caplog)) == 1
    assert not crew.ticker.watched  # There is nothing left to be said.


def test_each_episode_is_told_of(stage, caplog):
    """When a worker goes on the episode is over, and the next one is told again."""
    crew = stage(maximum=1)
    crew.submit("a", "b")
    crew.workers[0].step()
    for episode in (1, 2):
        crew.team.blocked()
        wait_and_look(crew)
        crew.team.unblocked()
        assert len(starved(caplog)) == episode


def test_short_waits_are_no_starvation(stage, caplog):
    """Workers that the loop answers again and again do not starve."""
    crew = stage(maximum=1)
    crew.submit("a", "b")
    crew.workers[0].step()
    for _ in range(10):
        crew.team.blocked()
        wait_and_look(crew, STARVING_SECONDS / 2)
        crew.team.unblocked()
    wait_and_look(crew, 10.0)  # In its own work, however long.
    assert starved(caplog) == []


def test_job_that_comes_to_blocked_workers(stage, caplog):
    """It does not matter what came first: the waits, or the job."""
    crew = stage(maximum=1)
    crew.submit("a")
    crew.workers[0].step()
    crew.team.blocked()
    wait_and_look(crew)
    job = crew.submit("b")
    wait_and_look(crew, STARVING_SECONDS / 2)
    assert starved(caplog) == []
    assert crew.team.remove(job)
    wait_and_look(crew)
    assert starved(caplog) == []
    assert not crew.ticker.watched
    crew.submit("c")
    wait_and_look(crew)
    assert len(starved(caplog)) == 1


def test_larger_pool_does_not_starve(stage, caplog):
    """More workers are a remedy: the jobs are done, and nobody complains."""
    crew = stage(maximum=1)
    crew.submit("a", "b")
    crew.workers[0].step()
    crew.team.blocked()
    wait_and_look(crew, STARVING_SECONDS / 2)
    crew.team.resize(0, 2)
    crew.workers[1].step()
    crew.submit("c")
    wait_and_look(crew, 10.0)
    assert starved(caplog) == []
    assert not crew.ticker.watched

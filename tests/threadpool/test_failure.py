"""Failure: an exception at rest."""

from __future__ import annotations

import gc
import io
import pickle
import weakref

import pytest

from threadpool import error as errors
from threadpool.error import PoolFull
from threadpool.failure import Failure, NoCurrentExceptionError


class Custom(ValueError):
    """An exception of a class of its own."""


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Local:
    pass


def caught(error):
    """Raise *error* two frames down, and return the Failure of it."""

    def inner():
        secret = "local value"  # noqa: F841 - seen by the verbose traceback
        raise error

    try:
        inner()
    except BaseException:
        return Failure(capture_vars=True)


def test_failure_of_the_current_exception():
    """Without an argument it takes what is being handled, traceback included."""
    failure = caught(KeyError("x"))
    assert failure.type is KeyError
    assert failure.value.args == ("x",)
    assert failure.getTracebackObject() is failure.tb
    assert failure.tb.tb_frame.f_code.co_name == "caught"


def test_failure_without_an_exception():
    """Where nothing is handled it says so."""
    with pytest.raises(NoCurrentExceptionError, match="none is being handled"):
        Failure()


@pytest.mark.parametrize("wrong", ["text", ValueError, 7])
def test_failure_of_something_else(wrong):
    """Anything but an exception instance is refused."""
    with pytest.raises(TypeError, match="holds an exception"):
        Failure(wrong)


def test_failure_of_a_failure():
    """A Failure of a Failure has its exception and traceback."""
    first = caught(KeyError("x"))
    second = Failure(first)
    assert second.value is first.value
    assert second.tb is first.tb


def test_check_by_class_and_by_name():
    """`check` returns the first kind that fits: a class, or its qualified name."""
    failure = Failure(Custom("x"))
    name = f"{__name__}.Custom"
    assert failure.check(KeyError, ValueError) is ValueError
    assert failure.check("KeyError", name) == name
    assert failure.check("builtins.ValueError") == "builtins.ValueError"
    assert failure.check("ValueError") == "ValueError"
    assert failure.check("Custom", KeyError) is None
    assert failure.check() is None


def test_trap_lets_other_kinds_through():
    """`trap` returns the kind that fits, and raises what does not."""
    failure = caught(Custom("x"))
    assert failure.trap(KeyError, Custom) is Custom
    with pytest.raises(Custom) as info:
        failure.trap(KeyError)
    assert info.value is failure.value


def test_raising_keeps_the_original_traceback():
    """Raised again, and again, the traceback ends where it was raised first."""
    failure = caught(KeyError("x"))
    depths = []
    for _ in range(3):
        try:
            failure.raiseException()
        except KeyError as error:
            tb, depth = error.__traceback__, 0
            while tb.tb_next is not None:
                tb, depth = tb.tb_next, depth + 1
            assert tb.tb_frame.f_code.co_name == "inner"
            depths.append(depth)
    assert len(set(depths)) == 1


def test_throwing_into_a_generator():
    """The exception is raised where the generator waits."""

    def generator():
        try:
            yield 1
        except KeyError:
            yield "caught"

    waiting = generator()
    next(waiting)
    assert Failure(KeyError()).throwExceptionIntoGenerator(waiting) == "caught"


def test_texts():
    """Message, one line, and traceback in three depths."""
    failure = caught(Custom("went wrong"))
    assert failure.getErrorMessage() == "went wrong"
    assert str(failure) == "Custom: went wrong"
    assert repr(failure) == "<Failure Custom: went wrong>"
    assert str(Failure(KeyError())) == "KeyError"
    default = failure.getTraceback()
    assert "in caught" in default
    assert "in inner" in default
    assert default.endswith("Custom: went wrong\n")
    brief = failure.getTraceback(detail="brief")
    assert "in inner" in brief
    assert "in caught" not in brief
    assert "local value" not in default.replace('secret = "local value"', "")
    verbose = failure.getTraceback(detail="verbose")
    assert "secret = 'local value'" in verbose


def test_locals_are_kept_only_when_asked():
    """Local variables hold passwords: without `capture_vars` none is in any text."""
    password = "hun" + "ter2"
    try:
        raise Custom(len(password))
    except Custom:
        failure = Failure()
    assert "hunter2" not in failure.getTraceback("verbose")


def test_unknown_detail_is_refused():
    """`detail` is one of three words."""
    with pytest.raises(ValueError, match="'default', 'brief' or 'verbose'"):
        Failure(KeyError()).getTraceback("loud")


def test_print_traceback():
    """`printTraceback` writes the text to a file."""
    file = io.StringIO()
    failure = caught(KeyError("x"))
    failure.printTraceback(file)
    assert file.getvalue() == failure.getTraceback()


def test_print_traceback_to_standard_error(capsys):
    """Left out, the file is standard error."""
    Failure(KeyError("x")).printTraceback()
    assert "KeyError: 'x'" in capsys.readouterr().err


def test_unprintable_exception():
    """An exception whose text cannot be made is shown all the same."""
    failure = caught(Unprintable())
    assert failure.getErrorMessage() == "<unprintable Unprintable>"
    assert str(failure) == "Unprintable: <unprintable Unprintable>"
    assert "Unprintable" in repr(failure)
    assert "in inner" in failure.getTraceback()
    assert "in inner" in failure.getTraceback("verbose")


def test_cause_is_shown():
    """The traceback tells the cause, too."""
    try:
        raise KeyError("first")
    except KeyError as error:
        first = error
    error = ValueError("second")
    error.__cause__ = first
    assert "KeyError: 'first'" in Failure(error).getTraceback()


def test_clean_failure_lets_go():
    """`cleanFailure` frees every frame, those of causes and groups included."""
    references = []

    def fail(kind, *args):
        local = Local()
        references.append(weakref.ref(local))
        raise kind(*args)

    def member():
        try:
            fail(OSError)
        except OSError as error:
            return error

    try:
        try:
            fail(KeyError)
        except KeyError as error:
            context = error
            try:
                fail(IndexError)
            except IndexError as cause:
                try:
                    raise ExceptionGroup("both", [member()]) from cause
                finally:
                    del context, cause
    except ExceptionGroup:
        failure = Failure()
    text = failure.getTraceback()
    gc.collect()
    assert [r for r in references if r() is not None]
    failure.cleanFailure()
    gc.collect()
    assert [r for r in references if r() is not None] == []
    assert failure.getTracebackObject() is None
    assert failure.getTraceback() == text


def test_clean_failure_of_a_circle():
    """A cause that leads back to its own effect does not hang it."""
    first, second = KeyError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    failure = Failure(first)
    failure.cleanFailure()
    assert failure.getTracebackObject() is None


def test_failure_pickles_with_its_traceback_as_text():
    """A pickled Failure keeps exception and text, and has no frames."""
    failure = caught(KeyError("x"))
    copy = pickle.loads(pickle.dumps(failure))
    assert isinstance(copy.value, KeyError)
    assert copy.value.args == ("x",)
    assert copy.getTraceback() == failure.getTraceback()
    assert copy.getTracebackObject() is None
    assert copy.check(KeyError)


def test_pool_full_pickles_with_its_figures():
    """PoolFull carries its figures through a pickle."""
    copy = pickle.loads(pickle.dumps(PoolFull("full", unfinished=3, limit=2)))
    assert (copy.args, copy.unfinished, copy.limit) == (("full",), 3, 2)


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n != "PoolFull"])
def test_every_error_pickles(name):
    """Each of this floor's errors survives a pickle."""
    error = getattr(errors, name)("text")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.args == ("text",)

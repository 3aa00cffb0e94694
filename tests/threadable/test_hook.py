"""Hooks before and after methods."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import inspect
import sys
import threading
import weakref

import pytest

from threadable import hook


class Base:
    """Notes its calls, like the hooks of these tests."""

    def __init__(self):
        self.calls = []

    def greet(self, name="you", *, loud=False):
        """Say hello."""
        self.calls.append("greet")
        return f"hello {name}{'!' if loud else ''}"

    def fail(self):
        raise KeyError("mine")


@pytest.fixture
def cls():
    """A class of the test's own."""
    members = {
        k: v for k, v in vars(Base).items() if k not in ("__dict__", "__weakref__")
    }
    return type("Greeter", (), members)


def noting(word):
    """A hook that notes *word* and what it was given."""

    def note(instance, *args, **kwargs):
        instance.calls.append((word, args, kwargs) if args or kwargs else word)

    return note


def test_pre_and_post_hooks_run_around_the_method(cls):
    """A pre-hook runs before the method, a post-hook after it; the value passes."""
    hook.addPre(cls, "greet", noting("pre"))
    hook.addPost(cls, "greet", noting("post"))
    greeter = cls()
    assert greeter.greet() == "hello you"
    assert greeter.calls == ["pre", "greet", "post"]


def test_hooks_get_what_the_method_gets(cls):
    """Hooks see the instance and the arguments exactly as the method does."""
    hook.addPre(cls, "greet", noting("pre"))
    hook.addPost(cls, "greet", noting("post"))
    greeter = cls()
    assert greeter.greet("me", loud=True) == "hello me!"
    given = (("me",), {"loud": True})
    assert greeter.calls == [("pre", *given), "greet", ("post", *given)]


def test_hooks_run_in_the_order_of_addition(cls):
    """Both kinds run in the order they were added in."""
    for word in "abc":
        hook.addPre(cls, "greet", noting(f"pre {word}"))
        hook.addPost(cls, "greet", noting(f"post {word}"))
    greeter = cls()
    greeter.greet()
    assert greeter.calls == [
        *["pre a", "pre b", "pre c"],
        "greet",
        *["post a", "post b", "post c"],
    ]


def test_existing_instances_are_affected(cls):
    """An instance made before has the hooks, too."""
    greeter = cls()
    hook.addPre(cls, "greet", noting("pre"))
    greeter.greet()
    assert greeter.calls == ["pre", "greet"]


def test_post_hooks_run_also_when_the_method_raises(cls):
    """The exception of the method passes through, after the post-hooks."""
    hook.addPost(cls, "fail", noting("post"))
    greeter = cls()
    with pytest.raises(KeyError, match="mine"):
        greeter.fail()
    assert greeter.calls == ["post"]


def test_a_pre_hook_that_raises_stops_everything(cls):
    """If a pre-hook raises, neither the method nor the post-hooks are run."""

    def refuse(instance, *args):
        raise ValueError("no")

    hook.addPre(cls, "greet", noting("pre"))
    hook.addPre(cls, "greet", refuse)
    hook.addPre(cls, "greet", noting("later"))
    hook.addPost(cls, "greet", noting("post"))
    greeter = cls()
    with pytest.raises(ValueError, match="no"):
        greeter.greet()
    assert greeter.calls == ["pre"]


def test_what_a_pre_hook_took_is_given_back_if_a_later_one_raises(cls):
    """A pre-hook's `undo` is called if a later pre-hook raises, the last one first."""
    for word in "ab":
        take = noting(f"take {word}")
        take.undo = noting(f"undo {word}")
        hook.addPre(cls, "greet", take)

    def broken_undo(instance, *args):
        raise KeyError("undo")

    taking = noting("take c")
    taking.undo = broken_undo
    hook.addPre(cls, "greet", taking)

    def refuse(instance, *args):
        raise ValueError("no")

    hook.addPre(cls, "greet", refuse)
    greeter = cls()
    with pytest.raises(KeyError, match="undo") as caught:
        greeter.greet()
    assert isinstance(caught.value.__context__, ValueError)
    assert greeter.calls == ["take a", "take b", "take c", "undo b", "undo a"]


def test_it_is_all_the_same_with_keywords(cls):
    """A call with keywords runs, undoes and stops like one without."""
    take = noting("take")
    take.undo = noting("undo")

    def refuse(instance, **kwargs):
        raise ValueError("no")

    hook.addPre(cls, "greet", take)
    hook.addPre(cls, "greet", refuse)
    greeter = cls()
    with pytest.raises(ValueError, match="no"):
        greeter.greet(loud=True)
    loud = ((), {"loud": True})
    assert greeter.calls == [("take", *loud), ("undo", *loud)]


def test_a_stranger_is_not_passed_on(cls):
    """Called with an object of another class, an inherited method says so."""
    sub = type("Sub", (cls,), {})
    hook.addPre(sub, "greet", lambda self: None)
    with pytest.raises(TypeError, match="super"):
        sub.greet(3)


def test_a_pair_that_is_a_context_manager_is_used_with_with(cls):
    """A lone pre-hook with `undo` and `context` becomes a `with`; else it is called."""

    @contextlib.contextmanager
    def around(instance):
        instance.calls.append("enter")
        try:
            yield
        finally:
            instance.calls.append("exit")

    pre, post, other = noting("pre"), noting("post"), noting("other")
    pre.undo, pre.context = post, around
    hook.addPre(cls, "greet", pre)
    hook.addPre(cls, "fail", pre)
    hook.addPost(cls, "greet", post)
    hook.addPost(cls, "fail", post)
    greeter = cls()
    assert greeter.greet("me", loud=True) == greeter.greet("me!")
    with pytest.raises(KeyError, match="mine"):
        greeter.fail()
    assert greeter.calls == ["enter", "greet", "exit"] * 2 + ["enter", "exit"]
    greeter.calls.clear()
    hook.addPost(cls, "greet", other)
    greeter.greet()
    hook.removePost(cls, "greet", post)
    greeter.greet()
    assert greeter.calls == ["pre", "greet", "post", "other", "pre", "greet", "other"]


def test_a_post_hook_that_raises_does_not_stop_the_others(cls):
    """All post-hooks run; the exception of the last one that raised arrives."""

    def broken(word):
        def post(instance, *args):
            instance.calls.append(word)
            raise ValueError(word)

        return post

    hook.addPost(cls, "greet", broken("one"))
    hook.addPost(cls, "greet", noting("post"))
    hook.addPost(cls, "greet", broken("two"))
    hook.addPost(cls, "greet", noting("last"))
    greeter = cls()
    with pytest.raises(ValueError, match="two") as caught:
        greeter.greet()
    assert str(caught.value.__context__) == "one"
    assert greeter.calls == ["greet", "one", "post", "two", "last"]


# -- removing --------------------------------------------------------------------------


def test_removing_the_last_hook_restores_the_very_function(cls):
    """With the last hook the class holds the original object, and nothing private."""
    before = dict(cls.__dict__)
    pre, post = noting("pre"), noting("post")
    hook.addPre(cls, "greet", pre)
    hook.addPost(cls, "greet", post)
    assert cls.__dict__["greet"] is not before["greet"]
    hook.removePre(cls, "greet", pre)
    hook.removePost(cls, "greet", post)
    assert dict(cls.__dict__) == before
    assert cls.__dict__["greet"] is before["greet"]
    assert "_threadable_hooked" not in vars(before["greet"])


@pytest.mark.parametrize("kind", [classmethod, staticmethod, property])
def test_removing_restores_other_kinds_of_members_too(kind):
    """Class methods, static methods and properties come back as the same object."""
    member = kind(lambda *args: "value")
    cls = type("Holder", (), {"member": member})
    pre = noting("pre")
    hook.addPre(cls, "member", pre)
    hook.removePre(cls, "member", pre)
    assert cls.__dict__["member"] is member


def test_removing_the_last_hook_of_an_inherited_method_leaves_nothing(cls):
    """A subclass that only inherits has nothing of its own afterwards."""
    sub = type("Sub", (cls,), {})
    before = dict(sub.__dict__)
    pre = noting("pre")
    hook.addPre(sub, "greet", pre)
    hook.removePre(sub, "greet", pre)
    assert dict(sub.__dict__) == before


def test_a_hook_added_twice_is_removed_once_for_each_time(cls):
    """Each addition counts, and each removal takes back one."""
    pre = noting("pre")
    hook.addPre(cls, "greet", pre)
    hook.addPre(cls, "greet", pre)
    hook.removePre(cls, "greet", pre)
    greeter = cls()
    greeter.greet()
    assert greeter.calls == ["pre", "greet"]


def test_removing_an_unknown_hook_is_an_error(cls):
    """A hook that was not added cannot be removed; the text says how many there are."""
    hook.addPre(cls, "greet", noting("pre"))
    with pytest.raises(hook.HookError, match=r"no such hook of Greeter\.greet.* 1 of"):
        hook.removePre(cls, "greet", noting("other"))
    with pytest.raises(hook.HookError, match="which has 0 of its kind"):
        hook.removePost(cls, "greet", noting("other"))


def test_removing_from_a_method_without_hooks_is_an_error(cls):
    """A method without hooks, and a name without method, have none to remove."""
    for name in ("greet", "nothing"):
        with pytest.raises(hook.HookError, match=f"Greeter.{name} has no hooks"):
            hook.removePre(cls, name, noting("pre"))


def test_hooking_a_missing_method_is_an_attribute_error(cls):
    """There is nothing to hook where there is no such method."""
    for add in (hook.addPre, hook.addPost):
        with pytest.raises(AttributeError, match="Greeter has no attribute 'gret'"):
            add(cls, "gret", noting("pre"))


def test_the_error_has_two_names():
    """`hook.error` is `HookError`, its name of old."""
    assert hook.error is hook.HookError


@pytest.mark.parametrize("member", [3, "text", type, functools.partial(print)])
def test_what_is_no_method_is_refused(member):
    """What cannot be called through an instance cannot have hooks."""
    cls = type("Holder", (), {"member": member})
    with pytest.raises(hook.HookError, match="hooks go around methods"):
        hook.addPre(cls, "member", noting("pre"))
    assert cls.__dict__["member"] is member


def test_a_bound_method_of_somebody_else_is_refused(cls):
    """A bound method in a class has an instance already; it is none of ours."""
    held = type("Holder", (), {"member": cls().greet})
    with pytest.raises(hook.HookError, match="is a method"):
        hook.addPre(held, "member", noting("pre"))


def test_an_instance_is_no_class(cls):
    """Hooks are put on classes; an instance is told so."""
    with pytest.raises(TypeError, match="is no class"):
        hook.addPre(cls(), "greet", noting("pre"))


# -- inheritance -----------------------------------------------------------------------


def test_base_class_and_subclass_hooks_are_independent(cls):
    """Hooks of a subclass that overrides do not run for the base, nor the reverse."""

    class Sub(cls):
        def greet(self):
            self.calls.append("sub greet")

    hook.addPre(cls, "greet", noting("base pre"))
    hook.addPre(Sub, "greet", noting("sub pre"))
    base, sub = cls(), Sub()
    base.greet()
    sub.greet()
    assert base.calls == ["base pre", "greet"]
    assert sub.calls == ["sub pre", "sub greet"]


def test_an_inherited_method_can_have_hooks_of_its_own(cls):
    """A subclass that inherits the method has its hooks and the base's inside."""
    sub = type("Sub", (cls,), {})
    hook.addPre(sub, "greet", noting("sub pre"))
    hook.addPre(cls, "greet", noting("base pre"))
    base, child = cls(), sub()
    base.greet()
    child.greet("me")
    assert base.calls == ["base pre", "greet"]
    assert child.calls == [("sub pre", ("me",), {}), ("base pre", ("me",), {}), "greet"]


def test_an_inherited_method_is_looked_up_at_each_call(cls):
    """What the base is given later is what the hooked subclass passes on to."""
    sub = type("Sub", (cls,), {})
    hook.addPre(sub, "greet", noting("pre"))
    cls.greet = lambda self: "changed"
    assert sub().greet() == "changed"


def test_the_method_resolution_order_is_kept(cls):
    """Below several bases, the hooked method goes on to the next in line."""

    class Left(cls):
        def greet(self):
            self.calls.append("left")
            return super().greet()

    class Right(cls):
        pass

    class Both(Left, Right):
        pass

    hook.addPre(Right, "greet", noting("right pre"))
    both = Both()
    assert both.greet() == "hello you"
    assert both.calls == ["left", "right pre", "greet"]


def test_inherited_members_of_other_kinds():
    """Inherited class methods, static methods and properties can have hooks, too."""

    class Parent:
        def __init__(self):
            self._value = 1

        @classmethod
        def make(cls):
            return cls.__name__

        @staticmethod
        def count(number):
            return number

        @property
        def value(self):
            return self._value

        @value.setter
        def value(self, value):
            self._value = value

        @value.deleter
        def value(self):
            self._value = None

    class Child(Parent):
        pass

    class GrandChild(Child):
        pass

    seen = []
    for name in ("make", "count", "value"):
        hook.addPre(Child, name, lambda *args: seen.append(args))
    assert GrandChild.make() == "GrandChild"
    assert GrandChild.count(3) == 3
    child = GrandChild()
    child.value = 5
    assert child.value == 5
    del child.value
    assert Parent().value == 1
    assert seen == [(GrandChild,), (Child, 3), (child, 5), (child,), (child,)]


def test_a_class_made_of_anothers_dictionary_passes_on(cls):
    """A class decorator that copies the class takes the inherited hooks along."""
    sub = type("Sub", (cls,), {})
    hook.addPre(sub, "greet", noting("pre"))
    twin = type("Twin", (cls,), dict(vars(sub)))
    greeter = twin()
    assert greeter.greet() == "hello you"
    assert greeter.calls == ["pre", "greet"]
    with pytest.raises(hook.HookError, match=r"Twin\.greet has no hooks"):
        hook.removePre(twin, "greet", noting("pre"))


def test_slots_made_by_dataclass_keep_hooks():
    """A dataclass with slots, which is a copy of the class written, keeps its hooks."""
    seen = []

    def hooked(cls):
        hook.addPre(cls, "double", seen.append)
        return cls

    @dataclasses.dataclass(slots=True)
    @hooked
    class Number:
        value: int

        def double(self):
            return 2 * self.value

    assert Number(4).double() == 8
    assert seen == [Number(4)]


# -- what the world sees ---------------------------------------------------------------


def test_name_docstring_and_signature_are_kept(cls):
    """A hooked method has the name, docstring, signature and module of the original."""
    signature = inspect.signature(cls.greet)
    hook.addPre(cls, "greet", noting("pre"))
    assert cls.greet.__name__ == "greet"
    assert cls.greet.__qualname__ == "Base.greet"
    assert cls.greet.__doc__ == "Say hello."
    assert cls.greet.__module__ == Base.__module__
    assert inspect.signature(cls.greet) == signature
    assert cls.greet.__wrapped__ is Base.__dict__["greet"]


def test_no_source_is_generated(cls):
    """The wrapper is code of a file, not of a string: tracebacks show every line."""
    hook.addPre(cls, "greet", noting("pre"))
    assert cls.greet.__code__.co_filename.endswith("_hooked.py")


def test_classes_inside_functions_can_have_hooks():
    """A class needs no importable name."""

    class Local:
        def method(self):
            return "local"

    hook.addPre(Local, "method", lambda self: None)
    assert Local().method() == "local"


def test_a_class_with_hooks_can_die():
    """Hooks keep no class alive."""

    class Local:
        def method(self):
            pass

    hook.addPre(Local, "method", lambda self: None)
    gone = weakref.ref(Local)
    del Local
    gc.collect()
    assert gone() is None


def test_a_coroutine_function_is_still_known_as_one(cls):
    """A hooked `async def` is taken for one, where Python has a way to say so."""

    async def later(self):
        pass

    cls.later = later
    hook.addPre(cls, "later", lambda self: None)
    assert inspect.iscoroutinefunction(cls.later) is (sys.version_info >= (3, 12))


def test_hooks_go_around_what_the_interpreter_calls(cls):
    """Special methods can have hooks, also inherited from a class written in C."""
    numbers = type("Numbers", (list,), {})
    seen = []
    hook.addPre(numbers, "__len__", lambda self: seen.append("len"))
    hook.addPre(numbers, "append", lambda self, item: seen.append(item))
    some = numbers([1])
    some.append(2)
    assert len(some) == 2
    assert seen == [2, "len"]


def test_methods_of_a_metaclass_can_have_hooks():
    """On a metaclass, the instances are classes."""
    meta = type("Meta", (type,), {"name": lambda cls: cls.__name__})
    sub = type("SubMeta", (meta,), {})
    seen = []
    hook.addPre(sub, "name", seen.append)
    thing = sub("Thing", (), {})
    assert thing.name() == "Thing"
    assert seen == [thing]


def test_a_decorator_put_on_top_is_not_mistaken_for_ours(cls):
    """What somebody puts around a hooked method is not taken away by a removal."""
    pre = noting("pre")
    hook.addPre(cls, "greet", pre)

    @functools.wraps(cls.greet)
    def outer(self):
        return inner(self)

    inner = cls.__dict__["greet"]
    cls.greet = outer
    with pytest.raises(hook.HookError, match="something else was put in their place"):
        hook.removePre(cls, "greet", pre)
    assert cls.__dict__["greet"] is outer


# -- with other threads ----------------------------------------------------------------


def test_a_call_uses_the_hooks_there_are_when_it_begins(cls, in_thread):
    """Hooks added or removed during a call are for the next one (forced)."""
    inside, go_on = threading.Event(), threading.Event()

    def park(instance):
        inside.set()
        assert go_on.wait(20)

    first_post, late = noting("post"), noting("late")
    hook.addPre(cls, "greet", park)
    hook.addPost(cls, "greet", first_post)
    greeter = cls()
    call = in_thread(greeter.greet)
    assert inside.wait(20)
    # The call stands in its pre-hook. Meanwhile everything changes.
    hook.removePre(cls, "greet", park)
    hook.removePost(cls, "greet", first_post)
    hook.addPost(cls, "greet", late)
    go_on.set()
    call.result()
    assert greeter.calls == ["greet", "post"]
    greeter.greet()
    assert greeter.calls == ["greet", "post", "greet", "late"]


def test_a_pair_of_hooks_comes_and_no_call_sees_half_of_it(cls, in_thread):
    """While hooks come and go, a call runs both halves of a pair or none."""
    stop = threading.Event()
    depth = threading.local()

    def pre(instance):
        depth.value = getattr(depth, "value", 0) + 1

    def post(instance):
        depth.value -= 1

    class Quiet:
        def work(self):
            pass

    def call():
        quiet = Quiet()
        worst = 0
        while not stop.is_set():
            quiet.work()
            worst = max(worst, abs(getattr(depth, "value", 0)))
        return worst

    callers = [in_thread(call) for _ in range(3)]
    for _ in range(300):
        hook.add_pair(Quiet, "work", pre, post)
        # Both at once, as the pair came: else a call could see half of it, rightly.
        hook._change(Quiet, "work", lambda pres, posts: ((), ()), adding=False)
    stop.set()
    assert [caller.result() for caller in callers] == [0, 0, 0]
    assert "__wrapped__" not in vars(Quiet.work)


def test_hooks_added_by_many_threads_at_once_are_all_there(cls, in_thread):
    """Two threads that add hooks at once do not lose one of them."""
    start = threading.Barrier(4, timeout=20)

    def add(word):
        start.wait()
        for number in range(50):
            hook.addPre(cls, "greet", noting(f"{word}{number}"))

    for thread in [in_thread(add, word) for word in "abcd"]:
        thread.result()
    greeter = cls()
    greeter.greet()
    assert len(set(greeter.calls)) == 4 * 50 + 1

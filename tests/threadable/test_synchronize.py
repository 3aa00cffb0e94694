"""Synchronized methods: exclusion, inheritance, places for the lock."""

# ruff: noqa: RUF012 - lists that nobody changes

from __future__ import annotations

import abc
import copy
import dataclasses
import gc
import pickle
import queue
import threading
import weakref

import pytest

import threadable
from threadable import _instance_lock, hook, synchronize, synchronized


class Gate:
    """A place in a method where a thread waits until the test lets it go."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()

    def wait(self):
        self.entered.set()
        assert self.opened.wait(20)


class Account:
    """Has one method that waits inside and one that does not."""

    synchronized = ["hold", "deposit"]

    def hold(self, gate):
        gate.wait()

    def deposit(self, amount=1):
        return amount


def fresh(base=Account, **members):
    """A class of its own for each test: what one test hooks, no other meets."""
    return type(base.__name__, (), {**_members(base), **members})


def _members(base):
    return {k: v for k, v in vars(base).items() if k not in ("__dict__", "__weakref__")}


class Probe(threadable.XLock):
    """Says when somebody has to wait for it: no test needs to guess from a delay."""

    met = queue.SimpleQueue()  # of idents

    def acquire(self, blocking=True, timeout=-1):
        if super().acquire(False):
            return True
        self.met.put(threading.get_ident())
        return super().acquire(blocking, timeout)

    __enter__ = acquire


@pytest.fixture(autouse=True)
def probes(monkeypatch):
    """The locks of these tests are probes."""
    monkeypatch.setattr(Probe, "met", queue.SimpleQueue())
    monkeypatch.setattr(_instance_lock, "XLock", Probe)


def excluded(in_thread, holder, holder_args, other):
    """Tell whether *other* has to wait while *holder* is inside its gate."""
    gate = Gate()
    holding = in_thread(holder, *holder_args, gate)
    assert gate.entered.wait(20)

    def call():
        try:
            return other()
        finally:
            Probe.met.put(None)  # through, without having met a lock that is held

    calling = in_thread(call)
    was_excluded = Probe.met.get(timeout=20) == calling.ident
    gate.opened.set()
    holding.result()
    calling.result()
    while not Probe.met.empty():
        Probe.met.get()
    return was_excluded


# -- what it does ----------------------------------------------------------------------


def test_synchronized_methods_exclude_each_other_per_instance(in_thread):
    """Methods listed in `synchronized` are mutually exclusive on one instance."""
    cls = fresh()
    synchronize(cls)
    threadable.init()
    account = cls()
    assert excluded(in_thread, account.hold, (), account.deposit)


def test_two_instances_run_in_parallel(in_thread):
    """Other instances are unaffected: one global lock would fail here."""
    cls = fresh()
    synchronize(cls)
    threadable.init()
    one, two = cls(), cls()
    # Each waits inside its method for the other to be inside, too.
    meeting = threading.Barrier(2, timeout=20)

    class Meet:
        def wait(self):
            meeting.wait()

    threads = [in_thread(each.hold, Meet()) for each in (one, two)]
    for thread in threads:
        thread.result()


def test_methods_that_are_not_listed_are_not_locked(in_thread):
    """A method that is not listed does not wait."""
    cls = fresh(peek=lambda self: "seen")
    synchronize(cls)
    threadable.init()
    account = cls()
    assert not excluded(in_thread, account.hold, (), account.peek)


def test_without_the_switch_nothing_is_excluded(in_thread):
    """The counterpart: the helper of these tests sees when nothing is locked."""
    cls = fresh()
    synchronize(cls)
    account = cls()
    assert not excluded(in_thread, account.hold, (), account.deposit)


@pytest.mark.parametrize("decide", [lambda: None, lambda: threadable.init(False)])
def test_no_penalty_without_threads(decide):
    """Before `init()` the class holds the very function objects its author wrote."""
    cls = fresh()
    before = dict(cls.__dict__)
    decide()
    synchronize(cls)
    assert dict(cls.__dict__) == before
    assert cls.__dict__["deposit"] is Account.__dict__["deposit"]


def test_classes_declared_before_init_are_retrofitted(in_thread):
    """Classes passed to `synchronize()` before `init()` get their locks at init."""
    cls = fresh()
    account = cls()
    synchronize(cls)
    threadable.init()
    assert excluded(in_thread, account.hold, (), account.deposit)


def test_classes_declared_after_init_are_locked_at_once(in_thread):
    """With threads on, `synchronize()` locks at once."""
    threadable.init()
    cls = fresh()
    synchronize(cls)
    account = cls()
    assert excluded(in_thread, account.hold, (), account.deposit)


def test_classes_declared_while_threads_are_forbidden_wait_for_a_late_init(in_thread):
    """`init()` after `init(False)` locks what was declared between the two."""
    threadable.init(False)
    cls = fresh()
    synchronize(cls)
    assert cls.__dict__["hold"] is Account.__dict__["hold"]
    threadable.init()
    account = cls()
    assert excluded(in_thread, account.hold, (), account.deposit)


def test_the_locks_are_two_hooks_and_nothing_else():
    """Synchronization goes through the hooks `_synchPre` and `_synchPost`."""
    cls = fresh()
    synchronize(cls)
    threadable.init()
    for name in cls.synchronized:
        hook.removePre(cls, name, threadable._synchPre)
        hook.removePost(cls, name, threadable._synchPost)
        assert cls.__dict__[name] is Account.__dict__[name]


def test_name_docstring_and_signature_are_kept():
    """A synchronized method keeps its name and docstring."""

    class Documented:
        synchronized = ["deposit"]

        def deposit(self, amount: int) -> int:
            """Put money in."""
            return amount

    synchronize(Documented)
    threadable.init()
    assert Documented.deposit.__name__ == "deposit"
    assert Documented.deposit.__doc__ == "Put money in."
    assert Documented().deposit(amount=3) == 3


def test_the_same_thread_may_enter_again():
    """Like in Java, the lock is re-entrant for the same thread."""

    class Nested:
        synchronized = ["outer", "inner"]

        def outer(self):
            return self.inner()

        def inner(self):
            return "inside"

    synchronize(Nested)
    threadable.init()
    assert Nested().outer() == "inside"


def test_the_lock_is_released_when_the_method_raises(in_thread):
    """The lock is released on exceptions, and the exception passes through."""

    class Failing:
        synchronized = ["fail"]

        def fail(self):
            raise KeyError("mine")

    synchronize(Failing)
    threadable.init()
    failing = Failing()
    with pytest.raises(KeyError, match="mine"):
        failing.fail()
    assert in_thread(failing._threadable_lock.acquire, False).result()


@pytest.mark.parametrize("add", [hook.addPre, hook.addPost])
@pytest.mark.parametrize("first", ["the hook", "the lock"])
def test_the_lock_is_released_when_a_hook_raises(add, first, in_thread):
    """The lock is released also when another hook raises, whichever came first."""
    cls = fresh()

    def broken(*args):
        raise KeyError("hook")

    if first == "the hook":
        add(cls, "deposit", broken)
        synchronize(cls)
        threadable.init()
    else:
        synchronize(cls)
        threadable.init()
        add(cls, "deposit", broken)
    account = cls()
    with pytest.raises(KeyError, match="hook"):
        account.deposit()
    assert in_thread(account._threadable_lock.acquire, False).result()
    assert not excluded(in_thread, cls().hold, (), account.hold.__self__.__repr__)


def test_synchronizing_twice_locks_once():
    """A class synchronized twice has one pair of hooks."""
    cls = fresh()
    synchronize(cls, cls)
    threadable.init()
    synchronize(cls)
    assert hook.pre_hooks(cls, "deposit") == (threadable._synchPre,)


def test_a_call_that_runs_at_init_is_not_guarded_until_it_returns(in_thread):
    """A call running at the moment of `init()` ends as it began, without a lock."""
    cls = fresh()
    synchronize(cls)
    account, gate = cls(), Gate()
    running = in_thread(account.hold, gate)
    assert gate.entered.wait(20)
    threadable.init()
    assert in_thread(account.deposit, 5).result() == 5
    gate.opened.set()
    running.result()


# -- one lock, made lazily -------------------------------------------------------------


def test_the_lock_is_made_lazily_and_shown_as_an_attribute():
    """The lock lives in `obj._threadable_lock`, made at its first use."""
    cls = fresh()
    synchronize(cls)
    threadable.init()
    account = cls()
    assert id(account) not in _instance_lock.locks
    account.deposit()
    lock = account._threadable_lock
    assert isinstance(lock, threadable.XLock)
    assert lock is account._threadable_lock
    assert vars(account) == {}


@pytest.mark.parametrize("slots", [None, ("_threadable_lock",), ("__weakref__",)])
def test_two_threads_at_the_first_call_get_one_lock(slots, in_thread, monkeypatch):
    """Two threads making the first call at once get one lock, not two (forced)."""
    # Both threads are held inside the constructor of the lock, where each is sure that
    # there is none yet. Where making is itself exclusive, only one comes so far, and
    # the other one waits outside: the barrier breaks, and that is right, too.
    barrier = threading.Barrier(2, timeout=1 if slots == ("_threadable_lock",) else 20)

    class Slow(threadable.XLock):
        def __init__(self):
            try:
                barrier.wait()
            except threading.BrokenBarrierError:
                assert slots == ("_threadable_lock",)

    monkeypatch.setattr(_instance_lock, "XLock", Slow)
    cls = fresh(**({} if slots is None else {"__slots__": slots}))
    synchronize(cls)
    threadable.init()
    account = cls()
    threads = [in_thread(threadable._instance_lock.lock_of, account) for _ in "ab"]
    one, two = (thread.result() for thread in threads)
    assert one is two
    assert one is _instance_lock.lock_of(account)


def test_two_threads_at_the_first_call_exclude_each_other(in_thread, monkeypatch):
    """The same race through the method itself: never two inside at once."""
    barrier = threading.Barrier(2, timeout=20)

    class Slow(threadable.XLock):
        def __init__(self):
            barrier.wait()

    monkeypatch.setattr(_instance_lock, "XLock", Slow)
    inside, most = [], []

    class Counted:
        synchronized = ["enter"]

        def enter(self, gate):
            inside.append(1)
            most.append(len(inside))
            gate.wait()
            inside.pop()

    synchronize(Counted)
    threadable.init()
    counted = Counted()
    gates = [Gate(), Gate()]
    threads = [in_thread(counted.enter, gate) for gate in gates]
    # One of them is inside now and the other waits for the lock: open both gates.
    for gate in gates:
        gate.opened.set()
    for thread in threads:
        thread.result()
    assert most == [1, 1]


def test_a_lock_goes_with_its_instance():
    """The table of locks holds no dead instance, and no instance alive."""
    cls = fresh()
    synchronize(cls)
    threadable.init()
    account = cls()
    account.deposit()
    key, gone = id(account), weakref.ref(account)
    assert key in _instance_lock.locks
    del account
    gc.collect()
    assert gone() is None
    assert key not in _instance_lock.locks


def test_a_finalizer_may_call_a_synchronized_method():
    """A synchronized `__del__` works, and leaves no entry behind."""
    seen = []

    class Final:
        synchronized = ["__del__"]

        def __del__(self):
            seen.append(id(self))

    synchronize(Final)
    threadable.init()
    Final()
    final = Final()
    final.itself = final
    del final
    gc.collect()
    assert len(seen) == 2
    assert not set(seen) & set(_instance_lock.locks)


def test_a_lock_can_be_assigned(in_thread):
    """Objects may share a lock: `b._threadable_lock = a._threadable_lock`."""
    cls = fresh()
    synchronize(cls)
    threadable.init()
    one, two = cls(), cls()
    two._threadable_lock = one._threadable_lock
    assert excluded(in_thread, one.hold, (), two.deposit)
    key = id(two)
    del two
    assert key not in _instance_lock.locks


def test_a_class_may_give_its_instances_one_lock(in_thread):
    """A class attribute `_threadable_lock` is the lock of all instances."""
    cls = fresh(_threadable_lock=Probe())
    synchronize(cls)
    threadable.init()
    assert excluded(in_thread, cls().hold, (), cls().deposit)


def test_an_object_that_answers_every_attribute_is_not_mistaken(in_thread):
    """A `__getattr__` that makes things up does not become a lock."""
    cls = fresh(__getattr__=lambda self, name: pytest.fail(f"asked for {name}"))
    synchronize(cls)
    threadable.init()
    account = cls()
    assert excluded(in_thread, account.hold, (), account.deposit)


def test_frozen_dataclasses_can_be_synchronized():
    """An instance that refuses assignment has a lock all the same."""

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        amount: int
        synchronized = ["value"]

        def value(self):
            return self.amount

    synchronize(Frozen)
    threadable.init()
    assert Frozen(3).value() == 3
    assert Frozen(3) == Frozen(3)


# -- inheritance -----------------------------------------------------------------------


def test_an_inherited_method_can_be_named(in_thread):
    """A class may name inherited methods; instances of the base are not affected."""
    base = fresh(synchronized=[])

    class Sub(base):
        synchronized = ["hold", "deposit"]

    synchronize(Sub)
    threadable.init()
    sub, plain = Sub(), base()
    assert excluded(in_thread, sub.hold, (), sub.deposit)
    assert not excluded(in_thread, plain.hold, (), plain.deposit)
    assert base.__dict__["hold"] is Account.__dict__["hold"]


@pytest.mark.parametrize("when", ["before", "after", "long after"])
def test_an_override_stays_locked(when, in_thread):
    """A subclass that overrides a synchronized method has it locked, too."""
    base = fresh()
    synchronize(base)
    if when != "before":
        threadable.init()

    class Sub(base):
        def deposit(self, amount=2):
            return amount

    if when == "before":
        threadable.init()

    class SubSub(Sub):
        def deposit(self, amount=3):
            return amount

    for cls in (Sub, SubSub):
        account = cls()
        assert excluded(in_thread, account.hold, (), account.deposit)


def test_an_override_that_comes_from_a_mixin_stays_locked(in_thread):
    """Also where the override is inherited from a class that knows of no lock."""
    base = fresh()
    synchronize(base)
    threadable.init()

    class Mixin:
        def deposit(self, amount=2):
            return amount

    class Sub(Mixin, base):
        pass

    account = Sub()
    assert excluded(in_thread, account.hold, (), account.deposit)
    assert "__wrapped__" not in vars(Mixin.deposit)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_override_is_locked_below_a_class_that_keeps_the_news(when, in_thread):
    """A subclass whose `__init_subclass__` calls no super() hides nobody."""
    base = fresh()
    synchronize(base)
    if when == "after":
        threadable.init()

    class Deaf(base):
        def __init_subclass__(cls):
            pass

    if when == "before":
        threadable.init()

    class Sub(Deaf):
        def deposit(self, amount=2):
            return amount

    class Keyed(base):
        def __init_subclass__(cls, /, key, **kwargs):
            super().__init_subclass__(**kwargs)
            cls.key = key

    class KeyedSub(Keyed, key=5):
        def deposit(self, amount=2):
            return amount

    assert KeyedSub.key == 5
    for account in (Sub(), KeyedSub()):
        assert excluded(in_thread, account.hold, (), account.deposit)


def test_an_override_that_calls_super_does_not_deadlock(in_thread):
    """A subclass may call super() in an override: it is the same lock, re-entrant."""
    base = fresh()
    synchronize(base)
    threadable.init()

    class Sub(base):
        def deposit(self, amount=2):
            return super().deposit(amount) + 1

    assert in_thread(Sub().deposit, 5).result() == 6


def test_the_lists_of_bases_count_as_well(in_thread):
    """A subclass's own list adds to its base's; it does not replace it."""
    base = fresh()

    class Sub(base):
        synchronized = ["withdraw"]

        def withdraw(self):
            return "withdrawn"

    synchronize(Sub)
    threadable.init()
    sub = Sub()
    assert excluded(in_thread, sub.hold, (), sub.withdraw)


def test_a_subclass_made_while_its_base_is_being_locked_is_not_missed(monkeypatch):
    """A subclass that appears in the middle of `init()` is locked (forced)."""
    base = fresh()
    synchronize(base)
    made = []
    add_pair = hook.add_pair

    def late(*args):
        if not made:
            made.append(None)
            made[0] = type("Late", (base,), {"deposit": lambda self: "late"})
        add_pair(*args)

    monkeypatch.setattr(hook, "add_pair", late)
    threadable.init()
    assert hook.pre_hooks(made[0], "deposit") == (threadable._synchPre,)


def test_a_subclass_may_take_a_method_away():
    """`deposit = None` in a subclass is no method, and needs no lock."""
    base = fresh()
    synchronize(base)
    threadable.init()
    sub = type("Sub", (base,), {"deposit": None})
    assert sub.deposit is None


def test_a_method_that_is_gone_at_init_is_reported():
    """A method deleted between the declaration and `init()` is named."""
    cls = fresh()
    synchronize(cls)
    del cls.deposit
    with pytest.raises(AttributeError, match="names 'deposit'"):
        threadable.init()


def test_abstract_methods_stay_abstract():
    """A synchronized abstract method still forbids making an instance."""

    class Base(abc.ABC):
        @synchronized
        @abc.abstractmethod
        def deposit(self):
            pass

    class Sub(Base):
        def deposit(self):
            return "done"

    threadable.init()
    with pytest.raises(TypeError, match="abstract"):
        Base()
    assert Sub().deposit() == "done"
    assert hook.pre_hooks(Sub, "deposit") == (threadable._synchPre,)


def test_a_class_copied_by_a_decorator_still_works(in_thread):
    """`dataclass(slots=True)` copies the class: its inherited locks go on working."""
    base = fresh()
    threadable.init()
    synchronize(base)

    @dataclasses.dataclass(slots=True)
    class Copied(base):
        synchronized = ["hold", "deposit", "withdraw"]
        amount: int = 0

        def withdraw(self):
            return self.amount

        @classmethod
        def make(cls):
            return cls(4)

    synchronize(Copied)
    account = Copied.make()
    assert account.withdraw() == 4
    assert excluded(in_thread, account.hold, (), account.withdraw)


# -- class methods, static methods, properties -----------------------------------------


class Registry:
    """Locks what belongs to the class."""

    synchronized = ["hold", "add", "count"]

    @classmethod
    def hold(cls, gate):
        gate.wait()

    @classmethod
    def add(cls, thing=1):
        return cls, thing

    @staticmethod
    def count(number=3):
        return number


def test_class_and_static_methods_have_one_lock_per_class(in_thread):
    """Class and static methods exclude each other, on whomever they are called."""
    cls = fresh(Registry)
    synchronize(cls)
    threadable.init()

    class Sub(cls):
        pass

    assert excluded(in_thread, cls.hold, (), cls.add)
    assert excluded(in_thread, cls.hold, (), cls().count)
    assert excluded(in_thread, Sub.hold, (), cls.add)
    assert Sub.add(4) == (Sub, 4)
    assert Sub().count(number=5) == 5


def test_instance_methods_do_not_wait_for_class_methods(in_thread):
    """As in Java, the class's lock is not that of an instance."""
    cls = fresh(Registry, synchronized=["hold", "own"], own=lambda self: "mine")
    synchronize(cls)
    threadable.init()
    assert not excluded(in_thread, cls.hold, (), cls().own)


@pytest.mark.parametrize("order", ["base first", "subclass first"])
def test_a_class_method_and_its_override_share_one_lock(order, in_thread):
    """One lock for the hierarchy, or a subclass and its base could deadlock."""
    base = fresh(Registry)

    class Sub(base):
        synchronized = ["add", "passing"]

        @classmethod
        def add(cls, thing=1):
            return cls, thing  # without super(), which would take the base's lock

        @classmethod
        def passing(cls, thing):
            return super().add(thing)

    threadable.init()
    both = (base, Sub) if order == "base first" else (Sub, base)
    for cls in both:
        synchronize(cls)
    assert excluded(in_thread, base.hold, (), Sub.add)
    assert Sub.passing(2) == (Sub, 2)


def test_properties_are_locked_in_all_their_parts(in_thread):
    """Reading, writing and deleting a synchronized property takes the lock."""

    class Box:
        synchronized = ["hold", "value"]
        hold = Account.hold

        def __init__(self):
            self._value = 1

        @property
        def value(self):
            """What is inside."""
            return self._value

        @value.setter
        def value(self, value):
            self._value = value

        @value.deleter
        def value(self):
            self._value = None

    synchronize(Box)
    threadable.init()
    box = Box()

    def delete():
        del box.value

    assert excluded(in_thread, box.hold, (), lambda: box.value)
    assert excluded(in_thread, box.hold, (), lambda: setattr(box, "value", 2))
    assert box.value == 2
    assert excluded(in_thread, box.hold, (), delete)
    assert box.value is None
    assert Box.value.__doc__ == "What is inside."

    class Sub(Box):
        @property
        def value(self):
            return 9

    assert excluded(in_thread, Sub.hold, (sub := Sub(),), lambda: sub.value)


# -- places for the lock ---------------------------------------------------------------


@pytest.mark.parametrize("slots", [("_threadable_lock",), ("__weakref__",), "both"])
def test_a_class_with_slots_needs_one_for_the_lock(slots, in_thread):
    """A `__slots__` class that offers `_threadable_lock` or `__weakref__` works."""
    if slots == "both":
        slots = ("_threadable_lock", "__weakref__")
    cls = fresh(__slots__=slots)
    synchronize(cls)
    threadable.init()
    one, two = cls(), cls()
    assert excluded(in_thread, one.hold, (), one.deposit)
    assert not excluded(in_thread, one.hold, (), two.deposit)
    assert isinstance(one._threadable_lock, threadable.XLock)


def test_a_class_with_slots_and_no_place_is_refused_with_the_reason():
    """Other `__slots__` classes are refused at the declaration, with the reason."""
    cls = fresh(__slots__=("amount",))
    with pytest.raises(
        TypeError, match=r"no room for a lock.*'__weakref__' to __slots"
    ):
        synchronize(cls)
    threadable.init()
    assert cls.__dict__["deposit"] is Account.__dict__["deposit"]


def test_class_methods_need_no_place_in_the_instance():
    """A `__slots__` class may synchronize what belongs to the class."""
    cls = fresh(Registry, __slots__=())
    synchronize(cls)
    threadable.init()
    assert cls.add(1) == (cls, 1)


def test_instances_that_cannot_be_weakly_referenced_hold_their_lock(in_thread):
    """A subclass of tuple has a place in its dict, and that will do."""
    cls = type("Pair", (tuple,), _members(Account))
    synchronize(cls)
    threadable.init()
    pair = cls((1, 2))
    assert excluded(in_thread, pair.hold, (), pair.deposit)
    assert "_threadable_lock" in vars(pair)
    assert not excluded(in_thread, copy.copy(pair).hold, (), pair.deposit)


# -- copies and pickles ----------------------------------------------------------------


class Copyable(Account):
    """At the top of the module, so that pickle finds it."""

    def __init__(self):
        self.amount = 1


class CopyableInside:
    __slots__ = ("_threadable_lock", "amount")
    synchronized = ["hold", "deposit"]
    hold, deposit = Account.hold, Account.deposit

    def __init__(self):
        self.amount = 1


def _pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("cls", [Copyable, CopyableInside])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, _pickled])
@pytest.mark.parametrize("used", [False, True])
def test_no_lock_travels_with_a_copy(cls, duplicate, used, in_thread):
    """Copies and pickles of an instance work, and have a lock of their own."""
    synchronize(cls)
    threadable.init()
    account = cls()
    if used:
        account.deposit()
    gate = Gate()
    holding = in_thread(account.hold, gate)
    assert gate.entered.wait(20)
    twin = duplicate(account)
    assert twin.amount == 1
    assert in_thread(twin.deposit, 4).result() == 4
    assert in_thread(duplicate(twin).deposit, 5).result() == 5
    gate.opened.set()
    holding.result()
    assert twin._threadable_lock is not account._threadable_lock
    if cls is Copyable:
        assert vars(twin) == vars(account) == {"amount": 1}


# -- what is refused -------------------------------------------------------------------


async def coroutine(self):
    """Runs later."""


def generator(self):
    """Runs later."""
    yield


async def async_generator(self):
    """Runs later."""
    yield


LATER = [coroutine, generator, async_generator]


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("kind", [lambda f: f, classmethod, staticmethod, property])
def test_what_runs_later_is_refused_at_the_declaration(later, kind):
    """`async def`, generators and async generators are refused, with the reason."""
    cls = fresh(Account, synchronized=["later"], later=kind(later))
    with pytest.raises(TypeError, match=r"later cannot be synchronized.*guard nothing"):
        synchronize(cls)


@pytest.mark.parametrize("later", LATER)
def test_the_decorator_refuses_what_runs_later(later):
    """The decorator refuses them, too, where it stands."""
    with pytest.raises(TypeError, match=f"{later.__name__} cannot be synchronized"):
        synchronized(later)


@pytest.mark.parametrize("later", LATER)
def test_an_override_that_runs_later_is_refused(later):
    """A subclass cannot override a synchronized method with one that runs later."""
    base = fresh()
    synchronize(base)
    threadable.init()
    with pytest.raises(TypeError, match="guard nothing"):
        type("Sub", (base,), {"deposit": later})


def test_a_generator_that_has_hooks_is_still_refused():
    """A hook around a generator does not hide what it is."""
    cls = fresh(Account, synchronized=["later"], later=generator)
    hook.addPre(cls, "later", lambda self: None)
    with pytest.raises(TypeError, match="generator"):
        synchronize(cls)


def test_an_override_that_runs_later_is_reported_at_init():
    """One that was there before `init()` is reported by it; the others are locked."""
    base, other = fresh(), fresh()
    synchronize(base, other)
    keep = type("Sub", (base,), {"deposit": generator})
    with pytest.raises(TypeError, match=r"Sub\.deposit cannot be synchronized"):
        threadable.init()
    assert keep.__dict__["deposit"] is generator
    assert threadable.threaded is True
    assert hook.pre_hooks(other, "deposit") == (threadable._synchPre,)


def test_several_classes_that_cannot_be_locked_are_reported_together():
    """Two classes with such an override are reported as a group."""
    keep = []
    for _ in "ab":
        base = fresh()
        synchronize(base)
        keep.append(type("Sub", (base,), {"deposit": generator}))
    with pytest.raises(ExceptionGroup, match="2 classes cannot be synchronized"):
        threadable.init()


def test_a_class_without_a_list_is_refused():
    """A class without `synchronized` is told to have one."""
    with pytest.raises(AttributeError, match="has no list `synchronized`"):
        synchronize(type("Empty", (), {}))


def test_a_name_that_is_no_attribute_is_refused():
    """A misspelt name is found at the declaration, and none of the classes declared."""
    good, bad = fresh(), fresh(synchronized=["depsoit"])
    with pytest.raises(AttributeError, match="names 'depsoit'"):
        synchronize(good, bad)
    threadable.init()
    assert good.__dict__["deposit"] is Account.__dict__["deposit"]


def test_a_string_is_no_list():
    """`synchronized = "deposit"` is refused: its letters name no methods."""
    with pytest.raises(TypeError, match="the string 'deposit'"):
        synchronize(fresh(synchronized="deposit"))


def test_what_cannot_be_called_is_refused():
    """A plain attribute cannot be synchronized."""
    with pytest.raises(TypeError, match="it is a int"):
        synchronize(fresh(synchronized=["amount"], amount=3))


# -- the decorator ---------------------------------------------------------------------


def test_the_decorator_leaves_the_function_as_it_was():
    """`@synchronized` is the same mechanism: without threads, nothing is wrapped."""

    def deposit(self):
        """Put money in."""

    class Decorated:
        locals()["deposit"] = synchronized(deposit)

    assert Decorated.__dict__["deposit"] is deposit
    assert Decorated.synchronized == ["deposit"]
    threadable.init()
    assert hook.pre_hooks(Decorated, "deposit") == (threadable._synchPre,)
    hook.removePre(Decorated, "deposit", threadable._synchPre)
    hook.removePost(Decorated, "deposit", threadable._synchPost)
    assert Decorated.__dict__["deposit"] is deposit


def test_the_decorator_stands_above_others(in_thread):
    """`@synchronized` works on properties, class and static methods."""
    threadable.init()

    class Decorated:
        @synchronized
        def hold(self, gate):
            gate.wait()

        @synchronized
        @property
        def value(self):
            return 3

        @synchronized
        @classmethod
        def make(cls):
            return cls()

        @synchronized
        @staticmethod
        def count():
            return 4

    one = Decorated.make()
    assert excluded(in_thread, one.hold, (), lambda: one.value)
    assert Decorated.count() == 4
    assert Decorated.synchronized == ["hold", "value", "make", "count"]


def test_the_decorator_in_the_wrong_place_says_so():
    """Below another decorator, or outside a class, it says where it belongs."""

    class Wrong:
        @property
        @synchronized
        def value(self):
            return 3

    with pytest.raises(TypeError, match="above other decorators"):
        _ = Wrong().value

"""Hooks, removal, synchronization and inheritance in any mixture."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import threadable
from threadable import hook

NAMES = ("plain", "of_class", "static", "value")
PRES = tuple((lambda *args, _n=n, **kwargs: None) for n in range(3))
POSTS = tuple((lambda *args, _n=n, **kwargs: None) for n in range(3))


class Written:
    """What the tests copy their classes from."""

    def plain(self, number=1):
        return number

    @classmethod
    def of_class(cls, number=1):
        return number

    @staticmethod
    def static(number=1):
        return number

    @property
    def value(self):
        return 1


def family(overrides):
    """A base and three descendants, each with the methods named for it."""
    classes = []
    bases = [(), (0,), (1,), (0,)]
    for position, (parents, names) in enumerate(zip(bases, overrides, strict=True)):
        members = {name: vars(Written)[name] for name in names}
        parent = tuple(classes[i] for i in parents)
        classes.append(type(f"Class{position}", parent, members))
    return classes


OVERRIDES = st.tuples(
    st.just(NAMES), *[st.lists(st.sampled_from(NAMES), unique=True) for _ in range(3)]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["addPre", "removePre"]),
            st.integers(0, 3),
            st.sampled_from(NAMES),
            st.sampled_from(PRES),
        ),
        st.tuples(
            st.sampled_from(["addPost", "removePost"]),
            st.integers(0, 3),
            st.sampled_from(NAMES),
            st.sampled_from(POSTS),
        ),
        st.tuples(
            st.just("synchronize"),
            st.integers(0, 3),
            st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
        ),
        st.tuples(st.just("init")),
        st.tuples(st.just("call"), st.integers(0, 3)),
    ),
    max_size=30,
)


def use(cls):
    """Call everything; the values must pass through."""
    thing = cls()
    assert thing.plain(2) == 2
    assert thing.plain(number=3) == 3
    assert cls.of_class(4) == 4
    assert cls.static(5) == thing.static(number=5) == 5
    assert thing.value == 1


def has_hooks(cls, name):
    """Tell whether any hook is left on what *cls* itself has."""
    return hook.find(cls, name) is not None


@given(overrides=OVERRIDES, steps=STEPS)
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_after_any_mixture_the_original_objects_come_back(switch, overrides, steps):
    """Whatever was hooked, removed and locked: in the end every original is back."""
    switch._threaded = None
    switch._waiting[:] = [threadable._synchronize._lock_waiting]
    threadable._synchronize._waiting.clear()
    classes = family(overrides)
    before = [dict(vars(cls)) for cls in classes]
    for step in steps:
        take(classes, *step)
    for cls in classes:
        use(cls)
    for cls in classes:
        strip(cls)
    for cls, members in zip(classes, before, strict=True):
        for name in NAMES:
            assert vars(cls).get(name) is members.get(name)
            assert (name in vars(cls)) == (name in members)
        use(cls)


def take(classes, action, position=0, *details):
    """Do one step; a removal of what is not there must be refused, and do nothing."""
    cls = classes[position]
    if action == "init":
        threadable.init()
    elif action == "call":
        use(cls)
    elif action == "synchronize":
        cls.synchronized = details[0]
        threadable.synchronize(cls)
    elif action.startswith("add"):
        getattr(hook, action)(cls, *details)
    else:
        name, function = details
        found = hook.find(cls, name)
        kind = "pres" if action == "removePre" else "posts"
        there = found is not None and function in getattr(found, kind)
        try:
            getattr(hook, action)(cls, name, function)
        except hook.HookError:
            assert not there
        else:
            assert there


def strip(cls):
    """Remove every hook by the public way, the locks' included."""
    for name in NAMES:
        while has_hooks(cls, name):
            found = hook.find(cls, name)
            if found.pres:
                hook.removePre(cls, name, found.pres[-1])
            else:
                hook.removePost(cls, name, found.posts[0])

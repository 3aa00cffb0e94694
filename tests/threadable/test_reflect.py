"""Looking things up by name and along the hierarchy."""

# ruff: noqa: RUF012 - lists that nobody changes

from __future__ import annotations

import collections
import importlib
import os
import sys
from pathlib import Path

import pytest

from threadable import reflect


class Base:
    """A parent with methods under a prefix."""

    items = ["b1", "b2"]
    table = {"a": "base", "b": "base"}
    opt_number = 3

    def opt_(self):
        return "the bare prefix"

    def opt_help(self):
        return "base help"

    def opt_quiet(self):
        return "quiet"

    def other(self):
        return "other"


class Sub(Base):
    """Adds, and overrides."""

    items = ["s1"]
    table = {"b": "sub", "c": "sub"}

    def opt_help(self):
        return "sub help"

    def opt_loud(self):
        return "loud"


class Silent(Sub):
    """Says nothing of its own."""


class Left(Base):
    items = ["l"]
    table = {"side": "left"}


class Right(Base):
    items = ["r"]
    table = {"side": "right"}


class Both(Left, Right):
    items = ["both"]


def test_prefixed_methods_are_bound_and_include_those_of_superclasses():
    """`prefixedMethods(obj, prefix)` gives bound methods, superclasses included."""
    methods = reflect.prefixedMethods(Sub(), "opt_")
    assert [method() for method in methods] == ["sub help", "quiet", "loud"]


def test_prefixed_methods_without_prefix_are_all():
    """Without a prefix all methods count."""
    names = [method.__name__ for method in reflect.prefixedMethods(Base())]
    assert names == ["opt_", "opt_help", "opt_quiet", "other"]


def test_method_names_are_put_into_a_dictionary_without_their_prefix():
    """`addMethodNamesToDict`: superclasses included, the bare prefix and data not."""
    dct = {"mine": 7}
    reflect.addMethodNamesToDict(Sub, dct, "opt_")
    assert dct == {"mine": 7, "help": 1, "quiet": 1, "loud": 1}


def test_method_names_can_be_limited_to_children_of_a_base():
    """With *baseClass*, only classes that have it as a direct base are asked."""
    dct = {}
    reflect.addMethodNamesToDict(Sub, dct, "opt_", Base)
    assert dct == {"help": 1, "loud": 1}


def test_prefixed_method_names_are_a_list():
    """`prefixedMethodNames(cls, prefix)` gives the names, superclasses first."""
    assert reflect.prefixedMethodNames(Sub, "opt_") == ["help", "quiet", "loud"]


def test_class_lists_append_base_first():
    """`accumulateClassList`: base first, subclasses append."""
    found = ["before"]
    reflect.accumulateClassList(Sub, "items", found)
    assert found == ["before", "b1", "b2", "s1"]


def test_an_inherited_list_is_counted_once():
    """A subclass that has no list of its own does not count its base's again."""
    found = []
    reflect.accumulateClassList(Silent, "items", found)
    assert found == ["b1", "b2", "s1"]


def test_below_a_diamond_each_class_is_asked_once():
    """Two ways up to one base count its list once."""
    found = []
    reflect.accumulateClassList(Both, "items", found)
    assert found == ["b1", "b2", "r", "l", "both"]


def test_class_lists_can_be_limited_to_children_of_a_base():
    """With *baseClass*, only classes that have it as a direct base are asked."""
    found = []
    reflect.accumulateClassList(Silent, "items", found, Base)
    assert found == ["s1"]


def test_class_dictionaries_merge_and_the_closest_wins():
    """`accumulateClassDict`: what is closest to the class wins."""
    found = {"mine": 1}
    reflect.accumulateClassDict(Silent, "table", found)
    assert found == {"mine": 1, "a": "base", "b": "sub", "c": "sub"}
    sides = {}
    reflect.accumulateClassDict(Both, "table", sides)
    assert sides["side"] == Both.__mro__[1].table["side"] == "left"
    limited = {}
    reflect.accumulateClassDict(Silent, "table", limited, Base)
    assert limited == {"b": "sub", "c": "sub"}


def test_methods_are_accumulated_from_a_class_on():
    """`accumulateMethods(obj, dct, prefix, curClass)`: bound, and as obj has them."""
    found = {}
    reflect.accumulateMethods(Sub(), found, "opt_", Base)
    assert {name: method() for name, method in found.items()} == {
        "help": "sub help",
        "quiet": "quiet",
    }


# -- names -----------------------------------------------------------------------------


def test_named_module_gives_the_module_itself():
    """`namedModule("os.path")` is os.path, not os."""
    assert reflect.namedModule("os.path") is os.path
    with pytest.raises(ModuleNotFoundError):
        reflect.namedModule("no_such_module_at_all")


def test_named_object_and_named_class_are_one():
    """`namedObject` and `namedClass` give an attribute of a module."""
    assert reflect.namedObject("os.path.join") is os.path.join
    assert reflect.namedClass is reflect.namedObject
    with pytest.raises(reflect.ObjectNotFound, match=r"'os\.path' has no 'jion'"):
        reflect.namedObject("os.path.jion")
    with pytest.raises(reflect.InvalidName, match="give the module"):
        reflect.namedObject("join")


def test_named_any_imports_the_longest_prefix():
    """`namedAny` gives packages, modules and what is inside them."""
    assert reflect.namedAny("os") is os
    assert reflect.namedAny("os.path") is os.path
    assert reflect.namedAny("importlib.util") is importlib.util
    name = "collections.OrderedDict.fromkeys"
    assert reflect.namedAny(name) == collections.OrderedDict.fromkeys


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "x.", "os..path"])
def test_named_any_refuses_what_cannot_be_a_name(name):
    """Empty names and empty parts are InvalidName, which is a ValueError."""
    with pytest.raises(reflect.InvalidName) as caught:
        reflect.namedAny(name)
    assert type(caught.value) is reflect.InvalidName
    assert isinstance(caught.value, ValueError)


def test_named_any_names_what_it_could_not_find():
    """A missing module and a missing attribute are told apart and named."""
    with pytest.raises(reflect.ModuleNotFound, match="'no_such_module'"):
        reflect.namedAny("no_such_module")
    with pytest.raises(reflect.ObjectNotFound, match="named 'no_such_module'"):
        reflect.namedAny("no_such_module.attribute")
    with pytest.raises(reflect.ObjectNotFound, match=r"'os\.path' has no 'nothing'"):
        reflect.namedAny("os.path.nothing.more")
    with pytest.raises(AttributeError, match=r"'os\.path\.join' has no 'nothing'"):
        reflect.namedAny("os.path.join.nothing")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A package with broken modules."""
    folder = tmp_path / "brokenpack"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "imports.py").write_text("import no_such_module_inside\n")
    (folder / "itself.py").write_text("import brokenpack.itself.missing\n")
    (folder / "raises.py").write_text("raise RuntimeError('inside')\n")
    (folder / "value.py").write_text("raise ImportError('on purpose')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("brokenpack")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("imports", ModuleNotFoundError, "no_such_module_inside"),
        ("imports.attribute", ModuleNotFoundError, "no_such_module_inside"),
        ("itself.missing", ModuleNotFoundError, "brokenpack.itself"),
        ("raises", RuntimeError, "inside"),
        ("raises.attribute", RuntimeError, "inside"),
        ("value", ImportError, "on purpose"),
    ],
)
def test_errors_inside_an_imported_module_propagate(packages, name, error, text):
    """A module that is there and broken is not "not found"."""
    for function in (reflect.namedAny, reflect.requireModule):
        with pytest.raises(error, match=text):
            function(f"brokenpack.{name}")


def test_require_module_gives_a_default_for_what_is_absent(packages):
    """`requireModule(name, default)`: the module, or the default if there is none."""
    assert reflect.requireModule("os.path") is os.path
    assert reflect.requireModule("no_such_module") is None
    assert reflect.requireModule("brokenpack.absent", 3) == 3
    assert reflect.requireModule("os.path.join.x", 3) == 3


def function():
    """At the top of its module."""


def test_names_of_things():
    """`qual`, `fullyQualifiedName` and `fullFuncName` lead from things to names."""
    here = __name__
    assert reflect.qual(Sub) == f"{here}.Sub"
    assert reflect.fullyQualifiedName(Sub) == f"{here}.Sub"
    assert reflect.fullyQualifiedName(os.path) == os.path.__name__
    assert reflect.fullyQualifiedName(function) == f"{here}.function"
    assert reflect.fullyQualifiedName(Sub.opt_loud) == f"{here}.Sub.opt_loud"
    assert reflect.fullyQualifiedName(Sub().opt_loud) == f"{here}.Sub.opt_loud"
    assert reflect.fullFuncName(function) == f"{here}.function"


def test_full_func_name_must_lead_back():
    """A function that its name does not lead to has no full name."""
    with pytest.raises(reflect.ObjectNotFound, match="has no '<lambda>'"):
        reflect.fullFuncName(lambda: None)

    def function():
        """Has the name of another one."""

    with pytest.raises(reflect.ObjectNotFound, match="is another object"):
        reflect.fullFuncName(function)


def test_filename_to_module_name(tmp_path, monkeypatch):
    """A file's module name has the packages above it."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "leaf.py").write_text("")
    (tmp_path / "alone.py").write_text("")
    to_name = reflect.filenameToModuleName
    assert to_name(str(inner / "leaf.py")) == "outer.inner.leaf"
    assert to_name(str(inner / "__init__.py")) == "outer.inner"
    assert to_name(f"{inner}/") == "outer.inner"
    assert to_name(str(tmp_path / "alone.py")) == "alone"
    monkeypatch.chdir(inner)
    assert to_name("leaf.py") == "outer.inner.leaf"
    assert to_name(reflect.__file__) == "threadable.reflect"
    assert Path("leaf.py").exists()


def test_get_class_asks_the_object():
    """`getClass(obj)` is what the object says its class is."""
    assert reflect.getClass(Sub()) is Sub
    assert reflect.getClass(Sub) is type


def test_queue_method_notes_calls():
    """A QueueMethod stands for a method to come, and notes name and arguments."""
    calls = []
    method = reflect.QueueMethod("render", calls)
    method(1, "two")
    method()
    assert calls == [("render", (1, "two")), ("render", ())]
    assert repr(method) == "<QueueMethod 'render', 2 call(s) noted>"


# -- safe texts ------------------------------------------------------------------------


class BrokenMeta(type):
    """Its classes cannot even tell their name."""

    def __getattribute__(cls, name):
        raise RuntimeError("meta")


class Error(Exception):
    """Cannot be shown either."""

    def __str__(self):
        raise RuntimeError("str")

    __repr__ = __str__


def broken(error):
    """An object whose texts raise *error*."""

    class Broken(metaclass=BrokenMeta):
        def __repr__(self):
            raise error

        __str__ = __repr__

        def __getattribute__(self, name):
            raise RuntimeError("getattribute")

    return Broken()


@pytest.mark.parametrize(
    "error", [ValueError("why"), Error(), KeyboardInterrupt(), SystemExit(3)]
)
@pytest.mark.parametrize("function", [reflect.safe_repr, reflect.safe_str])
def test_safe_texts_never_raise(function, error):
    """`safe_repr` and `safe_str` give a text whatever the object does."""
    text = function(broken(error))
    assert text.startswith("<Broken at 0x")
    assert type(error).__name__ in text


def test_safe_texts_are_the_usual_ones_where_possible():
    """Where nothing fails they are `repr` and `str`, and bytes are read."""
    assert reflect.safe_repr("x") == "'x'"
    assert reflect.safe_str(3) == "3"
    assert reflect.safe_str("ö".encode()) == "ö"
    assert reflect.safe_str(b"\xff") == "b'\\xff'"


def test_safe_repr_of_something_endless():
    """An object whose repr recurses for ever has a text, too."""

    class Endless:
        def __repr__(self):
            return repr(self)

    assert "RecursionError" in reflect.safe_repr(Endless())

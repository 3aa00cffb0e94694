"""The paper's own listing, in today's Python and otherwise as it was written."""

# ruff: noqa: N815, RUF012 - the old vocabulary, and lists that nobody changes

from __future__ import annotations

import threading

import pytest

import threadable
from threadable import hook, reflect, usage


def listing_one(*klasses):
    """Put the two hooks around each method that a class lists."""
    pre, post = threadable._synchPre, threadable._synchPost
    for klass in klasses:
        for m in klass.synchronized:
            hook.addPre(klass, m, pre)
            hook.addPost(klass, m, post)


def test_listing_one_synchronizes_by_hooks(in_thread):
    """`for m in klass.synchronized: addPre(klass, m, pre); addPost(klass, m, post)`."""

    class Account:
        synchronized = ["hold", "deposit"]

        def hold(self, inside, go_on):
            inside.set()
            assert go_on.wait(20)

        def deposit(self, amount):
            return amount

    listing_one(Account)
    account = Account()
    inside, go_on = threading.Event(), threading.Event()
    holding = in_thread(account.hold, inside, go_on)
    assert inside.wait(20)
    lock = threadable._instance_lock.locks[id(account)]
    assert in_thread(lock.acquire, False).result() is False
    go_on.set()
    holding.result()
    assert account.deposit(5) == 5


def test_listing_one_works_on_class_methods():
    """The paper's hooks lock a class that is their first argument."""

    class Registry:
        synchronized = ["add", "count"]

        @classmethod
        def add(cls):
            return cls

        @staticmethod
        def count():
            return 3

    listing_one(Registry)
    assert Registry.add() is Registry
    assert Registry.count() == 3


@pytest.mark.parametrize("slots", [("_threadable_lock",), ("__weakref__",), ()])
def test_listing_one_on_classes_with_slots(slots):
    """Without `synchronize`, the lock is found or refused at the first call."""

    class Slotted:
        __slots__ = slots
        synchronized = ["deposit"]

        def deposit(self, amount):
            return amount

    listing_one(Slotted)
    if slots:
        assert Slotted().deposit(3) == 3
    else:
        with pytest.raises(TypeError, match="no room for a lock"):
            Slotted().deposit(3)


class Options(usage.Options):
    """Looks at itself as the paper's Options does."""

    optFlags = [["quiet", "q"]]

    def opt_verbose(self):
        """Say more."""

    def collected(self):
        dct = {}
        reflect.addMethodNamesToDict(self.__class__, dct, "opt_")
        flags = []
        reflect.accumulateClassList(self.__class__, "optFlags", flags)
        return dct, flags


class MoreOptions(Options):
    """Appends to what its base has."""

    optFlags = [["loud", "l"]]

    def opt_extra(self):
        """Say even more."""


def test_options_are_collected_as_in_the_paper():
    """Names and lists along the hierarchy, with the calls the paper writes."""
    dct, flags = MoreOptions().collected()
    assert dct == {"help": 1, "version": 1, "verbose": 1, "extra": 1}
    assert flags == [["quiet", "q"], ["loud", "l"]]


class ServerOptions(usage.Options):
    """The options of the paper's server."""

    optFlags = [
        ["nodaemon", "n"],
        ["profile", "p"],
        ["threaded", "t"],
        ["quiet", "q"],
        ["no_save", "o"],
    ]
    optStrings = [
        ["logfile", "l", None],
        ["file", "f", "twistd.tap"],
        ["python", "y", ""],
        ["pidfile", "", "twistd.pid"],
        ["rundir", "d", "."],
    ]

    def opt_plugin(self, pkgname):
        """Take the application from a plug-in."""
        self.python = f"{pkgname}/config.tac"

    opt_g = opt_plugin


def test_the_server_options_have_their_defaults():
    """Flags are false and strings their defaults, as attributes and by key."""
    config = ServerOptions()
    config.parseOptions([])
    assert not any(
        (config.nodaemon, config.profile, config.threaded, config.quiet, config.no_save)
    )
    assert config.logfile is None
    assert config.file == config["file"] == "twistd.tap"
    assert (config.python, config.pidfile, config.rundir) == ("", "twistd.pid", ".")


def test_the_server_options_are_read():
    """`twistd -n -o --logfile x -d /tmp --pidfile p` says what it seems to say."""
    config = ServerOptions()
    line = "-n --no_save --threaded --logfile x -d /tmp --pidfile=p"
    config.parseOptions(line.split())
    assert config.nodaemon
    assert config.no_save
    assert config.threaded
    assert not config.quiet
    assert (config.logfile, config.rundir, config.pidfile) == ("x", "/tmp", "p")


@pytest.mark.parametrize("line", ["-g web", "-gweb", "--plugin web", "--plugin=web"])
def test_the_plugin_is_an_alias_of_a_file(line):
    """`-g PKG` is `--plugin PKG`, and means `-y PKG/config.tac`."""
    config = ServerOptions()
    config.parseOptions(line.split())
    assert config.python == config["python"] == "web/config.tac"


@pytest.mark.parametrize("line", ["--g web", "-x", "--port 80", "application"])
def test_what_the_server_does_not_know_is_a_usage_error(line):
    """An unknown option, or an argument where none is taken, is `usage.error`."""
    with pytest.raises(usage.error):
        ServerOptions().parseOptions(line.split())

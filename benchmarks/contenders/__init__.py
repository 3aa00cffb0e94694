"""The work itself: one module per group, one function per contender.

A contender takes a `Load` and returns its figure (or is a coroutine function doing
so). It imports its library inside, because a library that is missing or slow to
import must concern its own process only. Each module has a context manager `stage()`
besides, which prepares what its contenders share and yields its address; and where
calls have an answer, `correct(answer)` says if it is the right one for key 1.
"""

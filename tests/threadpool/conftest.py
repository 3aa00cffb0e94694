"""Fixtures of the first floor."""

from __future__ import annotations

from tests.threadpool.stepping import stage

__all__ = ["stage"]

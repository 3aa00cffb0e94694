"""What the errors of all floors have in common: a code, and where it is explained.

Any thread may enter. The text says the fact, what it means and what to do next; the
code stays when the text gets better, so programs and searches can rely on it.

Source: PostgreSQL's SQLSTATE and the codes of linters, printed behind the text.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as mypy reads it; `typing` itself costs 7 ms to import

if TYPE_CHECKING:
    from typing import Any, ClassVar

__all__ = ["Coded"]

PAGE = "docs/errors.md"


class Coded:
    """A mixin for exceptions, before the exception class it goes with.

    Its text stands in `args` as it was given; only `str` shows the code behind it.

    Attributes:
        code: short and stable, as in "pool-full".
        docs: the page and section that explain it.
    """

    __slots__ = ()

    code: ClassVar[str]
    docs: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.docs = f"{PAGE}#{cls.code}"

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} [{self.code}]" if text else f"[{self.code}]"

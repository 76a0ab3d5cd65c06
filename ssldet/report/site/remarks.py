"""What a page could not show, and why: one part that is damaged or absent hides no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from ssldet.errors import SsldetError

P = ParamSpec("P")
T = TypeVar("T")

DAMAGE = (SsldetError, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a record, a log or a file of matches may end in: anyone may have written or edited it."""


@dataclass(slots=True)
class Remarks:
    """Sentences of one page, in the order in which they came up, each once."""

    sentences: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        """Take in a sentence, once."""
        if sentence not in self.sentences:
            self.sentences.append(sentence)

    def attempt(self, what: str, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What a part of the page is made of; None where it cannot be made, and a remark that says why."""
        try:
            return make(*args, **kwargs)
        except SsldetError as error:
            self.add(f"{what}: {str(error).splitlines()[0]}")
        except DAMAGE as error:
            self.add(f"{what}: what it is made from is damaged ({type(error).__name__}: {error})")
        return None

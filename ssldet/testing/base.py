"""What the contract suites of all kinds share: the tests of docstrings and options, and how a test skips.

A suite is a class of plain test methods without fixtures. pytest collects its subclasses by their names (TestMine);
`ssldet.testing.check` calls the same methods without pytest. Assertions carry their whole message, since nothing
rewrites them in a third party's installation.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import SkipTest

from pydantic import ValidationError

from ssldet.contracts import Options
from ssldet.plugins import option_docs

UNKNOWN = "an_option_that_nobody_has"


def skip(reason: str) -> None:
    """End a test as skipped, under pytest and without it."""
    raise SkipTest(reason)


class Contract:
    """Base of the suites.

    Attributes:
        plugin: the class that is tested.
        config: the options that it is tested with; what is left out has its default.
    """

    plugin: ClassVar[type[Any]]
    config: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def setup_class(cls) -> None:
        """Called once before the tests."""

    @classmethod
    def teardown_class(cls) -> None:
        """Called once after them."""

    def test_it_says_what_it_is(self) -> None:
        """The class has a docstring of its own: `ssldet plugins show` prints it."""
        assert own_docstring(self.plugin), f"{self.plugin.__name__} has no docstring"


class ConfiguredContract(Contract):
    """Base of the suites of plugins with a Config."""

    def test_every_option_is_documented(self) -> None:
        """Each has a string literal below it in the Config, or a Field description."""
        options = self.plugin.Config
        missing = sorted(options.model_fields.keys() - option_docs(options).keys())
        assert not missing, (
            f"{options.__qualname__} says nothing of {', '.join(missing)}; expected 'What it does, its unit.' "
            "as a string literal below each, or Field(description=...)"
        )
        assert not options.model_fields or own_docstring(options), f"{options.__qualname__} has no docstring"

    def test_the_options_have_valid_defaults(self) -> None:
        """The options that are given, and the defaults of the others, pass the Config's own checks."""
        self.options()
        needed = [name for name, field in self.plugin.Config.model_fields.items() if field.is_required()]
        assert needed or self.plugin.Config(), "a Config of defaults alone cannot be built"

    def test_unknown_options_are_refused(self) -> None:
        """A mistyped --set must be an error, not silently without effect."""
        try:
            self.plugin.Config(**{**self.config, UNKNOWN: 1})
        except ValidationError:
            return
        name = self.plugin.Config.__qualname__
        raise AssertionError(f"{name} takes unknown options; derive it from ssldet.contracts.Options")

    def options(self) -> Options:
        """The Config that the tests run with."""
        options: Options = self.plugin.Config(**self.config)
        return options


def own_docstring(of: type[Any]) -> str:
    """A class's docstring, without what it inherits and what `dataclass` writes by itself."""
    text = vars(of).get("__doc__") or ""
    return "" if text.startswith(f"{of.__name__}(") else inspect.cleandoc(text)

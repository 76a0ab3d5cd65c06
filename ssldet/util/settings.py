"""Settings as people write them: KEY=VALUE texts, and values that a typed model takes or refuses.

split_assignment("a=1", ...)    ("a", "1"), whatever the value means
read_assignment("a=1", ...)     ("a", 1), the value in YAML
split_flavour("a:b")            ("a", {"flavour": "b"}), a data set's name in two parts
typed_options(model, values)    the model's instance, or every mistake in words at once
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ssldet.errors import ConfigError, did_you_mean
from ssldet.util.yaml_text import load_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)


def split_assignment(text: str, flag: str, example: str, form: str = "KEY=VALUE") -> tuple[str, str]:
    """The key and the value of "KEY=VALUE", without the blanks around them.

    Args:
        text: what the user wrote.
        flag: what it was written after, such as "--set", for the message.
        example: a right one, for the message.
        form: what such texts look like, for the message.

    Raises:
        ConfigError: the text has no "=" or no key.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"{flag} {text!r}: expected {form}, such as {example}")
    return key, value


def split_flavour(name: str, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """ "synthetic:ucf24" -> the data set's name, and its options with the flavour.

    Raises:
        ConfigError: nothing stands on one side of the colon, or the options name another flavour.
    """
    plain, colon, flavour = name.partition(":")
    options = dict(options or {})
    if not colon:
        return name, options
    if not plain or not flavour:
        raise ConfigError(f"data set {name!r}: expected NAME or NAME:FLAVOUR, such as synthetic:ucf24")
    if options.setdefault("flavour", flavour) != flavour:
        raise ConfigError(f"data set {name!r} has the flavour {flavour}, and dataset.flavour={options['flavour']} too")
    return plain, options


def read_assignment(text: str, example: str, flag: str = "--set") -> tuple[str, Any]:
    """The key of "KEY=VALUE" and its value, read as YAML. Raises ConfigError."""
    key, value = split_assignment(text, flag, example)
    try:
        return key, named(load_yaml(value))
    except yaml.YAMLError as error:
        raise ConfigError(f"{flag} {text!r}: the value is not YAML: {' '.join(str(error).split())}") from error


def named(value: Any) -> Any:
    """The same with text for every key: to YAML `3: x` and `no: x` have other ones, and settings have names."""
    if isinstance(value, Mapping):
        return {str(key): named(each) for key, each in value.items()}
    return [named(each) for each in value] if isinstance(value, list) else value


def typed_options(model: type[Model], values: Mapping[str, Any], prefix: str = "", owner: str = "") -> Model:
    """The typed options of one plugin.

    Args:
        model: its Config.
        values: option -> value; options that are absent have their defaults.
        prefix: stands before each option in messages, such as "dataset.".
        owner: whose options they are, for messages, such as " of data set 'synthetic'".

    Raises:
        ConfigError: an option is unknown or its value refused; one line a mistake.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, model, prefix, owner))) from error


def _set_it(key: str) -> str:
    return f"; give it with --set {key}=VALUE"


def explain(
    error: ValidationError,
    model: type[BaseModel],
    prefix: str = "",
    owner: str = "",
    remedy: Callable[[str], str] = _set_it,
) -> list[str]:
    """One line a mistake that pydantic found: the dotted key, what was expected, what came, what was meant.

    `prefix` and `owner` are those of `typed_options`; `remedy` says of a key that is missing how to give it.
    """
    lines = []
    for item in error.errors():
        key, kind = prefix + ".".join(map(str, item["loc"])), item["type"]
        if kind == "extra_forbidden":
            lines.append(unknown_key(key, [prefix + name for name in field_names(model, item["loc"][:-1])], owner))
        elif kind == "missing":
            lines.append(f"{key} is needed{remedy(key)}")
        else:
            lines.append(_refusal(key if item["loc"] else "", item))
    return lines


def _refusal(key: str, item: ErrorDetails) -> str:
    """Why a value was refused; without a key it is about several fields."""
    message, value = item["msg"].removeprefix("Value error, "), item["input"]
    if not key:
        return message
    came = "" if isinstance(value, dict) else f", not {value!r}"
    near = get_close_matches(value, _choices(item), n=1) if isinstance(value, str) else []
    return f"{key}: {message[0].lower()}{message[1:]}{came}" + (f"; did you mean {near[0]!r}?" if near else "")


def _choices(item: ErrorDetails) -> list[str]:
    """The words among which a value had to be."""
    return re.findall(r"'(\w+)'", str(item.get("ctx", {}).get("expected", "")))


def unknown_key(key: str, known: Sequence[str], owner: str = "") -> str:
    """The message for a key that is none of `known`."""
    return f"unknown option {key!r}{owner}{did_you_mean(key, known)}"


def field_names(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The dotted names of the fields at a place inside a model."""
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return [".".join([*map(str, path), name]) for name in model.model_fields]

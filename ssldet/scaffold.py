"""A new plugin: a whole package that installs, does something and passes its own tests, to be changed from there."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template

from ssldet import plugins
from ssldet._version import __version__
from ssldet.errors import ConfigError, RequestError, UnknownName

PLACES = {
    ("common", "pyproject.toml"): "pyproject.toml",
    ("common", "README.md"): "README.md",
    ("kind", "plugin.py"): "src/$name/__init__.py",
    ("kind", "test_plugin.py"): "tests/test_$name.py",
}
"""Template, of all kinds or of one -> its place in the new package."""


def write(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the package of a new plugin into `folder`, whole or not at all.

    Args:
        kind: of plugin.
        name: its plugin name, which its distribution and its module have too.
        folder: made here; it must not exist.

    Returns:
        The files, relative to the folder.

    Raises:
        UnknownName: there is no such kind. ConfigError: the name cannot be used.
        RequestError: the folder exists or cannot be written.
    """
    if kind not in plugins.KINDS:
        raise UnknownName("kind of plugin", kind, plugins.KINDS)
    _check_name(kind, name)
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise RequestError(f"{folder} exists already; name another place with --folder, or remove it")
    contents = render(kind, name)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent) as temporary:
            whole = Path(temporary, "package")
            for place, text in contents.items():
                (whole / place).parent.mkdir(parents=True, exist_ok=True)
                (whole / place).write_text(text, encoding="utf-8")
            shutil.copymode(folder.parent, whole)
            whole.rename(folder)
    except OSError as error:
        raise RequestError(f"cannot write {folder}: {error.strerror or error}") from error
    return sorted(contents)


def render(kind: str, name: str) -> dict[Path, str]:
    """The files of the package: path -> text."""
    templates = files("ssldet") / "scaffolds"
    texts = {
        place: (templates / (kind if whose == "kind" else whose) / f"{template}.tmpl").read_text(encoding="utf-8")
        for (whose, template), place in PLACES.items()
    }
    values = {
        "name": name,
        "class_name": _class_name(kind, name, "".join(texts.values())),
        "kind": kind,
        "group": plugins.GROUPS[kind],
        "contract": f"{kind.capitalize()}Contract",
        "requires": accepted_versions(__version__),
    }
    return {
        Path(Template(place).substitute(values)): Template(text).substitute(values) for place, text in texts.items()
    }


def accepted_versions(version: str) -> str:
    """The requirement on ssldet of what is written for a version of it: from here to the next major version."""
    from packaging.version import Version

    running = Version(version)
    lowest = version if running.is_prerelease else f"{running.major}.{running.minor}"
    return f">={lowest},<{running.major + 1}"


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a plugin and its module; expected letters, digits and underscores, a letter first "
            "and no underscore last, and no word of Python's own"
        )
    if name in plugins.names(kind):
        raise ConfigError(f"a {kind} {name!r} is installed already (see `ssldet plugins list`); take another name")
    found = importlib.util.find_spec(name)
    if found is not None and found.origin is not None:  # a mere folder of that name hides nothing
        raise ConfigError(f"a module {name!r} is installed already ({found.origin}); take another name")


def _class_name(kind: str, name: str, templates: str) -> str:
    """`my_teacher` -> MyTeacher; with its kind behind it where the templates use that word for something else."""
    found = "".join(part[0].upper() + part[1:] for part in name.split("_") if part)
    while re.search(rf"\b{found}\b", templates):
        found += kind.capitalize()
    return found

"""The code of the plugins that a run uses: a fingerprint that says when it was another.

A run's id hashes no code. Records keep these fingerprints, tables mark means over runs of different code, and a first
stage that a plugin of others trained is made again when its code changes; one that ssldet's own plugins trained is
reused and marked, as it is after any change of ssldet.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssldet import plugins
from ssldet.plugins import PluginInfo

OURS = "ssldet"
"""The distribution of the core and of first-party plugins."""

SUFFIXES = (".py", ".so", ".pyd")
"""What counts as code."""


def plugin_code(used: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """The code of installed plugins as it is when this process first asks for it.

    Args:
        used: pairs of kind and name.

    Returns:
        "KIND NAME" -> its `distribution`, `version` and `code`: the SHA-256 of all code of its package, or of its
        module where it is in none; None where there is no such file. What is not installed is left out.
    """
    wanted = set(used)
    offers = {(info.kind, info.name): info for kind in plugins.KINDS for info in plugins.available(kind)}
    return {f"{kind} {name}": _about(offers[kind, name]) for kind, name in sorted(wanted & offers.keys())}


def _about(info: PluginInfo) -> dict[str, Any]:
    return {"distribution": info.distribution, "version": info.version, "code": _code(info.target.partition(":")[0])}


def _code(module: str) -> str | None:
    root = None
    with suppress(ImportError, ValueError):  # its entry point names what is not there; using it says so
        root = _root(module.strip().split("."))
    return _hash_below(root) if root else None


def _root(parts: list[str]) -> Path | None:
    """The folder of the outermost package that is no namespace, or the file of a module outside packages."""
    for depth in range(1, len(parts) + 1):
        spec = importlib.util.find_spec(".".join(parts[:depth]))
        if spec is None:
            return None
        if spec.origin and spec.has_location:
            file = Path(spec.origin)
            return file.parent if spec.submodule_search_locations else file
    return None


@lru_cache(maxsize=64)
def _hash_below(root: Path) -> str:
    """Of names and contents; kept, since what was imported is what runs, whatever becomes of the files."""
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
    digest = hashlib.sha256()
    for file in files:
        name, content = file.relative_to(root.parent).as_posix().encode(), file.read_bytes()
        digest.update(b"%d %s %d " % (len(name), name, len(content)) + content)
    return digest.hexdigest()


def of_others(code: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Plugin -> fingerprint, without ssldet's own plugins."""
    return {plugin: about["code"] for plugin, about in code.items() if about["distribution"] != OURS}


def changed_plugins(then: Mapping[str, Any]) -> dict[str, Any]:
    """Plugins whose code is not what a recorded provenance has; what is recorded without a fingerprint is left out.

    Returns:
        "KIND NAME" -> what was recorded of it.
    """
    before = then.get("plugins", {})
    now = plugin_code(tuple(plugin.split(" ", 1)) for plugin in before)
    return {
        plugin: about
        for plugin, about in before.items()
        if about.get("code") and about["code"] != now.get(plugin, {}).get("code")
    }


def codes_differ(provenances: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any plugin has several fingerprints among recorded provenances."""
    codes: dict[str, set[str]] = {}
    for provenance in provenances:
        for plugin, about in provenance.get("plugins", {}).items():
            codes.setdefault(plugin, set()).update([about["code"]] if about.get("code") else [])
    return any(len(several) > 1 for several in codes.values())

"""Lazy discovery of plugins: what is installed, without importing it; and one plugin's class, when it is used.

A plugin is an entry point of a group in `GROUPS`. Listing reads installed metadata only. A broken plugin is
an error when it is used and nobody's concern before that; with SSLDET_STRICT_PLUGINS=1 any fault of any
plugin is an error at once. `check` finds out what importing one does, in a process of its own.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssldet._version import __version__
from ssldet.errors import PluginError, UnknownName

if TYPE_CHECKING:
    from ssldet.contracts import Options

GROUPS = {
    "dataset": "ssldet.datasets",
    "backbone": "ssldet.backbones",
    "strategy": "ssldet.strategies",
    "metric": "ssldet.metrics",
    "executor": "ssldet.executors",
    "tracker": "ssldet.trackers",
}
"""Kind of plugin -> its entry-point group."""

KINDS = tuple(GROUPS)

STRICT_VARIABLE = "SSLDET_STRICT_PLUGINS"

OLDER_API = (
    "it seems to be written for an older API: update it, install the ssldet that it was made for, or change it as "
    "docs/upgrading.md says"
)

SLOW_SECONDS = 5.0
"""An import that takes longer is a fault: every command that uses the plugin waits for it."""


@dataclass(frozen=True, slots=True, order=True)
class PluginInfo:
    """What the installed metadata says of one plugin.

    `target` is "module:Class"; `requires` the versions of ssldet that its distribution accepts, "" where it says none.
    """

    kind: str
    name: str
    target: str
    distribution: str
    version: str
    requires: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a plugin, or with the metadata of a whole distribution."""

    distribution: str
    reason: str
    version: str = ""

    def __str__(self) -> str:
        return f"{' '.join(filter(None, (self.distribution, self.version)))}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Check:
    """What came of importing a plugin: "ok", "slow" (it works, and takes more than SLOW_SECONDS), or "broken"."""

    status: Literal["ok", "slow", "broken"]
    seconds: float | None = None
    reason: str = ""


def available(kind: str) -> list[PluginInfo]:
    """The plugins of a kind, ordered by name, nothing imported. A name given twice is listed twice.

    Raises:
        UnknownName: there is no such kind.
        PluginError: in strict mode, when installed metadata cannot be read, a name is given twice, or a plugin is made
            for another version of ssldet.
    """
    if kind not in GROUPS:
        raise UnknownName("kind of plugin", kind, KINDS)
    plugins, unreadable = _scan()
    if strict() and (found := unreadable + _faults_by_metadata(plugins)):
        raise PluginError("; ".join(map(str, found)))
    return [plugin for plugin in plugins if plugin.kind == kind]


def names(kind: str) -> list[str]:
    """The names of a kind, sorted, each once."""
    return sorted({plugin.name for plugin in available(kind)})


def load(kind: str, name: str) -> type[Any]:
    """The class of one plugin; imports its module and no other.

    Raises:
        UnknownName: no distribution offers the name; says what exists.
        PluginError: the plugin is broken, offered by two distributions, or written for another API.
    """
    plugins = available(kind)
    if strict():
        _refuse_any_fault()
    offers = [plugin for plugin in plugins if plugin.name == name]
    if not offers:
        raise UnknownName(kind, name, {plugin.name for plugin in plugins})
    if len(offers) > 1:
        raise PluginError(_duplicate_reason(offers))
    if _scan()[1]:
        _spare_numba()
    return load_offer(offers[0])


def load_offer(plugin: PluginInfo) -> type[Any]:
    """The class that one offer of a plugin names. Raises PluginError where it cannot be used."""
    if unfit := incompatible(plugin):
        raise PluginError(f"{plugin} cannot be used: {unfit}")
    found = _import(plugin)
    if reason := _misfit(plugin.kind, found):
        raise PluginError(f"{plugin} cannot be used: {plugin.target} {reason}")
    return found


def _spare_numba() -> None:
    """Let numba look for its extensions here, where a distribution with unreadable metadata does no harm.

    Before it first compiles it reads the metadata of everything installed, once; what it cannot read would end a run.
    """
    with suppress(Exception):
        from numba.core import entrypoints

        entrypoints.init_all()


def faults(*, imports: bool = False) -> list[Fault]:
    """All that is wrong with the installed plugins; `imports` also imports each of them to find out."""
    plugins, found = _scan()
    found += _faults_by_metadata(plugins)
    loaded = [(plugin, timed_load(plugin)) for plugin in plugins if imports]
    return found + [Fault(plugin.distribution, one.reason, plugin.version) for plugin, one in loaded if one.reason]


def timed_load(plugin: PluginInfo) -> Check:
    """Import one plugin here. The time that torch and the like take is not counted."""
    _import_core(plugin.kind)
    start = time.perf_counter()
    try:
        load_offer(plugin)
    except PluginError as error:
        return Check("broken", round(time.perf_counter() - start, 2), str(error))
    seconds = round(time.perf_counter() - start, 2)
    if seconds > SLOW_SECONDS:
        return Check("slow", seconds, f"{plugin} takes {seconds:.0f} s to import")
    return Check("ok", seconds)


def check(plugin: PluginInfo, timeout: float = 20.0) -> Check:
    """Import a plugin in a process of its own, which may hang, exit or crash, and say what came of it.

    Args:
        plugin: one offer, as `available` lists it.
        timeout: seconds after which the process is ended and the plugin counts as broken.
    """
    offers = offers_by_name(_scan()[0]).get((plugin.kind, plugin.name), [])
    if len(offers) > 1:
        return Check("broken", None, _duplicate_reason(offers))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        with _start_check(plugin, answer) as process:
            assert process.stdout
            process.stdout.readline()  # until the core is imported, which is not the plugin's time
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                return Check("broken", None, f"{plugin} was not imported within {timeout:g} s")
        if not answer.exists():
            return Check("broken", None, f"{plugin} ended the process that imported it (exit {process.returncode})")
        return Check(**json.loads(answer.read_text(encoding="utf-8")))


def _start_check(plugin: PluginInfo, answer: Path) -> subprocess.Popen[bytes]:
    code = f"from ssldet import plugins; plugins.{answer_check.__name__}()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # what is importable here
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, json.dumps(dataclasses.asdict(plugin)), str(answer)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def answer_check() -> None:
    """What `check` runs in the other process: import the plugin of argument 1, write the answer to the file of 2."""
    plugin = PluginInfo(**json.loads(sys.argv[1]))
    _import_core(plugin.kind)
    print("ready", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads what the plugin prints
    found = dataclasses.asdict(timed_load(plugin))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
    os._exit(0)  # neither threads nor exit handlers of the plugin can hold it up


def _import_core(kind: str) -> None:
    """Import the large requirements of the core, which the program waits for before any plugin of a kind."""
    trains = kind in ("strategy", "backbone", "executor")
    for name in ("torch", "torchvision.ops", "timm") if trains else ("numba", "ssldet.contracts"):
        importlib.import_module(name)


def incompatible(plugin: PluginInfo) -> str:
    """Why a plugin's distribution does not accept the running ssldet; "" if it does."""
    if not plugin.requires:
        return ""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(plugin.requires).contains(__version__, prereleases=True):
        return ""
    return f"it needs ssldet{plugin.requires}, and this is ssldet {__version__}"


def strict() -> bool:
    """Whether any fault of any plugin is an error."""
    return os.environ.get(STRICT_VARIABLE, "") not in ("", "0")


def _scan() -> tuple[list[PluginInfo], list[Fault]]:
    """All plugins in order, and the distributions whose metadata cannot be read."""
    plugins, found = _scanned(tuple(sys.path))
    return list(plugins), list(found)


@lru_cache(maxsize=8)
def _scanned(path: tuple[str, ...]) -> tuple[tuple[PluginInfo, ...], tuple[Fault, ...]]:
    """What lies on a search path, read once: a grid asks for it thousands of times.

    Reading entry_points.txt is cheap and parsing METADATA is not, so the names of distributions without plugins are
    never asked for. An editable install can be listed twice (its .dist-info and the .egg-info in its source tree); the
    first is what an import would find.
    """
    plugins: set[PluginInfo] = set()
    found: list[Fault] = []
    seen = set()
    for distribution in distributions():
        try:
            if not _offers_any(distribution):
                continue
            key = re.sub(r"[-_.]+", "-", _name(distribution)).lower()
            if key not in seen:
                seen.add(key)
                plugins.update(_plugins_of(distribution))
        except Exception as error:  # metadata is written by others, in any shape
            reason = f"its metadata cannot be read ({type(error).__name__}: {error})"
            found.append(Fault(_folder_or_name(distribution), reason, _version(distribution)))
    return tuple(sorted(plugins)), tuple(found)


def _offers_any(distribution: Distribution) -> bool:
    text = distribution.read_text("entry_points.txt") or ""
    return any(group in text for group in GROUPS.values())


def _name(distribution: Distribution) -> str:
    name: str | None = distribution.metadata["Name"]
    if not name:
        raise ValueError("it has no name")
    return name


def _folder_or_name(distribution: Distribution) -> str:
    """The name of a distribution, or of its metadata's folder where even the name cannot be read."""
    try:
        return _name(distribution)
    except Exception:  # as above
        return Path(getattr(distribution, "_path", "a distribution without metadata")).name


def _version(distribution: Distribution) -> str:
    try:
        return distribution.metadata["Version"] or "unknown"
    except Exception:  # as above
        return "unknown"


def _plugins_of(distribution: Distribution) -> list[PluginInfo]:
    kinds = {group: kind for kind, group in GROUPS.items()}
    name, version, requires = _name(distribution), _version(distribution), _accepted_versions(distribution)
    return [
        PluginInfo(kinds[point.group], point.name, point.value, name, version, requires)
        for point in distribution.entry_points
        if point.group in kinds
    ]


def _accepted_versions(distribution: Distribution) -> str:
    """The versions of ssldet that a distribution's requirements accept, as ">=0.1,<1"; "" where it names none."""
    ours = [text for text in distribution.requires or () if re.match(r"\s*ssldet\s*($|[\[(<>=!~;@])", text)]
    if not ours:
        return ""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in ours]
    wanted = [one.specifier for one in found if one.marker is None or one.marker.evaluate()]
    return ",".join(sorted({str(bound) for bounds in wanted for bound in bounds}, reverse=True))


def _faults_by_metadata(plugins: list[PluginInfo]) -> list[Fault]:
    """What is wrong with plugins that no import is needed to see."""
    unfit = [
        Fault(plugin.distribution, f"{plugin.kind} {plugin.name!r} cannot be used: {reason}", plugin.version)
        for plugin in plugins
        if (reason := incompatible(plugin))
    ]
    return _duplicates(plugins) + unfit


def _duplicates(plugins: list[PluginInfo]) -> list[Fault]:
    return [
        Fault(plugin.distribution, _duplicate_reason(group), plugin.version)
        for group in offers_by_name(plugins).values()
        for plugin in group
        if len(group) > 1
    ]


def offers_by_name(plugins: Iterable[PluginInfo]) -> dict[tuple[str, str], list[PluginInfo]]:
    """(kind, name) -> its offers; more than one is a fault."""
    offers: dict[tuple[str, str], list[PluginInfo]] = {}
    for plugin in plugins:
        offers.setdefault((plugin.kind, plugin.name), []).append(plugin)
    return offers


def _duplicate_reason(offers: list[PluginInfo]) -> str:
    who = " and ".join(f"{plugin.distribution} {plugin.version} ({plugin.target})" for plugin in offers)
    one = len({plugin.distribution for plugin in offers}) == 1
    remedy = "its author must give each a name of its own" if one else "uninstall one of them"
    return f"{offers[0].kind} {offers[0].name!r} is offered by {who}; {remedy}"


def _refuse_any_fault() -> None:
    if found := faults(imports=True):
        raise PluginError("; ".join(map(str, found)))


def _import(plugin: PluginInfo) -> Any:
    """The object that the entry point names."""
    match = EntryPoint.pattern.match(plugin.target)
    if not match or not match["attr"]:
        raise PluginError(f"{plugin} cannot be used: its target {plugin.target!r} is not of the form module:Class")
    try:
        found: Any = importlib.import_module(match["module"])
        for part in match["attr"].split("."):
            if not hasattr(found, part):
                raise PluginError(f"{plugin} cannot be used: module {match['module']!r} has no {match['attr']!r}")
            found = getattr(found, part)
    except (KeyboardInterrupt, PluginError):
        raise
    except BaseException as error:  # a plugin's module may do anything, sys.exit included
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError) and (error.name or "").split(".")[0] == "ssldet":
            reason += f"; {OLDER_API}"
        raise PluginError(f"{plugin} does not import: {reason}") from error
    return found


def _misfit(kind: str, found: Any) -> str | None:
    """Why an object is not a plugin of a kind; None when it is one."""
    from ssldet import contracts

    base: Any = getattr(contracts, kind.capitalize())
    written_for = str(getattr(found, "api_version", contracts.API_VERSION))
    if written_for.split(".")[0] != contracts.API_VERSION.split(".")[0]:
        return f"is written for API {written_for}, and this is API {contracts.API_VERSION}; see docs/upgrading.md"
    if not (inspect.isclass(found) and issubclass(found, base)):
        return f"is not a class derived from ssldet.contracts.{base.__name__}"
    if missing := _missing(found, base):
        return f"lacks {', '.join(missing)}"
    config = getattr(found, "Config", None) if hasattr(base, "Config") else contracts.Options
    if not (inspect.isclass(config) and issubclass(config, contracts.Options)):
        return "has a Config that is not derived from ssldet.contracts.Options"
    if method := _changed_method(found, base):
        return f"has {method}; {OLDER_API}"
    return None


def _changed_method(found: type[Any], base: type[Any]) -> str | None:
    """A method that cannot be called as this API calls it: how the plugin has it, and how the contract does."""
    for name, declared in vars(base).items():
        method = inspect.getattr_static(found, name, None)
        if not inspect.isfunction(declared) or not inspect.isfunction(method) or method is declared:
            continue
        own, wanted = inspect.signature(method), inspect.signature(declared)
        by_name = {key: None for key, value in wanted.parameters.items() if value.kind is value.KEYWORD_ONLY}
        if base.__name__ == "Dataset" and name == "__init__" and "config" not in own.parameters:
            return _other_call(name, own, wanted)  # options of its own where the Config belongs
        try:
            own.bind(*(None for value in wanted.parameters.values() if value.kind is not value.KEYWORD_ONLY), **by_name)
        except TypeError:
            return _other_call(name, own, wanted)
    return None


def _other_call(name: str, own: inspect.Signature, wanted: inspect.Signature) -> str:
    return f"{name}({', '.join(own.parameters)}), which is called as {name}({', '.join(wanted.parameters)})"


def _missing(found: type[Any], base: type[Any]) -> list[str]:
    """Methods that stayed abstract, and attributes that the contract declares and nobody set."""
    declared = [name for name in inspect.get_annotations(base) if not hasattr(found, name)]
    return sorted({*declared, *getattr(found, "__abstractmethods__", ())})


# ------------------------------------------------------------------------------------------------- option docs


def option_docs(config: type[Options]) -> dict[str, str]:
    """What a Config says of each of its options: the string literal below the field, or `Field(description=...)`.

    An option without a word is not in the answer.
    """
    return {name: field.description for name, field in config.model_fields.items() if field.description}

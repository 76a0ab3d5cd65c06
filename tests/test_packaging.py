"""What the distribution declares, held against the tree; `scripts/wheels` builds, installs and uses it."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ssldet import __version__

ROOT = Path(__file__).resolve().parents[1]
COMPILED = {".pyc", ".nbi", ".nbc"}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def folders(pyproject: dict[str, Any]) -> dict[str, Path]:
    """Declared package -> its folder, as setuptools finds it: its own entry, or below its parent's."""
    places = pyproject["tool"]["setuptools"]["package-dir"]

    def folder(package: str) -> Path:
        parent, _, name = package.rpartition(".")
        return ROOT / places[package] if package in places else folder(parent) / name

    return {package: folder(package) for package in pyproject["tool"]["setuptools"]["packages"]}


def test_every_package_of_the_tree_is_declared(folders: dict[str, Path]) -> None:
    found = {file.parent for top in ("ssldet", "plugins") for file in (ROOT / top).rglob("__init__.py")}
    found |= {ROOT / "benchmarks" / "paper", ROOT / "benchmarks" / "beyond", ROOT / "results"}
    assert set(folders.values()) == found
    assert all((folder / "__init__.py").is_file() for folder in folders.values())


def test_every_data_file_is_declared(pyproject: dict[str, Any], folders: dict[str, Path]) -> None:
    declared = pyproject["tool"]["setuptools"]["package-data"]
    packed = {path for package, globs in declared.items() for glob in globs for path in folders[package].glob(glob)}
    tops = [folder for package, folder in folders.items() if package != "ssldet.results"]  # runs lie there too
    there = {
        path for top in tops for path in top.rglob("*") if path.is_file() and path.suffix not in COMPILED | {".py"}
    }
    assert there == {path for path in packed if ROOT / "results" not in path.parents}
    assert ROOT / "results" / "paper.yaml" in packed


def test_no_declared_glob_is_in_vain(pyproject: dict[str, Any], folders: dict[str, Path]) -> None:
    for package, globs in pyproject["tool"]["setuptools"]["package-data"].items():
        assert not [glob for glob in globs if not any(folders[package].glob(glob))]


def test_the_version_has_one_source(pyproject: dict[str, Any]) -> None:
    assert "version" not in pyproject["project"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ssldet._version.__version__"}
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assigned = [
        path for path in (ROOT / "ssldet").rglob("*.py") if re.search(r"^__version__ *=", path.read_text(), re.M)
    ]
    assert assigned == [ROOT / "ssldet" / "_version.py"]
    assert str(Version(__version__)) == __version__


def test_the_python_versions_that_it_runs_on_are_declared(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    prefix = "Programming Language :: Python :: 3."
    minors = [int(name.removeprefix(prefix)) for name in project["classifiers"] if name.startswith(prefix)]
    assert minors == [11, 12, 13]
    accepted = [minor for minor in range(14) if SpecifierSet(project["requires-python"]).contains(f"3.{minor}")]
    assert accepted == minors


def test_others_ask_for_a_python_that_ssldet_runs_on(pyproject: dict[str, Any]) -> None:
    """The template of new plugins, the example, and the tools that check the code."""
    least = pyproject["project"]["requires-python"]
    template = (ROOT / "ssldet" / "scaffolds" / "common" / "pyproject.toml.tmpl").read_text()
    assert f'requires-python = "{least}"' in template
    for file in (ROOT / "docs" / "examples").glob("*/pyproject.toml"):
        assert tomllib.loads(file.read_text())["project"]["requires-python"] == least
    assert least == f">={pyproject['tool']['mypy']['python_version']}"


def test_every_requirement_accepts_its_pin(pyproject: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonical(one.name): one for one in map(Requirement, lines[1:])}
    project = pyproject["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    wanted = [*pyproject["build-system"]["requires"], *project["dependencies"], *extras]
    for one in map(Requirement, wanted):
        assert canonical(one.name) in pins, f"{one.name} has no pin in constraints.txt"
        (pin,) = pins[canonical(one.name)].specifier
        assert one.specifier.contains(pin.version), f"{one} does not accept the pin {pin}"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_sdist_names_files_that_exist() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text().splitlines()
    named = [word for line in manifest if line.startswith(("include", "graft")) for word in line.split()[1:]]
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_citation_names_the_paper_and_the_licence(pyproject: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == pyproject["project"]["license"]
    assert [one["url"] for one in citation["references"]] == ["https://arxiv.org/abs/2507.21247"]

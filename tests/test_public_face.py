"""What the package promises on its face: exports, one version, a documented contract, a quick command line."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import ssldet
from ssldet import contracts

ROOT = Path(__file__).resolve().parents[1]

CONTRACTS = [
    found for _, found in inspect.getmembers(contracts, inspect.isclass) if found.__module__ == contracts.__name__
]


def test_all_names_what_is_exported() -> None:
    assert len(set(ssldet.__all__)) == len(ssldet.__all__)
    for name in ssldet.__all__:
        assert getattr(ssldet, name) is not None
    assert set(ssldet.__all__) <= set(dir(ssldet))


def test_the_module_is_the_command() -> None:
    said = subprocess.run([sys.executable, "-m", "ssldet", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"ssldet, version {ssldet.__version__}"


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ssldet._version.__version__"}
    assert ssldet.__version__ == importlib.metadata.version("ssldet")


def test_every_package_of_the_tree_is_in_the_distribution() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / folder for name, folder in settings["package-dir"].items()}
    found = {
        ".".join([name, *init.parent.relative_to(folder).parts])
        for name, folder in folders.items()
        for init in folder.rglob("__init__.py")
    }
    assert sorted(settings["packages"]) == sorted(found)
    assert {path.name for path in (ROOT / "plugins").glob("ssldet_*")} <= folders.keys()


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_every_class_of_the_contract_is_documented(contract: type) -> None:
    tree = ast.parse(inspect.getsource(contract))
    assert ast.get_docstring(tree.body[0]), f"{contract.__name__} has no docstring of its own"


@pytest.mark.parametrize("kind", ["Dataset", "Backbone", "Strategy", "Metric"])
def test_every_method_of_a_contract_is_documented(kind: str) -> None:
    contract = getattr(contracts, kind)
    methods = [value for name, value in vars(contract).items() if callable(value) and not name.startswith("_")]
    assert methods and [method.__name__ for method in methods if not method.__doc__] == []


def test_a_strategy_is_a_short_file() -> None:
    """Where one grows, the contract is missing something."""
    lengths = {
        path.name: len(path.read_text().splitlines()) for path in (ROOT / "plugins/ssldet_strategies").glob("*.py")
    }
    assert len(lengths) >= 5 and max(lengths.values()) < 200, lengths


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ssldet.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'pandas', 'av'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )

    def seconds() -> float:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage:" in done.stdout
        return time.perf_counter() - start

    assert any(seconds() < 0.3 for _ in range(10))  # once is enough: the machine may be busy


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, ssldet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

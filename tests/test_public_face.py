"""What the package promises on its face: exports, one version, a documented contract, a quick command line."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ssldet
from ssldet import contracts
from ssldet.testing.base import own_docstring

ROOT = Path(__file__).resolve().parents[1]


def stub_of(face: str) -> Path:
    """The list of what a package hands out."""
    return ROOT / Path(*face.split(".")) / "__init__.pyi"


FACES = [".".join(stub.parent.relative_to(ROOT).parts) for stub in sorted((ROOT / "ssldet").rglob("__init__.pyi"))]
PUBLIC = [(face, name) for face in FACES for name in importlib.import_module(face).__all__ if name != "__version__"]

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


@pytest.mark.parametrize(("face", "name"), PUBLIC, ids=[".".join(pair) for pair in PUBLIC])
def test_every_public_name_is_documented(face: str, name: str) -> None:
    found = getattr(importlib.import_module(face), name)
    text = own_docstring(found) if inspect.isclass(found) else found.__doc__ if callable(found) else literal(face, name)
    assert text, f"{face}.{name} has no docstring of its own"


def literal(face: str, name: str) -> str:
    """The string literal below a constant, in the module that the stub of a face takes it from."""
    stub = ast.parse(stub_of(face).read_text())
    module = next(node.module for node in stub.body if isinstance(node, ast.ImportFrom) and node.names[0].name == name)
    body = ast.parse((stub_of(face).parent / f"{module}.py").read_text()).body
    places = [i for i, node in enumerate(body) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    below = body[places[0] + 1]
    assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant), f"{name} stands without a word"
    return str(below.value.value)


def test_every_public_name_is_on_a_page_of_the_documentation() -> None:
    """The pages name single functions, or a module with all that it hands out; mkdocstrings fills them in."""
    pages = re.findall(r"^  *- .*: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    text = "\n".join((ROOT / "docs" / page).read_text() for page in pages)
    shown = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    assert shown >= {"ssldet.contracts"}
    assert [f"{face}.{name}" for face, name in PUBLIC if not {face, f"{face}.{name}"} & shown] == []


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_every_class_of_the_contract_is_documented(contract: type) -> None:
    tree = ast.parse(inspect.getsource(contract))
    assert ast.get_docstring(tree.body[0]), f"{contract.__name__} has no docstring of its own"


@pytest.mark.parametrize("kind", ["Dataset", "Backbone", "Strategy", "Metric", "Executor", "Tracker"])
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


def test_help_imports_nothing_heavy_and_little_at_all() -> None:
    """Most of the time that help takes goes into imports, which, unlike seconds, do not hang on the machine."""
    code = (
        "import sys\nfrom ssldet.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'pandas', 'av'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else f'{len(sys.modules)} modules' if len(sys.modules) > 200 else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, ssldet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

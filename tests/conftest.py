"""What all tests share: where the real data lies, one thread, and no network or user folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)  # a slow machine is no failure
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of numbers that the published code produced; its README says how."""
    return Path(__file__).resolve().parent / "oracles"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data beside the repository; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, expected at {folder}")
    return folder


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Give every test the same random numbers, whatever ran before it in its process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's cache folder. All processes of a session share one: data are made once."""
    base = tmp_path_factory.getbasetemp()
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("SSLDET_CACHE", str(session / "ssldet-cache"))

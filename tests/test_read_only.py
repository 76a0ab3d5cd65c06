"""An installation that cannot be written, without a home folder: what works, and what says which folder to name.

And data, into whose folder nothing is written.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numba.core import caching

import ssldet.ops
from ssldet import doctor, plugins
from ssldet.data.frame_store import FrameStore
from ssldet.ops import iou
from ssldet.ops.compiled import compiled


@pytest.fixture
def no_folder_for_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba finds no folder that it can write, as beside read-only code without a home."""
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])


def imported_anew(name: str) -> ModuleType:
    path = Path(ssldet.ops.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"anew_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("no_folder_for_numba")
def test_loops_are_compiled_where_nothing_can_be_kept() -> None:
    boxes_n4 = np.array([[0.0, 0.0, 10.0, 10.0]])
    assert imported_anew("iou").paired_iou(boxes_n4, boxes_n4 + np.array([5.0, 0.0, 5.0, 0.0])) == pytest.approx(1 / 3)
    imported_anew("tubes")


def test_what_was_compiled_is_kept_where_it_can_be() -> None:
    report = doctor.Report()
    assert doctor.folders(Path("results"), report)["compiled code"].startswith("kept in ")
    assert not any("NUMBA_CACHE_DIR" in problem for problem in report.problems)


@pytest.mark.usefixtures("no_folder_for_numba")
def test_doctor_says_which_folder_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iou, "box_iou", compiled()(iou.box_iou.py_func))
    report = doctor.Report()
    assert doctor.folders(Path("results"), report)["compiled code"] == "not kept"
    assert any("set NUMBA_CACHE_DIR to a folder that can be written" in problem for problem in report.problems)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """All files and folders below one, with size and time of change."""
    status = {path: path.stat() for path in folder.rglob("*")}
    return {str(path): (found.st_size, found.st_mtime_ns) for path, found in status.items()}


@pytest.mark.parametrize("name", ["ucf24", "jhmdb", "ava", "folder"])
def test_nothing_is_written_into_the_data(tmp_path: Path, name: str) -> None:
    """So data on a file system that may only be read are as good as any. Permissions would not hold root back."""
    plugin = plugins.load("dataset", name)
    plugin.write_stand_in(tmp_path / "data")
    before = tree(tmp_path / "data")
    dataset = plugin(tmp_path / "data", plugin.Config())
    dataset.verify()
    videos = [video for subset in ("train", "test") for video in dataset.videos(subset)]
    for video in videos:
        dataset.truth(video.id)
    FrameStore(dataset, 16, tmp_path / "cache").prepare(videos[:2], skip_damaged=True)
    assert dataset.fingerprint() and tree(tmp_path / "data") == before

"""Features of frozen layers kept between runs: no number changes, and damaged files or a full disk stop nothing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import QUICK
from torch import Tensor, nn

from ssldet.config import resolve
from ssldet.detector import feature_cache
from ssldet.detector.feature_cache import FeatureCache, cached_features, layers_digest, use_feature_cache
from ssldet.runs.record import Record
from ssldet.runs.runner import run
from ssldet.util import cache
from ssldet_backbones import lite_weights
from ssldet_backbones.lite_images import LiteImages


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path / "cache"))
    yield
    use_feature_cache(0)


class Doubling:
    """Makes maps of images, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor, maker: str = "a" * 64) -> list[Tensor]:
        def compute() -> list[Tensor]:
            self.calls += 1
            return [each.contiguous(memory_format=torch.channels_last) for each in (2 * images, images[:, 1:])]

        return list(cached_features(lambda: maker, images, compute))


def files() -> list[Path]:
    return sorted(path for path in (cache.cache_root() / feature_cache.FOLDER).rglob("*") if path.is_file())


def test_the_same_input_is_computed_once() -> None:
    doubling, images = Doubling(), torch.rand(2, 3, 5, 4)
    use_feature_cache(1)
    first, second = doubling(images), doubling(images.clone())
    assert doubling.calls == 1 and len(files()) == 1
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()


@pytest.mark.parametrize(
    "other",
    [
        lambda images: (images + 1e-7, "a" * 64),
        lambda images: (images.reshape(2, 3, 4, 5), "a" * 64),
        lambda images: (images.flip(0), "a" * 64),
        lambda images: (images, "b" * 64),
    ],
    ids=["pixels", "shape", "order", "layers"],
)
def test_what_differs_in_anything_is_computed_anew(other: Callable[[Tensor], tuple[Tensor, str]]) -> None:
    doubling, images = Doubling(), torch.rand(2, 3, 5, 4)
    use_feature_cache(1)
    doubling(images)
    changed, maker = other(images)
    assert torch.equal(doubling(changed, maker)[0], 2 * changed)
    assert doubling.calls == 2


def test_nothing_is_kept_unasked_or_under_other_precision() -> None:
    doubling, images = Doubling(), torch.rand(2, 3, 5, 4)
    doubling(images)
    use_feature_cache(1)
    with torch.autocast("cpu", torch.bfloat16):
        doubling(images)
    assert doubling.calls == 2 and not files()


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-9], lambda c: c[:40] + b"x" + c[41:], lambda c: b"", lambda c: b"abc"]
)
def test_a_damaged_file_is_made_again(damage: Callable[[bytes], bytes]) -> None:
    doubling, images = Doubling(), torch.rand(2, 3, 5, 4)
    use_feature_cache(1)
    doubling(images)
    [file] = files()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert torch.equal(doubling(images)[0], 2 * images)
    assert doubling.calls == 2 and file.read_bytes() == whole


def test_what_was_not_read_for_longest_is_removed(tmp_path: Path) -> None:
    kept = FeatureCache(tmp_path / "kept", capacity=7_000)
    maps = [torch.rand(1, 250, 1, 1)]  # more than 1,000 bytes a file
    for name in "abcdef":
        kept.write(name, maps)
        os.utime(kept.folder / name, (ord(name), ord(name)))
    assert kept.read("a") is not None  # now the youngest
    kept.write("g", maps)
    names = {path.name for path in kept.folder.iterdir()}
    assert sum(path.stat().st_size for path in kept.folder.iterdir()) <= 7_000
    assert {"a", "g"} <= names and "b" not in names


def test_a_full_disk_ends_the_keeping_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    doubling, images = Doubling(), torch.rand(2, 3, 5, 4)
    use_feature_cache(1)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match="no more features are kept in .*No space left"):
        assert torch.equal(doubling(images)[0], 2 * images)
    doubling(images + 1)  # silent from here on
    assert not files()


def test_layers_are_named_by_values_names_and_code(tmp_path: Path) -> None:
    code = tmp_path / "layers.py"
    code.write_text("one form")
    layers = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    digests = [layers_digest(layers, str(code)), layers_digest(nn.Sequential(nn.Identity(), *layers), str(code))]
    layers[1].running_mean[0] += 1e-6  # type: ignore[index, operator]
    digests.append(layers_digest(layers, str(code)))
    code.write_text("another form")
    digests.append(layers_digest(layers, str(code)))
    assert len(set(digests)) == 4


# ------------------------------------------------------------------------------------------------------ whole runs


def lite_run(results: Path, strategy: str, gigabytes: float) -> Record:
    asked: dict[str, Any] = {"strategy": strategy, "dataset": "synthetic:jhmdb", "ratio": 0.5, "results": results}
    asked |= {"pretrained": True, "eval_on": "val", "val_fraction": 0.2, "feature_cache_gb": gigabytes, "workers": 1}
    sets = [*QUICK, "train.steps=8", "dataset.train_per_class=4", "dataset.test_per_class=1"]
    return run(resolve(asked, preset="lite", assignments=sets))


def test_runs_share_features_and_no_number_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if lite_weights.installed() is None:
        pytest.skip(f"no weights of yowo_lite: {lite_weights.PLACE}")
    frames: list[int] = []
    compute = LiteImages._computed_folded

    def counted(images: LiteImages, images_bchw: Tensor) -> list[Tensor]:
        frames.append(len(images_bchw))
        return compute(images, images_bchw)

    monkeypatch.setattr(LiteImages, "_computed_folded", counted)
    records: list[Record] = []
    computed: list[int] = []
    for strategy, gigabytes in (("fixmatch", 0), ("mean_teacher", 1), ("fixmatch", 1)):
        frames.clear()
        records.append(lite_run(tmp_path / str(gigabytes), strategy, gigabytes))
        computed.append(sum(frames))
    alone, _, after_another = records
    assert alone.id == after_another.id and alone.metrics == after_another.metrics
    assert _losses(tmp_path / "0", alone.id) == _losses(tmp_path / "1", alone.id)
    assert computed[2] == 0 < computed[0]
    assert any(entry.name.startswith("features/") for entry in cache.entries())


def _losses(results: Path, run_id: str) -> list[Any]:
    [log] = results.glob(f"*-{run_id}/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [(line["losses"], line["gradient_norm"], line["pseudo_labels"]) for line in lines]

"""Complete runs held against what they must reach. Minutes each: run by scripts/acceptance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(arguments: list[str], cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", "from ssldet.cli import main; main()", "run", *arguments, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "SSLDET_CACHE": str(cache)}
    )
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


@pytest.mark.acceptance
@pytest.mark.real
@pytest.mark.parametrize("strategy", ["supervised", "dual_guidance"])
def test_the_nano_preset_learns_the_real_jhmdb(shared: Path, tmp_path: Path, strategy: str) -> None:
    """Protocol yowo, split 1, seed 0, 20 % labelled: 132 of 660 training videos, all 268 test videos."""
    asked = ["--strategy", strategy, "--dataset", "jhmdb", "--ratio", "0.2", "--preset", "nano"]
    record = run([*asked, "--data-root", str(shared / "data"), "--results", str(tmp_path / "runs")], tmp_path / "cache")
    assert record["split"] | {"hash": ""} == {"hash": "", "labelled": 132, "unlabelled": 528, "evaluated": 268}
    metrics = record["metrics"]
    assert metrics["frame_map"]["yowo"]["thresholds"]["0.5"]["mean"] >= 0.12
    assert metrics["video_map"]["yowo"]["thresholds"]["0.5"]["mean"] >= 0.12
    recall = metrics["recall"]
    assert recall["notes"]["annotated_frames"] == 9126
    assert recall["localization"] >= 0.50
    assert recall["localization"] > 1.5 * recall["classification"]
    print(strategy, record["training"], recall)


@pytest.mark.acceptance
def test_the_synthetic_data_set_is_a_task(tmp_path: Path) -> None:
    """The script exits 1 where a linear classifier comes near the network, or the network does not learn."""
    script = ROOT / "benchmarks" / "synthetic_task.py"
    done = subprocess.run([sys.executable, str(script), "--results", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)

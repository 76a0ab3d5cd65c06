"""What is read beside the numbers of a table: differences, contrasts, intervals, ranks and costs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_matches import FACTS as MADE
from made_matches import made_videos, scored
from made_records import write_run
from made_tables import entry, table

from ssldet.evaluation.per_video import ScoredVideo, per_video, read_per_video, write_per_video
from ssldet.report.contrasts import Contrast, Difference, paired, with_holm
from ssldet.report.resampling import draw_videos, mean_scores


def test_interval_of_paired_differences() -> None:
    found = paired({0: 16.0, 1: 19.0, 2: 19.0, 3: 99.0}, {0: 10.0, 1: 12.0, 2: 14.0})
    assert (found.mean, found.n) == (6.0, 3)
    half = 4.302652729911275 / math.sqrt(3)  # Student's t of 2 degrees at 0.975; the deviation of 6, 7, 5 is 1
    assert (found.low, found.high) == (pytest.approx(6 - half), pytest.approx(6 + half))


def test_differences_without_interval_say_why() -> None:
    one = paired({0: 3.0}, {0: 1.0})
    assert (one.mean, one.low, one.n) == (2.0, None, 1) and "one pair" in one.why
    assert paired({0: 3.0}, {1: 1.0}) == Difference(why="no seed in common")
    assert "has not been run" in paired({0: 3.0}, {}).why


def test_p_value_of_paired_differences() -> None:
    found = paired({0: 16.0, 1: 19.0, 2: 19.0}, {0: 10.0, 1: 12.0, 2: 14.0})
    t = 6 * math.sqrt(3)  # of 6, 7, 5; with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    equal = paired({0: 14.1, 1: 11.5}, {0: 13.9, 1: 11.3})  # but for rounding, which is no evidence
    assert (equal.n, equal.low, equal.p) == (2, None, None) and "all equal" in equal.why


def test_holm_corrects_all_contrasts_of_a_table_together() -> None:
    values = [0.01, 0.04, 0.03, None]
    contrasts = [Contrast("a", "b", False, (Difference(1.0, p=p), None)) for p in values]
    adjusted = [contrast.differences[0] and contrast.differences[0].adjusted_p for contrast in with_holm(contrasts)]
    assert adjusted == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]
    assert with_holm([]) == ()


def test_contrasts_pair_the_rows_that_a_table_names(tmp_path: Path) -> None:
    for seed, (ours, teacher) in enumerate([(0.16, 0.10), (0.19, 0.12), (0.19, 0.14)]):
        write_run(tmp_path, "Dual Guidance", ours, seed=seed)
        write_run(tmp_path, "Mean-Teacher", teacher, seed=seed)
    (contrast,) = table(tmp_path).contrasts
    assert (contrast.title, contrast.pretrained) == ("Dual Guidance - Mean-Teacher", False)
    by_column = dict(
        zip([(c.metric.title, c.ratio) for c in table(tmp_path).columns], contrast.differences, strict=True)
    )
    difference = by_column["V@0.5", 0.2]
    assert difference and difference.mean == pytest.approx(6) and difference.n == 3
    assert difference.adjusted_p == pytest.approx(3 * (difference.p or 0))  # three columns with the same numbers
    assert by_column["V@0.5", 0.3] is not None and by_column["V@0.5", 0.3].mean is None


def write_tested(root: Path, approach: str, slip: float, **options: Any) -> None:
    """A run with the scores and matches of a small made-up test set; boxes lie off by `slip`."""
    cases = made_videos(1, videos=9, slip=slip)
    ours = scored(cases, metrics={"video_map": ["yowo"]})
    key = {key: value.mean for key, value in ours.results["video_map"]["yowo"].thresholds.items()}
    run = write_run(root, approach, key, **options)
    (folder,) = root.glob(f"*-{run}")
    write_per_video(folder / "per_video.parquet", per_video(MADE, 1, [video for video, _, _ in cases], ours.matches))


def test_differences_have_an_interval_over_test_videos(tmp_path: Path) -> None:
    write_tested(tmp_path, "Supervised", 1.5)
    write_tested(tmp_path, "Dual Guidance", 0.5)
    difference = entry(table(tmp_path), "Dual Guidance").difference
    assert difference and difference.mean and difference.video_low is not None and difference.video_high is not None
    assert (difference.low, difference.video_why) == (None, "")  # one seed has no interval over seeds
    kept = {p.parent.name.split("-")[1]: read_per_video(p).matches for p in tmp_path.glob("*/per_video.parquet")}
    weights = draw_videos([ScoredVideo(v.id, v.group, v.classes) for v, _, _ in made_videos(1, videos=9)]).weights_dv
    matches = [kept[name]["video_map"]["yowo"] for name in ("dual_guidance", "supervised")]
    ours, base = (mean_scores(of_run, "0.5", weights) for of_run in matches)
    low, high = np.quantile(100 * 2 / 3 * (ours - base), [0.025, 0.975])  # a third class has no truth and counts as 0
    assert (difference.video_low, difference.video_high) == (pytest.approx(low), pytest.approx(high))
    assert difference.video_low <= difference.mean <= difference.video_high


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    write_tested(tmp_path, "Supervised", 1.5)
    run = write_run(tmp_path, "Dual Guidance")
    difference = entry(table(tmp_path), "Dual Guidance").difference
    assert difference and difference.video_low is None and difference.mean is not None
    assert re.match(f"run {run} has no per_video.parquet in .*; it keeps no detections.parquet", difference.video_why)


def test_matches_of_another_run_give_no_interval(tmp_path: Path) -> None:
    write_tested(tmp_path, "Supervised", 1.5)
    write_tested(tmp_path, "Dual Guidance", 0.5)
    files = {path.parent.name.split("-")[1]: path for path in tmp_path.glob("*/per_video.parquet")}
    files["dual_guidance"].write_bytes(files["supervised"].read_bytes())
    difference = entry(table(tmp_path), "Dual Guidance").difference
    assert difference and difference.video_low is None
    assert re.search(r"per_video\.parquet is not of run .*; `ssldet runs rescore", difference.video_why)


def test_ranks_are_means_over_columns_with_an_interval_over_test_videos(tmp_path: Path) -> None:
    for seed in (0, 1):
        assert table(tmp_path).ranks == ()  # one seed orders nothing
        for ratio in (0.2, 0.3):
            write_tested(tmp_path, "Supervised", 1.5, ratio=ratio, seed=seed)
            write_tested(tmp_path, "Dual Guidance", 0.2, ratio=ratio, seed=seed)
        write_run(tmp_path, "FixMatch", 0.9, seed=seed)  # has no number at 30 %, and no rank
    shown = table(tmp_path)
    assert shown.few_groups == 3  # all classes of so small a test set
    ties_at_low_overlap = {"Supervised": pytest.approx(5 / 3), "Dual Guidance": pytest.approx(4 / 3)}
    ranks = {shown.lines[rank.line].row.approach: rank for rank in shown.ranks}
    assert {name: rank.rank for name, rank in ranks.items()} == ties_at_low_overlap
    assert {rank.cells for rank in ranks.values()} == {6}
    interval = ranks["Dual Guidance"].interval
    assert interval and 1 <= interval.low <= interval.high <= 2


def test_costs_are_means_over_the_runs_of_a_cell(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, "FixMatch", seed=seed)
    shown = table(tmp_path, cost=True)
    assert table(tmp_path).costs == {}
    ((place, cost),) = shown.costs.items()
    assert shown.lines[place[0]].row.approach == "FixMatch" and place[1] == 0.2
    assert (cost.gradient_clips, cost.teacher_clips, cost.hours) == (80, 40, pytest.approx(0.5))

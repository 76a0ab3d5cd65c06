"""The AP of drawn videos is what the evaluator gives for them, and the draws are what they are said to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_matches import FACTS, MULTI, Case, made_videos, scored

from ssldet.contracts import DatasetFacts, Matches, PrecisionRule, RankedDetections
from ssldet.evaluation.per_video import ScoredVideo, per_video, read_per_video, write_per_video
from ssldet.report import resampling
from ssldet.report.resampling import (
    average_ranks,
    class_scores,
    draw_videos,
    mean_scores,
    percentile,
    without_each,
)

PROTOCOLS = ("standard", "yowo", "act")
KEYS = ("0.1", "0.5", "0.5:0.95")


def drawn(cases: list[Case], weights_v: np.ndarray) -> list[Case]:
    """Each case as often as it is drawn, its copies under names of their own beside it."""
    return [
        (replace(video, id=f"{video.id}~{copy}"), found, truth)
        for (video, found, truth), weight in zip(cases, weights_v, strict=True)
        for copy in range(weight)
    ]


@pytest.mark.parametrize(
    ("metric", "facts"),
    [("frame_map", FACTS), ("video_map", FACTS), ("frame_map", MULTI)],
    ids=lambda each: str(each)[:12],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_drawn_videos_score_as_the_evaluator_scores_them(metric: str, facts: DatasetFacts, protocol: str) -> None:
    cases = made_videos(5, facts=facts, videos=9, slip=1.5)
    matches = scored(cases, facts, {metric: (protocol,)}).matches[metric][protocol]
    weights_dv = np.random.default_rng(0).multinomial(9, np.full(9, 1 / 9), 10)
    weights_dv = np.concatenate([weights_dv, [[1] * 9, [3, 0, 2, 0, 1, 0, 4, 0, 0], [0, 4, 0, 1, 0, 2, 0, 0, 1]]])
    means = mean_scores(matches, "0.1", weights_dv)
    assert len({round(mean, 6) for mean in means if 0 < mean < 0.99}) > 3  # where nothing differs nothing is shown
    for row, weights_v in enumerate(weights_dv):
        brute_force = scored(drawn(cases, weights_v), facts, {metric: (protocol,)}).results[metric][protocol]
        for key in KEYS:
            scores_k = class_scores(matches, key, weights_dv)[row]
            expected = [brute_force.thresholds[key].per_class[facts.classes[label]] for label in matches.ranked]
            for score, value in zip(scores_k, expected, strict=True):
                assert np.isnan(score) if not value and np.isnan(score) else score == pytest.approx(value, abs=1e-9)
            absent = brute_force.notes.get("classes_without_truth", [])
            assert np.isnan(scores_k).sum() == len(absent)
            present = [value for value, score in zip(expected, scores_k, strict=True) if not np.isnan(score)]
            assert mean_scores(matches, key, weights_dv)[row] == pytest.approx(np.mean(present), abs=1e-9)


def test_the_intervals_agree_with_a_bootstrap_of_the_evaluator(tmp_path) -> None:
    """From the file, as comparisons read it; draws of groups within classes."""
    cases = [case for case in made_videos(5, videos=10, slip=1.5) if len(case[2].frames_n)]
    videos = [video for video, _, _ in cases]
    write_per_video(tmp_path / "m.parquet", per_video(FACTS, 1, videos, scored(cases).matches))
    kept = read_per_video(tmp_path / "m.parquet")
    draws = draw_videos(kept.videos, draws=40, seed=2)
    values = mean_scores(kept.matches["video_map"]["standard"], "0.5", draws.weights_dv)
    brute_force = [
        scored(drawn(cases, weights_v), metrics={"video_map": ("standard",)}).results["video_map"]["standard"]
        for weights_v in draws.weights_dv
    ]
    expected = np.array([result.value("0.5") for result in brute_force], float)
    interval, of_evaluator = percentile(values), percentile(expected)
    assert interval and of_evaluator and of_evaluator.high - of_evaluator.low > 0.05
    assert (interval.low, interval.high) == pytest.approx((of_evaluator.low, of_evaluator.high))


def test_a_difference_is_of_the_same_draws_for_both() -> None:
    better, worse = (scored(made_videos(5, videos=10, slip=slip)).matches["frame_map"]["yowo"] for slip in (0.5, 1.5))
    draws = draw_videos([ScoredVideo(video.id, "", video.classes) for video, _, _ in made_videos(5, videos=10)], 200)
    ours, other = (mean_scores(matches, "0.5", draws.weights_dv) for matches in (better, worse))
    interval = percentile(ours - other)
    assert interval is not None and 0 < interval.low < interval.high < 1
    assert interval.high - interval.low < np.ptp(ours) + np.ptp(other)  # what both owe to a draw cancels


def test_hits_that_stand_in_one_row_are_one_after_the_other() -> None:
    rows = RankedDetections(np.array([0, 1, 0]), np.array([1, 0, 1], np.uint64), np.array([2, 3, 1]))
    matches = Matches(("a", "b"), (0.5,), {"0.5": (0,)}, PrecisionRule(), np.array([[4], [0]]), {0: rows})
    assert class_scores(matches, "0.5", np.array([[1, 1]])) == pytest.approx((1 + 1 + 3 / 6) / 4)


def test_large_rankings_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    matches = scored(made_videos(5)).matches["frame_map"]["yowo"]
    weights_dv = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), 30)
    whole = class_scores(matches, "0.5", weights_dv)
    monkeypatch.setattr(resampling, "_CHUNK", 100)
    monkeypatch.setattr(resampling, "_EXACT", 0)
    assert class_scores(matches, "0.5", weights_dv) == pytest.approx(whole, nan_ok=True)


# --------------------------------------------------------------------------------------------------- draws


def videos(*rows: tuple[str, tuple[int, ...]]) -> list[ScoredVideo]:
    return [ScoredVideo(f"v{place}", group, classes) for place, (group, classes) in enumerate(rows)]


def test_groups_are_drawn_whole_and_within_classes() -> None:
    drawn_from = videos(("x", (0,)), ("x", (0,)), ("y", (0,)), ("x", (1,)), ("", (1,)), ("", (1,)))
    draws = draw_videos(drawn_from, draws=500, seed=1)
    weights_dv = draws.weights_dv
    assert draws.within_classes and draws.groups == {0: 2, 1: 3}
    assert (weights_dv[:, 0] == weights_dv[:, 1]).all()  # one group of one class
    assert (weights_dv[:, 0] + weights_dv[:, 2] == 2).all() and (weights_dv[:, 3:].sum(axis=1) == 3).all()
    assert (weights_dv[:, 0] != weights_dv[:, 3]).any()  # the same group in two classes is drawn for each
    assert (weights_dv[:, 4] != weights_dv[:, 5]).any()  # videos without a group stand alone
    assert weights_dv.mean(axis=0) == pytest.approx(1, abs=0.1)


def test_groups_are_drawn_over_all_videos_where_one_has_several_classes() -> None:
    draws = draw_videos(videos(("x", (0, 1)), ("y", (0,)), ("y", (1,)), ("z", (0,))), draws=300, seed=1)
    assert not draws.within_classes and draws.groups == {0: 3, 1: 2}
    groups_dg = draws.weights_dv[:, [0, 1, 3]]
    assert (groups_dg.sum(axis=1) == 3).all() and (draws.weights_dv[:, 1] == draws.weights_dv[:, 2]).all()
    assert (groups_dg[:, :2].sum(axis=1) == 0).any()  # class 1 is absent from such a draw


def test_draws_follow_from_their_seed() -> None:
    rows = videos(*((f"g{place % 3}", (place % 2,)) for place in range(12)))
    one, same, other = (draw_videos(rows, draws=50, seed=seed).weights_dv for seed in (3, 3, 4))
    assert (one == same).all() and (one != other).any()
    assert len(draw_videos(rows).weights_dv) == 2000


def test_a_class_of_few_groups_is_marked() -> None:
    draws = draw_videos(
        videos(*((f"g{place}", (0,)) for place in range(5)), *((f"g{place}", (1,)) for place in range(4)))
    )
    assert not draws.few(0) and draws.few(1) and draws.few(2)


def test_each_video_is_left_out_once() -> None:
    assert without_each(3).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


# ------------------------------------------------------------------------------------------------- intervals


def test_a_percentile_interval_leaves_as_much_on_either_side() -> None:
    interval = percentile(np.append(np.arange(1001.0), np.nan))
    assert interval is not None and (interval.low, interval.high) == pytest.approx((25, 975))
    assert percentile(np.array([np.nan])) is None


def test_average_ranks() -> None:
    scores_ac = np.array([[0.9, 0.2, 0.5], [0.8, 0.2, 0.6], [0.1, 0.1, 0.7]])
    draws_acd = np.stack([scores_ac, scores_ac[::-1]], axis=2)
    ranks = average_ranks(scores_ac, draws_acd)
    assert [each.rank for each in ranks] == pytest.approx([(1 + 1.5 + 3) / 3, (2 + 1.5 + 2) / 3, (3 + 3 + 1) / 3])
    low, high = np.quantile([5.5 / 3, 7 / 3], [0.025, 0.975])
    assert ranks[0].interval is not None
    assert (ranks[0].interval.low, ranks[0].interval.high) == pytest.approx((low, high))
    assert average_ranks(scores_ac, np.zeros((3, 3, 0)))[0].interval is None

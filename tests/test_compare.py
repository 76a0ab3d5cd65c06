"""`ssldet compare`: intervals that agree with the evaluator, whom it refuses to compare, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from made_matches import FACTS, Case, made_videos, scored
from made_records import config_of, record_of, write_record
from scipy import stats

import ssldet as package
from ssldet import cli
from ssldet.contracts import Matches, Video
from ssldet.errors import RequestError, UnknownName
from ssldet.evaluation.per_video import per_video, write_per_video
from ssldet.report.comparison import Comparison, compare
from ssldet.report.resampling import draw_videos

SLIPS = {"Dual Guidance": 0.8, "Supervised": 1.4}
"""How far the detections of each approach lie off."""

METRICS = {"frame_map": ("yowo", "standard"), "video_map": ("yowo", "standard")}


def cases_of(approach: str, seed: int) -> list[Case]:
    """What a run detects in the same ten videos; the seed moves its boxes."""
    cases = made_videos(5, videos=10, slip=SLIPS[approach])
    rng = np.random.default_rng([len(approach), seed])
    return [
        (video, replace(found, boxes_n4=found.boxes_n4 + rng.normal(0, 4, (len(found), 1)).astype(np.float32)), truth)
        for video, found, truth in cases
    ]


def write_run(
    root: Path,
    approach: str = "Supervised",
    seed: int = 0,
    *,
    change: Callable[[list[Video]], list[Video]] = lambda videos: videos,
    keep: Callable[[dict[str, dict[str, Matches]]], dict[str, dict[str, Matches]]] = lambda matches: matches,
    **options: Any,
) -> Path:
    """A finished run with its record and its per-video matches."""
    cases = cases_of(approach, seed)
    found = scored(cases, FACTS, METRICS)
    data = options.pop("data", "data")
    record = record_of(config_of(approach, seed=seed, **options), data=data)
    folder = write_record(root, record.model_copy(update={"metrics": found.results}))
    videos = change([video for video, _, _ in cases])
    split = options.get("split", 1)
    matches = {
        metric: {
            protocol: replace(each, videos=tuple(sorted(video.id for video in videos))) for protocol, each in of.items()
        }
        for metric, of in keep({name: dict(of) for name, of in found.matches.items()}).items()
    }
    write_per_video(folder / "per_video.parquet", per_video(FACTS, split, videos, matches))
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two approaches with three seeds each, in folders of their own."""
    root = tmp_path_factory.mktemp("compared")
    for approach in SLIPS:
        for seed in range(3):
            write_run(root / approach, approach, seed)
    return root


@pytest.fixture(scope="module")
def comparison(results: Path) -> Comparison:
    return compare(results / "Dual Guidance", results / "Supervised", draws=60, seed=4)


def evaluated(approach: str, weights_v: Sequence[int], metric: str) -> float:
    """The mean over seeds of what the evaluator gives for videos drawn so often, their copies under other names."""
    values = []
    for seed in range(3):
        drawn = [
            (replace(video, id=f"{video.id}~{copy}"), found, truth)
            for (video, found, truth), weight in zip(cases_of(approach, seed), weights_v, strict=True)
            for copy in range(weight)
        ]
        result = scored(drawn, FACTS, {metric: ("standard",)}).results[metric]["standard"]
        values.append(result.value("0.5") or 0.0)
    return float(np.mean(values))


# -------------------------------------------------------------------------------------------------- numbers


def test_intervals_agree_with_a_bootstrap_of_the_evaluator(results: Path) -> None:
    sides = (results / "Dual Guidance", results / "Supervised")
    (column,) = compare(*sides, metrics="frame_map:standard:0.5", draws=25, seed=4).columns
    weights_dv = draw_videos([video for video, _, _ in cases_of("Supervised", 0)], 25, 4).weights_dv  # type: ignore[arg-type]
    gains = [np.subtract(*(evaluated(each, weights_v, "frame_map") for each in SLIPS)) for weights_v in weights_dv]
    assert column.over_videos is not None
    expected = np.quantile(gains, [0.025, 0.975])
    assert (column.over_videos.low, column.over_videos.high) == pytest.approx(expected)
    assert column.over_videos.high - column.over_videos.low > 0.01


def test_means_are_those_of_the_records_and_seeds_are_paired(comparison: Comparison, results: Path) -> None:
    assert [column.title for column in comparison.columns] == ["V@0.5", "F@0.5"]
    values = [
        [scored(cases_of(each, seed), FACTS, METRICS).results["frame_map"]["yowo"].value("0.5") for seed in range(3)]
        for each in SLIPS
    ]
    column = comparison.columns[1]
    assert (column.first, column.second) == pytest.approx([np.mean(each) for each in values])
    test = stats.ttest_rel(*values)
    expected = test.confidence_interval()
    assert column.over_seeds is not None
    assert column.difference == pytest.approx(column.first - column.second)
    assert (column.over_seeds.low, column.over_seeds.high) == pytest.approx((expected.low, expected.high))
    assert column.p == pytest.approx(test.pvalue)


def test_classes_add_up_and_few_groups_are_marked(comparison: Comparison) -> None:
    for column in comparison.columns:
        assert [each.name for each in column.classes] == ["run", "jump"]  # nothing of the third is true
        assert column.difference == pytest.approx(np.mean([each.difference for each in column.classes]))
        assert all(each.few and each.groups < 5 and each.over_videos and each.over_seeds for each in column.classes)


def test_the_share_of_a_video_is_what_it_adds(results: Path) -> None:
    sides = (results / "Dual Guidance", results / "Supervised")
    (column,) = compare(*sides, metrics="frame_map:standard:0.5", draws=1).columns
    whole = np.subtract(*(evaluated(each, [1] * 10, "frame_map") for each in SLIPS))
    shares = []
    for place in range(10):
        weights_v = [int(place != other) for other in range(10)]
        shares.append(whole - np.subtract(*(evaluated(each, weights_v, "frame_map") for each in SLIPS)))
    order = sorted(range(10), key=lambda place: -abs(shares[place]))
    assert [video.id for video in column.videos] == [f"v{place}" for place in order if abs(shares[place]) > 1e-12]
    assert [video.share for video in column.videos][:5] == pytest.approx([shares[place] for place in order[:5]])


def test_the_same_request_gives_the_same_intervals(results: Path) -> None:
    sides = (results / "Dual Guidance", results / "Supervised")
    one, same, other = (
        compare(*sides, metrics="F@0.5", draws=30, seed=seed).columns[0].over_videos for seed in (1, 1, 2)
    )
    assert one == same != other


def test_one_pair_of_seeds_orders_nothing(results: Path) -> None:
    runs = [next(folder for folder in sorted((results / name).iterdir()) if "seed1" in folder.name) for name in SLIPS]
    found = compare(*runs, draws=20)
    assert found.pairs == (1,) and "nothing is ordered by one seed" in found.remarks[0]
    assert all(column.over_seeds is None and column.p is None and column.over_videos for column in found.columns)


def test_seeds_that_one_side_lacks_are_left_out(results: Path) -> None:
    two = ",".join(str(folder) for folder in sorted((results / "Supervised").iterdir()) if "seed2" not in folder.name)
    ids = [folder.rsplit("-", 1)[1] for folder in two.split(",")]
    found = compare(results / "Dual Guidance", ",".join(ids), results=results, draws=20)
    assert found.pairs == (0, 1) and found.second.runs == tuple(ids) and found.first.seeds == (0, 1, 2)
    assert any("left out: 2" in remark for remark in found.remarks)


def test_seeds_of_one_configuration_measure_the_noise(results: Path) -> None:
    ids = [folder.name.rsplit("-", 1)[1] for folder in sorted((results / "Supervised").iterdir())]
    found = compare(ids[0], ids[1], results=results, draws=20)
    assert found.settings == () and found.pairs == () and "No seed in common" in found.remarks[0]
    assert found.columns[1].difference != 0


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("V@0.2", ("video_map", "yowo", "0.2")),
        ("F@0.5:0.95", ("frame_map", "yowo", "0.5:0.95")),
        ("video_map:standard:0.5", ("video_map", "standard", "0.5")),
        ("video_map:0.5:0.95", ("video_map", "yowo", "0.5:0.95")),
    ],
)
def test_a_column_is_named_by_title_or_place(results: Path, name: str, place: tuple[str, str, str]) -> None:
    (column,) = compare(results / "Dual Guidance", results / "Supervised", metrics=name, draws=2).columns
    assert (column.metric, column.protocol, column.key) == place


def test_an_unknown_column_is_refused(results: Path) -> None:
    for name in ("V@0.6", "video_map:act:0.5", "recall:standard:0.5"):
        with pytest.raises(UnknownName, match="unknown column"):
            compare(results / "Dual Guidance", results / "Supervised", metrics=name)


# -------------------------------------------------------------------------------------------------- refusals


def test_a_folder_of_several_configurations_is_refused(results: Path) -> None:
    with pytest.raises(RequestError) as caught:
        compare(results, results / "Supervised")
    said = str(caught.value)
    assert "holds runs of 2 configurations" in said and f"--results {results}" in said
    assert all(folder.name.rsplit("-", 1)[1] in said for name in SLIPS for folder in (results / name).iterdir())
    assert "dual_guidance, ema_decay=0.99, ratio 0.2, nano: " in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": 2}, r"the official split differs: 1 of run \w+ \(dual_guidance.*2 of run \w+ \(supervised"),
        ({"data": "other"}, "the data's fingerprint differs: data of run .* other of run "),
        ({"change": lambda videos: [replace(v, id=f"{v.id}x") for v in videos]}, "the set of test videos differs: "),
        ({"change": lambda videos: [replace(v, group="all") for v in videos]}, "what test video 'v0' is differs: "),
        (
            {"ratio": 0.3, "keep": lambda of: {"frame_map": of["frame_map"]}},
            "by video_map, protocol yowo, 0.5, and run",
        ),
        (
            {"keep": lambda of: {**of, "video_map": {**of["video_map"], "yowo": of["video_map"]["standard"]}}},
            "were not scored alike by video_map, protocol yowo, 0.5",
        ),
    ],
)
def test_runs_that_were_tested_otherwise_are_refused(
    results: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    folder = write_run(tmp_path, **options)
    with pytest.raises(RequestError, match=said):
        compare(results / "Dual Guidance", folder, draws=2)


def test_a_run_without_the_file_is_refused_with_what_makes_it(results: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder / "per_video.parquet").unlink()
    with pytest.raises(RequestError, match=r"has no per_video.parquet .* keeps no detections.parquet .*run --config"):
        compare(results / "Dual Guidance", folder)
    (folder / "detections.parquet").touch()
    with pytest.raises(RequestError, match=f"`ssldet runs rescore {folder}` makes it"):
        compare(results / "Dual Guidance", folder)


@pytest.mark.parametrize("column", ["F@0.5", "V@0.5"])  # of a protocol that skips classes without truth, and not
def test_a_file_of_another_run_is_refused(results: Path, tmp_path: Path, column: str) -> None:
    folder, other = write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1)
    assert compare(results / "Dual Guidance", folder, metrics=column, draws=2)
    (other / "per_video.parquet").rename(folder / "per_video.parquet")
    with pytest.raises(RequestError, match=rf"is not of run \w+: {column} is .* by the record; `ssldet"):
        compare(results / "Dual Guidance", folder, metrics=column, draws=2)


def test_a_run_that_is_not_done_is_refused(results: Path, tmp_path: Path) -> None:
    write_record(tmp_path, record_of(config_of(), None, status="failed", notes={"error": "it broke"}))
    with pytest.raises(RequestError, match=r"no finished run to compare: .*it broke"):
        compare(results / "Dual Guidance", tmp_path)
    with pytest.raises(RequestError, match="no run begins with 'abcd'"):
        compare(results / "Dual Guidance", "abcd", results=results)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="holds no run"):
        compare(results / "Dual Guidance", tmp_path / "empty")


# -------------------------------------------------------------------------------------------------- the verb


def ssldet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["compare", *map(str, arguments)])


def test_the_verb_shows_what_was_compared(results: Path) -> None:
    done = ssldet(results / "Dual Guidance", results / "Supervised", "--draws", 40)
    assert done.exit_code == 0, done.output
    for said in (
        "dual_guidance, ema_decay=0.99, ratio 0.2, nano",
        "strategy dual_guidance instead of supervised",
        "split 1, 10 videos, ",
        "V@0.5",
        "frame_map, yowo",
        "Student's t of 3 paired differences",
        "fewer than 5 groups",
        "Videos that moved a difference most",
    ):
        assert said in " ".join(done.stdout.split()), said
    assert "(absent)" not in done.stdout  # options that only one of two strategies has are no news


def test_json_has_fractions(results: Path, comparison: Comparison) -> None:
    done = ssldet(results / "Dual Guidance", results / "Supervised", "--draws", 60, "--seed", 4, "--json")
    content = json.loads(done.stdout)
    assert content["columns"][1]["difference"] == pytest.approx(comparison.columns[1].difference)
    assert content["columns"][1]["over_videos"].keys() == {"low", "high"}
    assert content["pairs"] == [0, 1, 2] and content["first"]["seeds"] == [0, 1, 2]


def test_a_refusal_is_an_error_of_the_request(results: Path) -> None:
    done = ssldet(results, results / "Supervised")
    assert done.exit_code == 2 and "holds runs of 2 configurations" in done.stderr


def test_the_face_has_it(results: Path) -> None:
    assert package.compare is compare


def test_runs_on_listed_videos_are_compared_where_a_class_has_no_truth(tmp_path: Path) -> None:
    """Their records count that class as 0 under `yowo`; the comparison leaves it out, as tables do."""
    listed = tuple(video.id for video, _, _ in cases_of("Supervised", 0))
    sides = [write_run(tmp_path / approach, approach, videos=listed) for approach in SLIPS]
    (column,) = compare(*sides, metrics="video_map:yowo:0.5").columns
    assert len(column.classes) == 2 < len(FACTS.classes)
    assert column.difference == pytest.approx(np.mean([each.difference for each in column.classes]))

"""per_video.parquet: AP follows from it exactly, it is small, and what is wrong with a file is said."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_matches import FACTS, MULTI, made_videos, scored

from ssldet.contracts import DatasetFacts, Matches, PrecisionRule, RankedDetections, Video
from ssldet.errors import PluginError, RequestError
from ssldet.evaluation import per_video as files
from ssldet.evaluation.per_video import per_video, read_per_video, write_per_video
from ssldet.evaluation.results import Results
from ssldet.ops.average_precision import FORMS

KEY = b"ssldet.per_video"


def average_precision(matches: Matches, label: int, column: str) -> float:
    """As the evaluators compute it, from hits in rank order."""
    ranked, truths = matches.ranked[label], int(matches.truths_vk[:, label].sum())
    outcomes_n = np.repeat(ranked.outcomes_n, ranked.counts_n)
    form, epsilon = FORMS[matches.rule.form], matches.rule.epsilon
    hits = [(outcomes_n >> bit & 1) == 1 for bit in matches.columns[column]]
    return float(np.mean([form(hits_n, truths, epsilon=epsilon) for hits_n in hits]))


def greatest_loss(kept: files.PerVideo, results: Results) -> float:
    """By how much any AP of a class from the file falls short of the evaluator's; every number is compared."""
    losses = []
    for metric, by_protocol in kept.matches.items():
        assert by_protocol.keys() == results[metric].keys()
        for protocol, matches in by_protocol.items():
            for column, value in results[metric][protocol].thresholds.items():
                for label in matches.ranked:
                    expected = value.per_class[kept.classes[label]]
                    if expected is None:
                        assert matches.rule.skip_empty and not matches.truths_vk[:, label].any()
                    else:
                        losses.append(expected - average_precision(matches, label, column))
    assert len(losses) >= 36 and min(losses) > -1e-9
    return max(losses)


@pytest.mark.parametrize("facts", [FACTS, MULTI], ids=["single-label", "multi-label"])
def test_every_ap_follows_from_the_file(facts: DatasetFacts, tmp_path: Path) -> None:
    cases = made_videos(3, facts=facts)
    found = scored(cases, facts)
    write_per_video(tmp_path / "m.parquet", per_video(facts, 1, [video for video, _, _ in cases], found.matches))
    kept = read_per_video(tmp_path / "m.parquet")
    assert set(kept.matches) == {"frame_map", "video_map"} - ({"video_map"} if facts.multilabel else set())
    assert greatest_loss(kept, found.results) < 1e-9 and kept.tolerance == 0


def test_the_file_says_of_which_videos_it_is(tmp_path: Path) -> None:
    cases = made_videos(3)
    write_per_video(
        tmp_path / "m.parquet", per_video(FACTS, 2, [video for video, _, _ in cases], scored(cases).matches)
    )
    kept = read_per_video(tmp_path / "m.parquet")
    assert (kept.dataset, kept.split, kept.classes) == ("made", 2, FACTS.classes)
    assert [(video.id, video.group, video.classes) for video in kept.videos] == [
        (video.id, video.group, video.classes) for video, _, _ in cases
    ]
    assert kept.matches["video_map"]["yowo"].rule == PrecisionRule("every_point", 1e-5, skip_empty=False)
    assert kept.matches["frame_map"]["act"].rule == PrecisionRule("trapezoid", skip_empty=False)


def test_protocols_that_rank_alike_share_their_rows(tmp_path: Path) -> None:
    cases = made_videos(3)
    of_frames = scored(cases, metrics={"frame_map": ("standard", "act")}).matches
    rows = []
    for protocols in (("act",), ("standard", "act")):
        chosen = {"frame_map": {protocol: of_frames["frame_map"][protocol] for protocol in protocols}}
        write_per_video(tmp_path / "m.parquet", per_video(FACTS, 1, [video for video, _, _ in cases], chosen))
        rows.append(pq.read_metadata(tmp_path / "m.parquet").num_rows)
    assert rows[0] <= rows[1] < 1.5 * rows[0]


def many_detections(rows: int) -> tuple[list[Video], dict[str, dict[str, Matches]]]:
    """A long ranking in which hits become rare, with nothing in it that compresses."""
    rng = np.random.default_rng(0)
    outcomes_n = (rng.random(rows) < np.geomspace(1, 1e-3, rows)).astype(np.uint64)
    ranked = RankedDetections(rng.integers(0, 200, rows), outcomes_n, np.ones(rows, np.int64))
    truths_vk = np.zeros((200, 3), np.int64)
    truths_vk[:, 0] = -(-int(outcomes_n.sum()) // 200)
    videos = [Video(f"v{place:03}", 9, 320, 240, (0,)) for place in range(200)]
    ids = tuple(video.id for video in videos)
    matches = Matches(ids, (0.5,), {"0.5": (0,)}, PrecisionRule(), truths_vk, {0: ranked})
    return videos, {"frame_map": {"standard": matches}}


def test_a_file_that_would_be_large_is_cut_by_no_more_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, matches = many_detections(60_000)
    whole = per_video(FACTS, 1, videos, matches)
    expected = average_precision(matches["frame_map"]["standard"], 0, "0.5")
    assert write_per_video(tmp_path / "whole.parquet", whole) == 0
    size = (tmp_path / "whole.parquet").stat().st_size
    monkeypatch.setattr(files, "LIMIT", int(0.97 * size))
    tolerance = write_per_video(tmp_path / "cut.parquet", whole)
    kept = read_per_video(tmp_path / "cut.parquet")
    loss = expected - average_precision(kept.matches["frame_map"]["standard"], 0, "0.5")
    assert 0 < loss <= tolerance == kept.tolerance
    assert (tmp_path / "cut.parquet").stat().st_size <= files.LIMIT


def test_matches_of_other_videos_are_a_fault_of_the_metric() -> None:
    videos, matches = many_detections(10)
    with pytest.raises(PluginError, match="frame_map, protocol standard: 200 videos, expected the 199"):
        per_video(FACTS, 1, videos[1:], matches)


def test_the_order_in_which_a_metric_names_videos_does_not_matter(tmp_path: Path) -> None:
    cases = made_videos(3)
    matches = scored(cases).matches["frame_map"]["yowo"]
    turned = dataclasses.replace(
        matches,
        videos=matches.videos[::-1],
        truths_vk=matches.truths_vk[::-1],
        ranked={
            label: dataclasses.replace(each, videos_n=len(matches.videos) - 1 - each.videos_n)
            for label, each in matches.ranked.items()
        },
    )
    contents = []
    for each in (matches, turned):
        kept = per_video(FACTS, 1, [video for video, _, _ in cases], {"frame_map": {"yowo": each}})
        write_per_video(tmp_path / "m.parquet", kept)
        contents.append((tmp_path / "m.parquet").read_bytes())
    assert contents[0] == contents[1]


# ------------------------------------------------------------------------------------------ files from strangers


@pytest.fixture
def written(tmp_path: Path) -> Path:
    cases = made_videos(3)
    path = tmp_path / "per_video.parquet"
    write_per_video(path, per_video(FACTS, 1, [video for video, _, _ in cases], scored(cases).matches))
    return path


def rewrite(path: Path, table: pa.Table, metadata: dict[str, Any] | None) -> None:
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        if metadata is not None:
            writer.add_key_value_metadata({KEY: json.dumps(metadata)})


def set_cell(name: str, value: Any) -> Callable[[pa.Table, dict[str, Any]], tuple[pa.Table, dict[str, Any]]]:
    def change(table: pa.Table, metadata: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        place = table.schema.get_field_index(name)
        column = pa.array([value, *table[name].to_pylist()[1:]], table.schema.field(name).type)
        return table.set_column(place, table.schema.field(name), column), metadata

    return change


def set_key(**changes: Any) -> Callable[[pa.Table, dict[str, Any]], tuple[pa.Table, dict[str, Any]]]:
    return lambda table, metadata: (table, {**metadata, **changes})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_cell("video", 6), "column 'video': 6, expected 0 to 5"),
        (set_cell("label", -1), "column 'label': -1, expected 0 to 2"),
        (set_cell("ranking", 99), "column 'ranking': 99, expected 0 to"),
        (set_cell("detections", 0), "column 'detections': 0, expected 1 to"),
        (set_cell("outcomes", None), "a row has an empty cell"),
        (set_cell("detections", 1 << 30), "it claims 10737.* hits of a class in 6 videos"),
        (set_key(format=2), "metadata at format"),
        (set_key(videos=[]), "videos of truths"),
        (set_key(classes=["one"]), "labels: 1, expected 0 to 0"),
        (set_key(tolerance=float("nan")), "metadata at"),
        (lambda table, metadata: (table.drop_columns(["outcomes"]), metadata), "its columns are ranking"),
        (lambda table, metadata: (table, None), "it has no metadata"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(written: Path, change: Any, said: str) -> None:
    table = pq.read_table(written).replace_schema_metadata(None)
    metadata = json.loads(pq.read_metadata(written).metadata[KEY])
    rewrite(written, *change(table, metadata))
    with pytest.raises(RequestError, match=f"{written}.*{said}"):
        read_per_video(written)


def test_a_damaged_or_absent_file_is_no_traceback(written: Path) -> None:
    content = bytearray(written.read_bytes())
    rng = random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        written.write_bytes(bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])]))
        try:
            read_per_video(written)
        except RequestError as error:
            assert str(written) in str(error)
    written.unlink()
    with pytest.raises(RequestError, match="no readable file"):
        read_per_video(written)

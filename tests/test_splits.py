"""Splits: counts, nesting, determinism, and files that do not lie."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssldet.contracts import Video
from ssldet.data.splits import LabelSplit, draw, read, round_half_up, share_out, write
from ssldet.errors import SplitError

NAMES = tuple("abcdefgh")

sizes_of_classes = st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any)
ratios = st.integers(1, 1000).map(lambda thousandths: thousandths / 1000)
seeds = st.integers(0, 5)


def videos_of(sizes: list[int]) -> list[Video]:
    return [
        Video(f"{NAMES[label]}/{number}", 10, 8, 8, (label,))
        for label, size in enumerate(sizes)
        for number in range(size)
    ]


def drawn(sizes: list[int], ratio: float, seed: int = 0, val_fraction: float = 0.0) -> LabelSplit | None:
    """A split, or None where the ratio is too small for the classes."""
    try:
        return draw("made", videos_of(sizes), NAMES, split=1, ratio=ratio, seed=seed, val_fraction=val_fraction)
    except SplitError as error:
        assert "smallest ratio that works" in str(error)
        return None


def per_class(ids: tuple[str, ...]) -> Counter[str]:
    return Counter(video_id[0] for video_id in ids)


@given(sizes_of_classes, ratios, seeds)
def test_every_video_is_in_one_part_and_every_class_is_labelled(sizes: list[int], ratio: float, seed: int) -> None:
    split = drawn(sizes, ratio, seed)
    if split is None:
        assert round_half_up(ratio, sum(sizes)) < sum(size > 0 for size in sizes)
        return
    assert sorted(split.labelled + split.unlabelled) == sorted(video.id for video in videos_of(sizes))
    assert len(split.labelled) == round_half_up(ratio, sum(sizes))
    assert set(per_class(split.labelled)) == {NAMES[label] for label, size in enumerate(sizes) if size}


@given(sizes_of_classes, ratios)
def test_shares_are_the_largest_remainders(sizes: list[int], ratio: float) -> None:
    total = round_half_up(ratio, sum(sizes))
    known = dict(enumerate(sizes))
    shares = share_out(known, total, least=dict.fromkeys(known, 0))
    assert sum(shares.values()) == total
    exact = {label: total * size / sum(sizes) for label, size in known.items()}
    assert all(abs(shares[label] - exact[label]) < 1 for label in known)
    up = [exact[label] % 1 for label in known if shares[label] > exact[label]]
    down = [exact[label] % 1 for label in known if shares[label] < exact[label]]
    assert not up or not down or min(up) >= max(down) - 1e-9


@given(sizes_of_classes, ratios, seeds, st.randoms(use_true_random=False))
def test_the_order_of_videos_does_not_matter(
    sizes: list[int], ratio: float, seed: int, shuffler: random.Random
) -> None:
    split = drawn(sizes, ratio, seed)
    if split is None:
        return
    videos = videos_of(sizes)
    shuffler.shuffle(videos)
    again = draw("made", videos, NAMES, split=1, ratio=ratio, seed=seed)
    assert again == split
    assert again.hash == split.hash


@given(sizes_of_classes, ratios, ratios, seeds)
def test_a_larger_ratio_keeps_what_a_smaller_one_labelled(
    sizes: list[int], one: float, other: float, seed: int
) -> None:
    small, large = drawn(sizes, min(one, other), seed), drawn(sizes, max(one, other), seed)
    if small is None or large is None:
        return
    for name, count in per_class(small.labelled).items():
        ours = {video_id for video_id in small.labelled if video_id[0] == name}
        theirs = {video_id for video_id in large.labelled if video_id[0] == name}
        assert len(ours & theirs) == min(count, len(theirs))


@given(sizes_of_classes, ratios, st.sampled_from([0.1, 0.25, 0.5, 0.9]))
def test_validation_comes_out_of_the_labelled(sizes: list[int], ratio: float, val_fraction: float) -> None:
    whole, split = drawn(sizes, ratio), drawn(sizes, ratio, val_fraction=val_fraction)
    if whole is None or split is None:
        return
    assert sorted(split.labelled + split.validation) == sorted(whole.labelled)
    assert split.unlabelled == whole.unlabelled
    before, held, left = per_class(whole.labelled), per_class(split.validation), per_class(split.labelled)
    assert all(left[name] >= 1 for name in before)
    assert all((held[name] >= 1) == (count >= 2) for name, count in before.items())


@st.composite
def grouped_videos(draw: st.DrawFn) -> list[Video]:
    """Videos of up to eight classes, many of them cut from a few recordings, some annotated by nobody."""
    rows = draw(
        st.lists(st.tuples(st.integers(-1, 7), st.sampled_from(("", "", *"pqrstuvw"))), min_size=1, max_size=60)
    )
    return [Video(f"{n}", 10, 8, 8, (label,) if label >= 0 else (), group) for n, (label, group) in enumerate(rows)]


@given(grouped_videos(), ratios, seeds, st.sampled_from([0.1, 1 / 3, 0.9]), st.randoms(use_true_random=False))
def test_validation_shares_no_group_with_what_is_trained_on(
    videos: list[Video], ratio: float, seed: int, val_fraction: float, shuffler: random.Random
) -> None:
    try:
        split = draw("made", videos, NAMES, split=1, ratio=ratio, seed=seed, val_fraction=val_fraction)
        whole = draw("made", videos, NAMES, split=1, ratio=ratio, seed=seed)
    except SplitError:
        return
    by_id = {video.id: video for video in videos}
    held = {by_id[video_id].group or video_id for video_id in split.validation}
    trained = {by_id[video_id].group or video_id for video_id in split.labelled + split.unlabelled}
    assert not held & trained
    assert {by_id[video_id].group for video_id in split.set_aside} <= held - {""}
    assert sorted(split.labelled + split.validation) == sorted(whole.labelled)
    assert sorted(split.unlabelled + split.set_aside) == sorted(whole.unlabelled)
    classes = [{by_id[video_id].classes[0] for video_id in part.labelled} for part in (split, whole)]
    assert classes[0] == classes[1]
    assert not whole.set_aside and not whole.validation
    again = shuffler.sample(videos, len(videos))
    assert draw("made", again, NAMES, split=1, ratio=ratio, seed=seed, val_fraction=val_fraction) == split


def test_groups_are_held_out_whole_across_classes_and_parts(tmp_path: Path) -> None:
    """Ten recordings of two videos a class: a third of the labelled, and all else that the same recordings gave."""
    videos = [Video(f"{NAMES[n % 2]}/{n}", 10, 8, 8, (n % 2,), f"film{n // 4}") for n in range(40)]
    split = draw("made", videos, NAMES, split=1, ratio=0.5, seed=0, val_fraction=0.3)
    films = {video.id: video.group for video in videos}
    held = {films[video_id] for video_id in split.validation}
    assert set(per_class(split.validation)) == {"a", "b"}
    assert sum(group in held for group in films.values()) == len(split.validation) + len(split.set_aside)
    assert split.set_aside
    write(split, tmp_path / "split.json")
    assert read(tmp_path / "split.json") == split
    content = json.loads((tmp_path / "split.json").read_text())
    content["unlabelled"] += content.pop("set_aside")
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(SplitError, match="changed after it was frozen"):
        read(tmp_path / "split.json")


def test_every_class_of_several_groups_has_validation_videos() -> None:
    videos = [Video(f"{NAMES[n % 5]}/{n}", 10, 8, 8, (n % 5,), f"{n % 5}-{n // 20}") for n in range(100)]
    for seed in range(5):
        split = draw("made", videos, NAMES, split=1, ratio=1, seed=seed, val_fraction=0.05)
        assert per_class(split.validation) == dict.fromkeys(NAMES[:5], 4)  # one recording each, of four videos


def test_a_split_with_nothing_set_aside_has_the_file_it_ever_had(tmp_path: Path) -> None:
    write(draw("made", videos_of([7, 4]), NAMES, split=1, ratio=0.5, seed=1, val_fraction=0.3), tmp_path / "split.json")
    assert "set_aside" not in json.loads((tmp_path / "split.json").read_text())


def test_rounding_is_half_up_and_exact() -> None:
    assert round_half_up(0.29, 50) == 15  # 14.5, which binary numbers take for 14.499999999999998
    assert round_half_up(0.2, 660) == 132
    assert round_half_up(0.1, 14) == 1


def test_a_video_counts_for_its_first_class() -> None:
    videos = [Video("x", 1, 8, 8, (1, 0)), Video("y", 1, 8, 8, (0,)), Video("z", 1, 8, 8, (1,))]
    split = draw("made", videos, NAMES, split=1, ratio=0.67, seed=0)
    assert "y" in split.labelled


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, float("nan")])
def test_ratios_outside_are_refused(ratio: float) -> None:
    with pytest.raises(SplitError, match="ratio must be above 0 and at most 1"):
        draw("made", videos_of([3]), NAMES, split=1, ratio=ratio, seed=0)


def test_a_ratio_too_small_for_the_classes_says_which_works() -> None:
    with pytest.raises(SplitError, match=r"labels 2, fewer than its 4 classes; .* is 0\.175$"):
        draw("made", videos_of([5, 5, 5, 5]), NAMES, split=1, ratio=0.1, seed=0)
    assert len(draw("made", videos_of([5, 5, 5, 5]), NAMES, split=1, ratio=0.175, seed=0).labelled) == 4


def test_videos_that_cannot_be_stratified_are_refused() -> None:
    with pytest.raises(SplitError, match="listed twice"):
        draw("made", [*videos_of([2]), *videos_of([1])], NAMES, split=1, ratio=1, seed=0)
    with pytest.raises(SplitError, match="no class"):
        draw("made", [Video("x", 1, 8, 8, (99,))], NAMES, split=1, ratio=1, seed=0)
    for videos in ([], [Video("x", 1, 8, 8, ())]):
        with pytest.raises(SplitError, match="no annotated training videos"):
            draw("made", videos, NAMES, split=1, ratio=1, seed=0)


def test_videos_that_nobody_annotated_are_always_unlabelled() -> None:
    rest = [Video(f"raw/{number}", 1, 8, 8, ()) for number in range(30)]
    split = draw("made", [*rest, *videos_of([4, 4])], NAMES, split=1, ratio=0.5, seed=0)
    assert len(split.labelled) == 4
    assert {video.id for video in rest} <= set(split.unlabelled)
    assert split.labelled == draw("made", videos_of([4, 4]), NAMES, split=1, ratio=0.5, seed=0).labelled


def test_a_frozen_split_reads_back_equal(tmp_path: Path) -> None:
    videos = [Video(video_id, 1, 8, 8, (0,)) for video_id in ("a/&!(x)#'@+", "a/ü", "a/\udce9")]
    split = draw("made", videos, NAMES, split=2, ratio=0.5, seed=3)
    write(split, tmp_path / "split.json")
    assert read(tmp_path / "split.json") == split
    assert read(tmp_path / "split.json").hash == split.hash


def test_a_changed_split_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    write(draw("made", videos_of([4, 4]), NAMES, split=1, ratio=0.5, seed=0), path)
    content = json.loads(path.read_text())
    content["labelled"], content["unlabelled"] = content["unlabelled"], content["labelled"]
    path.write_text(json.dumps(content))
    with pytest.raises(SplitError, match="changed after it was frozen"):
        read(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"hash": 1}', "[" * 100000, '{"dataset": "x"}', "\x00", '{"labelled": [1]}']
)
def test_what_is_no_split_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(SplitError, match="split"):
        read(path)
    with pytest.raises(SplitError, match="not a readable"):
        read(tmp_path / "absent.json")


def test_fields_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    write(draw("made", videos_of([4, 4]), NAMES, split=1, ratio=0.5, seed=0), path)
    for name, value in {"seed": "0", "labelled": "abc", "validation": [1], "ratio": None}.items():
        changed = {**json.loads(path.read_text()), name: value}
        (tmp_path / "wrong.json").write_text(json.dumps(changed))
        with pytest.raises(SplitError, match="wrong type"):
            read(tmp_path / "wrong.json")


def test_a_split_is_frozen_for_ever() -> None:
    split = draw("made", videos_of([7, 4, 9]), NAMES, split=1, ratio=0.3, seed=1, val_fraction=0.2)
    assert split.labelled == ("a/2", "b/0", "c/1", "c/2")
    assert split.validation == ("a/4", "c/4")
    assert split.hash == "65813b17dc0c28624a0591c8e36d1ecbfe7aab48ae2f52965e079b39346dbf44"

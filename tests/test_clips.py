"""Sampling, clips and targets."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from helpers import FACTS, MULTILABEL, TinyDataset, tiny_detector

from ssldet.config import Experiment, TrainOptions
from ssldet.contracts import Needs, Truth, Video
from ssldet.data.batches import BatchSource, ClipOptions, ClipReader, to_input
from ssldet.data.sampling import Sampling, ShuffledIndex, action_extent, key_frames, stream_seed
from ssldet.data.targets import TruthTable, concat_targets, reorder_clips
from ssldet.data.views import ViewOptions, change_colours, draw_colours, draw_photometry
from ssldet.errors import DataError
from ssldet.training.assembly import assemble_training
from ssldet.training.loop import gradient_clips
from ssldet_strategies.dual_guidance import DualGuidance

CLIP = ClipOptions(frames=4, stride=1, size=32)


def source(seed: int = 0, *, temporal: bool = True, labelled: int = 4, views: ViewOptions | None = None) -> BatchSource:
    data = TinyDataset()
    videos = {video.id: video for video in data.videos("train")}
    table = TruthTable(FACTS, videos, data.truth, CLIP.size)
    return BatchSource(
        ClipReader(data.frames, CLIP),
        key_frames(["v0", "v1", "v2"], lambda v: data.truth(v).key_frames_m),
        key_frames(["v3", "v4", "v5", "v6"], lambda v: np.arange(6)),
        table,
        sampling=Sampling(labelled, 4, 0.5),
        views=views or ViewOptions(),
        needs=Needs(frame_head=True, temporal=temporal),
        seed=seed,
        device=torch.device("cpu"),
    )


def test_a_clip_ends_at_its_key_frame_and_stays_inside_the_video() -> None:
    reader = ClipReader(TinyDataset().frames, ClipOptions(frames=4, stride=2, size=32))
    assert reader.indices(7, 100).tolist() == [1, 3, 5, 7]
    assert reader.indices(2, 100).tolist() == [0, 0, 0, 2]
    assert reader.indices(np.array([0, 9]), 8).tolist() == [[0, 0, 0, 0], [3, 5, 7, 7]]


def test_a_clip_holds_the_stored_frames() -> None:
    data = TinyDataset()
    clips = ClipReader(data.frames, CLIP).read(["v1", "v2"], [5, 0])
    assert torch.equal(clips[0], torch.from_numpy(data.frames("v1")[2:6]))
    assert torch.equal(clips[1, 0], clips[1, 3])
    ready = to_input(clips, torch.device("cpu"))
    assert ready.shape == (2, 3, 4, 32, 32)
    assert ready.max() <= 1
    assert ready[0, 2, 3, 5, 7] == clips[0, 3, 5, 7, 2] / 255


def test_the_key_frame_after_and_at_the_end_before() -> None:
    table = key_frames(["a", "b"], lambda v: np.array([0, 30, 60]) if v == "a" else np.array([4]))
    assert table.frame_n.tolist() == [0, 30, 60, 4]
    assert table.following_n.tolist() == [30, 60, 30, 4]
    assert table.at(np.array([3, 0])) == (["b", "a"], [4, 0])


def test_no_key_frames_is_an_error() -> None:
    with pytest.raises(DataError, match="none of the 1 videos"):
        key_frames(["a"], lambda v: np.array([], dtype=np.int64))


def test_an_order_visits_everything_once_a_pass() -> None:
    order = ShuffledIndex(7, seed=3, stream="x")
    every = order.at(0, 21)
    assert [sorted(every[i : i + 7].tolist()) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert every[:7].tolist() != every[7:14].tolist()
    assert order.at(5, 4).tolist() == every[5:9].tolist()
    assert ShuffledIndex(7, seed=3, stream="x").at(14, 7).tolist() == every[14:].tolist()
    assert ShuffledIndex(7, seed=3, stream="y").at(0, 7).tolist() != every[:7].tolist()


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, _ = source().batch(5, unlabelled=True)
    used = source()
    used.batch(0, unlabelled=True)
    again, _ = used.batch(5, unlabelled=True)
    other, _ = source(seed=1).batch(5, unlabelled=True)
    assert torch.equal(first.labelled.clips_bcthw, again.labelled.clips_bcthw)
    assert first.unlabelled and again.unlabelled
    assert torch.equal(first.unlabelled.strong_bcthw, again.unlabelled.strong_bcthw)
    assert not torch.equal(first.labelled.clips_bcthw, other.labelled.clips_bcthw)


def test_labelled_clips_do_not_depend_on_what_else_is_sampled() -> None:
    one, _ = source(temporal=True).batch(3, unlabelled=True)
    two, places = source(temporal=False).batch(3, unlabelled=False)
    assert torch.equal(one.labelled.clips_bcthw, two.labelled.clips_bcthw)
    assert two.unlabelled is None
    assert places is None
    assert two.labelled.following is None


def test_parts_make_up_the_whole_step() -> None:
    whole, _ = source().batch(2, unlabelled=True)
    parts = [source().batch(2, part, 2, unlabelled=True)[0] for part in range(2)]
    assert torch.equal(whole.labelled.clips_bcthw, torch.cat([p.labelled.clips_bcthw for p in parts]))
    boxes = torch.cat([p.labelled.targets.boxes_n4 for p in parts])
    assert torch.equal(whole.labelled.targets.boxes_n4, boxes)


def test_pairs_show_the_next_key_frame_in_the_same_view() -> None:
    """Without augmentation the partner of the clip ending at s is the clip ending at s + 1."""
    off = ViewOptions(flip=0, scale=(1, 1), crop=0)
    batches = source(views=off)
    batch, places = batches.batch(0, unlabelled=True)
    assert batch.unlabelled and places and batch.unlabelled.following is not None
    assert len(batch.unlabelled.following) == 2
    frame = places.frames[0]
    after = frame + 1 if frame < 5 else frame - 1
    expected = to_input(batches.reader.read([places.videos[0]], [after]), torch.device("cpu"))
    assert torch.equal(batch.unlabelled.following[0], expected[0])
    assert torch.equal(batch.unlabelled.weak_bcthw, batch.unlabelled.strong_bcthw)


def test_a_part_of_one_clip_keeps_its_pair() -> None:
    """Half of one clip rounds to none, and the temporal term would be gone without a word."""
    batch, _ = source().batch(0, 0, 4, unlabelled=True)
    assert batch.unlabelled and batch.labelled.following is not None and batch.unlabelled.following is not None
    assert len(batch.labelled.clips_bcthw) == len(batch.labelled.following) == 1
    nothing = source()
    nothing.sampling = Sampling(4, 4, 0.0)
    assert nothing.batch(0, unlabelled=True)[0].labelled.following is None


def test_colours_of_labelled_clips_alone_are_changed_and_shared_by_pairs() -> None:
    still = ViewOptions(flip=0, scale=(1, 1), crop=0)
    plain, _ = source(views=still).batch(0, unlabelled=True)
    coloured = source(views=still.model_copy(update={"labelled_colour": 0.5}))
    batch, _ = coloured.batch(0, unlabelled=True)
    assert batch.unlabelled and plain.unlabelled
    assert torch.equal(batch.unlabelled.strong_bcthw, plain.unlabelled.strong_bcthw)
    assert not torch.equal(batch.labelled.clips_bcthw, plain.labelled.clips_bcthw)
    parts = [coloured.batch(0, part, 2, unlabelled=True)[0].labelled.clips_bcthw for part in range(2)]
    assert torch.equal(torch.cat(parts), batch.labelled.clips_bcthw)
    colours = draw_colours(4, 0.5, torch.Generator().manual_seed(stream_seed(coloured.seed, "labelled", "colour", 0)))
    assert batch.labelled.following is not None and plain.labelled.following is not None
    expected = change_colours(plain.labelled.following, colours[:2])
    assert torch.equal(batch.labelled.following, expected)


PHOTOMETRY = {"strong_colour": 0.4, "strong_grey": 0.5, "strong_blur": 0.5, "strong_cutout": 0.5}


def test_the_look_of_strong_views_is_drawn_by_step_and_shared_by_pairs() -> None:
    still = ViewOptions(flip=0, scale=(1, 1), crop=0)
    plain, _ = source(views=still).batch(3, unlabelled=True)
    changed = source(views=still.model_copy(update=PHOTOMETRY))
    batch, _ = changed.batch(3, unlabelled=True)
    assert batch.unlabelled and plain.unlabelled
    assert torch.equal(batch.labelled.clips_bcthw, plain.labelled.clips_bcthw)
    assert torch.equal(batch.unlabelled.weak_bcthw, plain.unlabelled.weak_bcthw)
    assert not torch.equal(batch.unlabelled.strong_bcthw, plain.unlabelled.strong_bcthw)
    parts = [changed.batch(3, part, 2, unlabelled=True)[0].unlabelled for part in range(2)]
    assert torch.equal(torch.cat([part.strong_bcthw for part in parts if part]), batch.unlabelled.strong_bcthw)
    assert batch.unlabelled.following is not None and plain.unlabelled.following is not None
    pairs = len(batch.unlabelled.following)
    generator = torch.Generator().manual_seed(stream_seed(changed.seed, "unlabelled", "photometry", 3))
    look = draw_photometry(4, changed.views, generator).part(slice(pairs))
    assert torch.equal(batch.unlabelled.following, look.apply(plain.unlabelled.following))


def test_weak_views_come_on_request() -> None:
    plain = source().batch(0, unlabelled=True)[0]
    assert plain.unlabelled and plain.labelled.weak_bcthw is None and plain.unlabelled.weak_following is None
    asking = source(views=ViewOptions(flip=1))
    asking.needs = replace(asking.needs, labelled_weak=True, weak_following=True)
    batch = asking.batch(0, unlabelled=True)[0]
    assert batch.unlabelled and batch.labelled.weak_bcthw is not None and batch.unlabelled.weak_following is not None
    assert batch.labelled.weak_bcthw.shape == batch.labelled.clips_bcthw.shape
    assert not torch.equal(batch.labelled.weak_bcthw, batch.labelled.clips_bcthw)
    assert plain.labelled.weak_targets is None and batch.labelled.weak_targets is not None
    refs = asking.labelled.at(asking._labelled_order.at(0, len(batch.labelled.clips_bcthw)))
    assert torch.equal(batch.labelled.weak_targets.boxes_n4, asking.table.targets(*refs).boxes_n4)
    assert not torch.equal(batch.labelled.weak_targets.boxes_n4, batch.labelled.targets.boxes_n4)
    videos, frames = asking.unlabelled.following(batch.unlabelled.index_b.numpy())  # type: ignore[union-attr]
    expected = to_input(asking.reader.read(videos, frames), torch.device("cpu"))
    assert torch.equal(batch.unlabelled.weak_following, expected[: len(batch.unlabelled.weak_following)])


def test_a_clip_has_one_index_whenever_it_is_drawn() -> None:
    clips = source()
    assert clips.unlabelled is not None
    seen: dict[int, tuple[str, int]] = {}
    for step in range(3 * len(clips.unlabelled) // 4):
        batch, refs = clips.batch(step, unlabelled=True)
        assert batch.unlabelled and refs
        shown = zip(refs.videos, refs.frames, strict=True)
        for index, clip in zip(batch.unlabelled.index_b.tolist(), shown, strict=True):
            assert seen.setdefault(index, clip) == clip
    assert sorted(seen) == list(range(len(clips.unlabelled)))


def test_a_strategys_generator_follows_from_seed_step_and_part() -> None:
    drawn = ((0, 0), (0, 0), (0, 1), (1, 0))
    batches = [source().batch(step, part, 2, unlabelled=True)[0] for step, part in drawn]
    draws = [torch.rand(3, generator=batch.generator) for batch in batches]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])


def test_what_a_strategy_is_told_before_it_starts() -> None:
    clips = source()
    info = clips.info(steps=10, burn_in=2)
    expected = sum(len(clips.table.truth(video).frames_n) for video in clips.labelled.videos)
    assert sum(info.class_counts) == expected > 0 and len(info.class_counts) == 3
    assert (info.labelled_clips, info.unlabelled_clips) == (len(clips.labelled), len(clips.unlabelled or ()))
    assert (info.steps, info.burn_in) == (10, 2)


def test_targets_are_in_pixels_of_the_view_and_name_the_background() -> None:
    data = TinyDataset()
    table = TruthTable(FACTS, {v.id: v for v in data.videos("train")}, data.truth, size=32)
    targets = table.targets(["v0", "v1", "v2"], [3, 0, 5])
    assert targets.clip_n.tolist() == [0, 2]
    assert targets.boxes_n4.tolist() == [[5, 5, 20, 25]] * 2
    assert targets.frame_labels_b.tolist() == [0, 3, 2]
    assert targets.labels_nk.argmax(1).tolist() == [0, 2]
    assert targets.box_mask_b.all()


def test_multilabel_frames_have_all_their_labels() -> None:
    data = TinyDataset()
    table = TruthTable(MULTILABEL, {v.id: v for v in data.videos("train")}, data.truth, size=32)
    assert table.targets(["v0", "v1"], [3, 0]).frame_labels_b.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_the_action_extent_holds_no_boxes() -> None:
    truth = Truth(
        np.array([3, 5]), np.zeros((2, 4), np.float32), np.ones((2, 3), bool), np.zeros(2, np.int64), np.arange(9)
    )
    assert action_extent(truth).tolist() == [3, 4, 5]


def test_masks_of_classes_go_with_their_boxes_and_clips() -> None:
    targets = source(labelled=2).batch(0, unlabelled=False)[0].labelled.targets
    n, b = len(targets.clip_n), len(targets.box_mask_b)
    targets.frame_labels_b = torch.zeros(b, 3)
    masked = replace(targets, label_mask_nk=torch.zeros(n, 3).bool(), frame_label_mask_bk=torch.eye(b, 3).bool())
    assert concat_targets(targets, targets).label_mask_nk is None
    both = concat_targets(targets, masked)
    assert both.label_mask_nk is not None and both.frame_label_mask_bk is not None
    assert both.label_mask_nk.tolist() == [[True] * 3] * n + [[False] * 3] * n
    assert both.frame_label_mask_bk.tolist() == [[True] * 3] * b + torch.eye(b, 3).bool().tolist()
    swapped = reorder_clips(masked, torch.tensor([1, 0])).frame_label_mask_bk
    assert swapped is not None and swapped.tolist() == torch.eye(b, 3).bool().flip(0).tolist()


@pytest.mark.parametrize(("negative_sampling", "first"), [(False, 4), (True, 0)])
def test_without_negative_sampling_no_clip_leaves_the_action(negative_sampling: bool, first: int) -> None:
    """Frames show their own number: the action of each unlabelled video is at frames 4 to 6 of 10."""
    kept, shown = [], np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    truth = Truth(
        np.array([4, 6]),
        np.tile(np.array([[10, 10, 40, 50]], np.float32), (2, 1)),
        np.eye(3, dtype=bool)[[0, 0]],
        np.zeros(2, np.int64),
        np.arange(10),
    )
    strategy = DualGuidance(DualGuidance.Config(negative_sampling=negative_sampling))
    train = TrainOptions(batch=6, bn_batch=6, unlabelled_batch=6, steps=4, pair_share=1.0)
    fields = {"strategy": "dual_guidance", "dataset": "tiny", "ratio": 0.5, "clip": CLIP, "train": train}
    run = assemble_training(
        Experiment(**fields, views=ViewOptions(flip=0, scale=(1, 1), crop=0)),
        strategy,
        tiny_detector(),
        facts=FACTS,
        videos={name: Video(name, 10, 64, 64, (0,)) for name in ("a", "b")},
        truth_of=lambda video: truth,
        reader=ClipReader(lambda video: shown, CLIP),
        labelled=["a"],
        unlabelled=["b"],
    )
    for step in range(4):
        batch, refs = run.source.batch(step, unlabelled=True)
        assert batch.unlabelled and batch.unlabelled.following is not None and refs
        weak, partners = (
            (clips[:, 0, :, 0, 0] * 255).round().int()
            for clips in (batch.unlabelled.weak_bcthw, batch.unlabelled.following)
        )
        for frame, clip in zip(refs.frames, weak.tolist(), strict=True):
            assert clip == [max(first, frame - back) for back in (3, 2, 1, 0)]
        kept += [*weak.flatten().tolist(), *partners.flatten().tolist()]
        assert batch.labelled.clips_bcthw.min() == 0  # labelled clips read on to the first frame
    assert min(kept) == first and max(kept) == (9 if negative_sampling else 6)


def test_extra_labelled_clips_join_those_that_every_strategy_sees() -> None:
    plain, control = source(), source()
    control.needs = Needs(unlabelled=False, extra_labelled=True)
    control.unlabelled = None
    first, _ = control.batch(3, unlabelled=False)
    assert len(first.labelled.clips_bcthw) == 4  # the first stage is everybody's
    mine, places = control.batch(3, unlabelled=True)
    theirs, _ = plain.batch(3, unlabelled=True)
    assert mine.unlabelled is None and places is None
    assert len(mine.labelled.clips_bcthw) == 8
    assert torch.equal(mine.labelled.clips_bcthw[:4], theirs.labelled.clips_bcthw)
    assert not torch.equal(mine.labelled.clips_bcthw[4:], mine.labelled.clips_bcthw[:4])
    targets, own = mine.labelled.targets, theirs.labelled.targets
    assert torch.equal(targets.boxes_n4[targets.clip_n < 4], own.boxes_n4)
    assert set(targets.clip_n[targets.clip_n >= 4].tolist()) <= {4, 5, 6, 7} and (targets.clip_n >= 4).any()
    assert len(targets.box_mask_b) == len(targets.frame_labels_b) == 8
    halves = [control.batch(3, part, 2, unlabelled=True)[0].labelled.clips_bcthw for part in range(2)]
    assert torch.equal(torch.cat([h[:2] for h in halves] + [h[2:] for h in halves]), mine.labelled.clips_bcthw)


def test_extra_labelled_clips_have_partners_as_unlabelled_ones_do() -> None:
    needs = Needs(frame_head=True, temporal=True, unlabelled=False, extra_labelled=True)
    plain, control = source(), source()
    control.needs, control.unlabelled = needs, None
    matched, _ = control.batch(3, unlabelled=True)
    semi_supervised, _ = plain.batch(3, unlabelled=True)
    assert gradient_clips(matched) == gradient_clips(semi_supervised) == 4 + 2 + 4 + 2
    labelled, shared = matched.labelled, semi_supervised.labelled
    assert labelled.following is not None and shared.following is not None and len(labelled.following) == 4
    assert torch.equal(labelled.following[:2], shared.following)  # partners of rows 0 and 1, and of two extra ones
    assert torch.equal(labelled.clips_bcthw[[0, 1, 4, 5]], shared.clips_bcthw)


def test_reordered_clips_keep_their_targets() -> None:
    data = TinyDataset()
    table = TruthTable(FACTS, {v.id: v for v in data.videos("train")}, data.truth, CLIP.size)
    videos, frames = ["v0", "v1", "v2", "v0"], [3, 0, 4, 5]
    order_b = torch.tensor([2, 0, 3, 1])
    reordered = reorder_clips(table.targets(videos, frames), order_b)
    expected = table.targets([videos[i] for i in order_b], [frames[i] for i in order_b])
    rows = reordered.clip_n.argsort()
    assert torch.equal(reordered.clip_n[rows], expected.clip_n)
    assert torch.equal(reordered.boxes_n4[rows], expected.boxes_n4)
    assert torch.equal(reordered.labels_nk[rows], expected.labels_nk)
    assert torch.equal(reordered.frame_labels_b, expected.frame_labels_b)


def test_a_device_makes_the_views_that_the_cpu_makes() -> None:
    """The form for other devices, on the CPU: strong views to 1/255, weak ones, boxes and draws in every bit."""
    colours = {"labelled_colour": 0.3, "strong_colour": 0.3, "strong_grey": 0.5, "strong_blur": 0.5}
    for views in (ViewOptions(), ViewOptions(labelled="weak"), ViewOptions(**colours, strong_cutout=0.5)):
        here, there = source(views=views), source(views=views)
        for batches in (here, there):
            batches.needs = Needs(
                frame_head=True, temporal=True, extra_labelled=True, labelled_weak=True, weak_following=True
            )
        there.views_on_device = True
        (one, refs), (other, same_refs) = here.batch(3, unlabelled=True), there.batch(3, unlabelled=True)
        assert refs == same_refs and one.unlabelled and other.unlabelled
        for name in ("clips_bcthw", "following"):
            close(getattr(one.labelled, name), getattr(other.labelled, name))
        for name in ("strong_bcthw", "following"):
            close(getattr(one.unlabelled, name), getattr(other.unlabelled, name))
        assert torch.equal(one.labelled.weak_bcthw, other.labelled.weak_bcthw)  # type: ignore[arg-type]
        assert torch.equal(one.unlabelled.weak_bcthw, other.unlabelled.weak_bcthw)
        assert torch.equal(one.unlabelled.weak_following, other.unlabelled.weak_following)  # type: ignore[arg-type]
        assert torch.equal(one.labelled.targets.boxes_n4, other.labelled.targets.boxes_n4)
        shown, seen = one.labelled.weak_targets, other.labelled.weak_targets
        assert shown and seen and torch.equal(shown.boxes_n4, seen.boxes_n4)
        assert len(shown.box_mask_b) == len(one.labelled.weak_bcthw)  # type: ignore[arg-type]


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Held to 1/255 before colours are changed by up to (1 + 0.3)^3."""
    torch.testing.assert_close(one, other, atol=2.2 / 255, rtol=0)


def test_a_device_is_sent_every_frame_once() -> None:
    """The weak view of the teacher, the strong one of the student and their partners are of one upload of bytes."""
    batches = source()
    batches.needs = Needs(frame_head=True, temporal=True, labelled_weak=True, weak_following=True)
    for on_device, tensors in ((True, 1), (False, 2)):
        batches.views_on_device = on_device
        drawn = batches.drawn(0, unlabelled=True)
        assert drawn.unlabelled and drawn.unlabelled.following and drawn.labelled[0].following
        for clips in (drawn.unlabelled.clips, drawn.unlabelled.following, drawn.labelled[0].clips):
            sent = [clip for clip in (clips.weak_bthwc, clips.strong_bthwc) if clip is not None]
            assert len(sent) == tensors and all(clip.dtype == torch.uint8 for clip in sent)
        assert (drawn.labelled[0].following.weak_bthwc is not None) == on_device  # only the strong one is asked for


def test_sources_make_views_where_the_network_is() -> None:
    here = source()
    assert not here.views_on_device
    there = BatchSource(
        here.reader,
        here.labelled,
        here.unlabelled,
        here.table,
        sampling=here.sampling,
        views=here.views,
        needs=here.needs,
        seed=0,
        device=torch.device("meta"),
    )
    batch, _ = there.batch(0, unlabelled=True)
    assert batch.unlabelled and batch.unlabelled.strong_bcthw.device.type == "meta"
    assert batch.unlabelled.strong_bcthw.shape == (4, 3, 4, 32, 32)
    assert batch.labelled.targets.boxes_n4.device.type == batch.unlabelled.geometry.window_b4.device.type == "meta"  # type: ignore[attr-defined]


def test_all_tensors_of_a_drawn_batch_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is not in page-locked memory makes the loop wait for the device."""
    batches = source(views=ViewOptions(labelled_colour=0.3, strong_colour=0.3))
    batches.views_on_device = True
    drawn = batches.drawn(1, unlabelled=True)
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    copy = drawn.pin_memory()
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in tensors_of(drawn)}
    assert not {id(tensor) for tensor in pinned} & {id(tensor) for tensor in tensors_of(copy)}
    one, other = batches.on_device(drawn)[0].unlabelled, batches.on_device(copy)[0].unlabelled
    assert one and other and torch.equal(one.strong_bcthw, other.strong_bcthw)
    assert len(pinned) > 15


def tensors_of(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for part in value for tensor in tensors_of(part)]
    return (
        [tensor for field in fields(value) for tensor in tensors_of(getattr(value, field.name))]
        if is_dataclass(value)
        else []
    )

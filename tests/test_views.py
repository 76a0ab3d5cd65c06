"""Views and the geometry between them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssldet.data.views import (
    ViewOptions,
    WindowGeometry,
    change_colours,
    clip_and_filter,
    draw_colours,
    draw_geometry,
    identity,
    normalised,
)

SIZE = 32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10_000))
def test_boxes_come_back_from_the_strong_view(seed: int) -> None:
    geometry = draw_geometry(6, SIZE, ViewOptions(), generator(seed))
    corner = torch.rand(6, 2, generator=generator(seed)) * 20
    boxes = torch.cat([corner, corner + 1 + 10 * torch.rand(6, 2, generator=generator(seed + 1))], dim=1)
    clip = torch.arange(6)
    there = geometry.to_strong(boxes, clip)
    assert (there[:, 2:] > there[:, :2]).all()
    unmirrored = torch.where(geometry.flip_b[:, None], SIZE - there[:, [2, 1, 0, 3]], there)
    unmirrored[:, [1, 3]] = there[:, [1, 3]]
    low, high = geometry.window_b4[:, :2], geometry.window_b4[:, 2:]
    back = unmirrored * ((high - low) / SIZE).repeat(1, 2) + low.repeat(1, 2)
    torch.testing.assert_close(back, boxes, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_a_marked_block_lies_where_the_geometry_says(flip: bool) -> None:
    """The picture and the boxes go through different code: a white block must end inside its carried box."""
    window = torch.tensor([[-4, 2, 28, 34]])
    geometry = WindowGeometry(window, torch.tensor([flip]), SIZE)
    clip = torch.zeros(1, 2, SIZE, SIZE, 3, dtype=torch.uint8)
    clip[:, :, 8:16, 4:12] = 255
    box = geometry.to_strong(torch.tensor([[4.0, 8, 12, 16]]), torch.tensor([0]))[0].long().tolist()
    strong = geometry.apply(clip)[0, 0, :, :, 0]
    inside = strong[box[1] : box[3], box[0] : box[2]]
    assert (inside == 255).all()
    assert strong.sum() == inside.sum()


def test_scaling_keeps_the_block_in_its_box() -> None:
    geometry = WindowGeometry(torch.tensor([[4, 8, 20, 24]]), torch.tensor([False]), SIZE)
    clip = torch.zeros(1, 1, SIZE, SIZE, 3, dtype=torch.uint8)
    clip[:, :, 10:18, 6:14] = 200
    x1, y1, x2, y2 = geometry.to_strong(torch.tensor([[6.0, 10, 14, 18]]), torch.tensor([0]))[0].long().tolist()
    strong = geometry.apply(clip)[0, 0, :, :, 0]
    assert (x1, y1, x2, y2) == (4, 4, 20, 20)
    assert (strong[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] == 200).all()
    assert strong[:, : x1 - 2].max() == 0


def test_pixels_outside_the_frame_are_black() -> None:
    geometry = WindowGeometry(torch.tensor([[-8, 0, 24, 32]]), torch.tensor([False]), SIZE)
    strong = geometry.apply(torch.full((1, 1, SIZE, SIZE, 3), 255, dtype=torch.uint8))
    assert strong[..., :7, :].max() == 0
    assert strong[..., 9:, :].min() == 255


def test_identity_changes_nothing() -> None:
    clip = torch.randint(0, 256, (2, 3, SIZE, SIZE, 3), dtype=torch.uint8)
    assert torch.equal(identity(2, SIZE).apply(clip), clip)


@pytest.mark.parametrize("size", [SIZE, 112])
@pytest.mark.parametrize("seed", range(3))
def test_views_made_in_batch_are_those_made_clip_by_clip(seed: int, size: int) -> None:
    """To 1/255, and nearly everywhere in every bit."""
    options = ViewOptions(scale=(0.5, 1.5), crop=0.4)
    geometry = draw_geometry(8, size, options, generator(seed))
    assert 0 < geometry.flip_b.sum() < 8
    clips = torch.randint(0, 256, (8, 2, size, size, 3), dtype=torch.uint8, generator=generator(seed))
    one_by_one = normalised(geometry.apply(clips))
    in_batch = geometry.apply_in_batch(clips)
    assert in_batch.is_contiguous() and in_batch.dtype == torch.float32
    difference = (in_batch - one_by_one).abs()
    assert difference.max() <= 1 / 255 + 1e-6
    assert (difference < 1e-6).float().mean() > 0.999
    assert (one_by_one == 0).all(dim=1).any()  # some window reaches outside the frame


def test_windows_far_outside_and_far_inside_are_made_in_batch_too() -> None:
    windows = [[-40, -40, 72, 72], [12, 3, 17, 30], [33, 0, 60, 20], [0, 0, SIZE, SIZE]]
    geometry = WindowGeometry(torch.tensor(windows), torch.tensor([True, False, True, False]), SIZE)
    clips = torch.randint(0, 256, (4, 2, SIZE, SIZE, 3), dtype=torch.uint8)
    in_batch, one_by_one = geometry.apply_in_batch(clips), normalised(geometry.apply(clips))
    torch.testing.assert_close(in_batch, one_by_one, atol=1 / 255 + 1e-6, rtol=0)
    assert in_batch[2].max() == 0
    assert torch.equal(in_batch[3], normalised(clips)[3])


def test_the_weak_view_made_in_batch_is_the_clip() -> None:
    clips = torch.randint(0, 256, (2, 3, SIZE, SIZE, 3), dtype=torch.uint8)
    assert torch.equal(identity(2, SIZE).apply_in_batch(clips), normalised(clips))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_made_on_a_gpu_are_those_of_the_cpu() -> None:
    geometry = draw_geometry(4, 224, ViewOptions(), generator())
    clips = torch.randint(0, 256, (4, 4, 224, 224, 3), dtype=torch.uint8)
    in_batch = geometry.apply_in_batch(clips.cuda()).cpu()
    torch.testing.assert_close(in_batch, normalised(geometry.apply(clips)), atol=1 / 255 + 1e-6, rtol=0)


def test_draws_follow_the_seed_and_spread() -> None:
    one, same, other = (draw_geometry(200, 112, ViewOptions(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.window_b4, same.window_b4)
    assert not torch.equal(one.window_b4, other.window_b4)
    assert 0.35 < one.flip_b.float().mean() < 0.65
    extent = (one.window_b4[:, 2:] - one.window_b4[:, :2]) / 112
    assert extent.min() >= 0.6 / 1.2 - 0.01
    assert extent.max() <= 1.4 / 0.8 + 0.01
    assert extent.std() > 0.1


def test_no_draw_without_augmentation() -> None:
    off = ViewOptions(flip=0, scale=(1, 1), crop=0)
    geometry = draw_geometry(5, SIZE, off, generator())
    assert geometry.window_b4.tolist() == [[0, 0, SIZE, SIZE]] * 5
    assert not geometry.flip_b.any()


@pytest.mark.parametrize("scale", [(0, 1), (-1, 1), (1.2, 0.8), (0.5, float("inf"))])
def test_a_scale_that_is_no_range_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="scale"):
        ViewOptions(scale=scale)


def test_colours_by_hand() -> None:
    clip = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1, 1)
    lighter, flat, grey = (torch.tensor([factors]) for factors in ([1.5, 1, 1], [1, 0, 1], [1, 1, 0]))
    torch.testing.assert_close(change_colours(clip, lighter), 1.5 * clip)
    torch.testing.assert_close(change_colours(clip, flat), torch.full_like(clip, 0.4))
    torch.testing.assert_close(change_colours(clip, grey), torch.full_like(clip, 0.4))
    drawn = draw_colours(500, 0.3, generator())
    assert drawn.shape == (500, 3)
    assert drawn.min() >= 0.7 and drawn.max() <= 1.3 and drawn.std() > 0.1


def test_visible_drops_boxes_that_left() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [-9, 0, 1, 10], [-5, 0, 5, 10], [40, 0, 50, 10], [5, 5, 5, 9]])
    clipped, kept = clip_and_filter(boxes, SIZE, 0.25)
    assert kept.tolist() == [True, False, True, False, False]
    assert clipped[2].tolist() == [0, 0, 5, 10]


@pytest.mark.parametrize("flip", [False, True])
def test_a_map_is_warped_as_the_clip_is(flip: bool) -> None:
    """A map as fine as the clip, warped, is the clip's strong view where the window only moves; 0 outside."""
    geometry = WindowGeometry(torch.tensor([[-8, 4, 24, 36]]), torch.tensor([flip]), SIZE)
    clip = torch.randint(1, 256, (1, 1, SIZE, SIZE, 3), dtype=torch.uint8)
    warped = geometry.warp(clip[:, 0].permute(0, 3, 1, 2).float())
    shown = geometry.apply(clip)[:, 0].permute(0, 3, 1, 2).float()
    torch.testing.assert_close(warped, shown, atol=1e-3, rtol=0)
    assert (warped == 0).any()


def test_a_coarse_map_follows_the_boxes() -> None:
    """The cell under a box of the weak view is the cell under the same box in the strong view."""
    geometry = WindowGeometry(torch.tensor([[8, 8, 24, 24]]), torch.tensor([True]), SIZE)
    marked = torch.zeros(1, 1, 4, 4)
    marked[0, 0, 1, 2] = 1  # the cell [16, 24) x [8, 16)
    warped = geometry.warp(marked)[0, 0]
    box = geometry.to_strong(torch.tensor([[16.0, 8, 24, 16]]), torch.tensor([0]))
    assert box.tolist() == [[0, 0, 16, 16]]
    assert warped[:2, :2].sum() > 0.7 * warped.sum() > 0  # bilinear: a cell of margin

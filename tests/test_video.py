"""Decoding: order, size, short and damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_videos import write_turned, write_video
from PIL import Image

from ssldet.contracts import VideoSource
from ssldet.data.video import align, frame_size, probe, read_frames, timing
from ssldet.errors import DecodeError


def levels_of(frames_thwc: np.ndarray) -> list[int]:
    return [round(float(level)) for level in frames_thwc.mean((1, 2, 3))]


def test_frames_come_in_order_at_the_size_asked_for(tmp_path: Path) -> None:
    source = VideoSource(file=write_video(tmp_path / "a.avi", [10, 60, 110, 160, 210]))
    video = read_frames(source, 5, (32, 20))
    assert video.frames_thwc.shape == (5, 20, 32, 3)
    assert video.frames_thwc.dtype == np.uint8
    assert video.decoded == 5
    assert np.allclose(levels_of(video.frames_thwc), [10, 60, 110, 160, 210], atol=4)


def test_a_longer_file_is_cut_and_says_so(tmp_path: Path) -> None:
    video = read_frames(VideoSource(file=write_video(tmp_path / "a.avi", [10, 60, 110, 160])), 3)
    assert video.frames_thwc.shape == (3, 48, 64, 3)
    assert video.decoded == 4


def test_a_file_with_gaps_is_placed_by_time(tmp_path: Path) -> None:
    source = VideoSource(file=write_video(tmp_path / "a.avi", [20, 80, 140, 200], at=[0, 1, 4, 5]))
    video = read_frames(source, 6)
    assert video.decoded == 4
    assert np.allclose(levels_of(video.frames_thwc), [20, 80, 80, 80, 140, 200], atol=4)


def test_gaps_do_not_matter_while_there_are_enough_frames(tmp_path: Path) -> None:
    source = VideoSource(file=write_video(tmp_path / "a.avi", [20, 80, 140, 200], at=[0, 1, 4, 5]))
    assert np.allclose(levels_of(read_frames(source, 4).frames_thwc), [20, 80, 140, 200], atol=4)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([0, 1, 2], [0, 1, 2, 2, 2]),
        ([0, 3, 4], [0, 0, 0, 1, 2]),
        ([2, 4], [0, 0, 0, 0, 1]),
        ([4, 0, 2], [0, 0, 1, 1, 2]),
    ],
)
def test_align(positions: list[int], expected: list[int]) -> None:
    assert align(positions, 5).tolist() == expected


def test_resizing_averages_over_the_area(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, ::2] = 200
    Image.fromarray(pixels).save(tmp_path / "00001.png")
    video = read_frames(VideoSource(images=(tmp_path / "00001.png",)), 1, (4, 2))
    assert (video.frames_thwc == 100).all()


def test_images_are_read_in_order_and_the_last_is_repeated(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{number:05}.png" for number in (1, 2))
    for level, path in zip((50, 90), paths, strict=True):
        Image.new("RGB", (8, 6), (level,) * 3).save(path)
    video = read_frames(VideoSource(images=paths), 3)
    assert levels_of(video.frames_thwc) == [50, 90, 90]
    assert video.decoded == 2
    assert probe(VideoSource(images=paths)) == (8, 6, 2)


def test_probe_counts_without_decoding(tmp_path: Path) -> None:
    assert probe(VideoSource(file=write_video(tmp_path / "a.avi", [1, 2, 3]))) == (64, 48, 3)


@pytest.mark.parametrize("content", [b"", b"not a video at all", b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.avi"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"broken\.avi"):
        read_frames(VideoSource(file=path), 3)
    with pytest.raises(DecodeError, match=r"broken\.avi"):
        probe(VideoSource(file=path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"gone\.avi.*No such file"):
        read_frames(VideoSource(file=tmp_path / "gone.avi"), 3)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "00001.jpg")
    (tmp_path / "00001.jpg").write_bytes((tmp_path / "00001.jpg").read_bytes()[:-200])
    with pytest.raises(DecodeError, match=r"00001\.jpg"):
        read_frames(VideoSource(images=(tmp_path / "00001.jpg",)), 1)
    with pytest.raises(DecodeError, match="without images"):
        read_frames(VideoSource(), 1)


SHORT = [("16_c03", 125, 131), ("16_c04", 90, 96), ("17_c02", 114, 115)]


@pytest.mark.real
@pytest.mark.parametrize(("clip", "decoded", "annotated"), SHORT)
def test_short_files_of_ucf101(shared: Path, clip: str, decoded: int, annotated: int) -> None:
    path = shared / f"data/ucf24/videos/Basketball/v_Basketball_g{clip}.avi"
    video = read_frames(VideoSource(file=path), annotated, (32, 24))
    assert video.decoded == decoded
    assert len(video.frames_thwc) == annotated
    repeats = (np.diff(video.frames_thwc.astype(int), axis=0) == 0).all((1, 2, 3)).sum()
    assert repeats >= annotated - decoded


@pytest.mark.real
def test_metadata_that_is_not_utf8(shared: Path) -> None:
    path = next((shared / "data/videos").glob("hmdb51_*.avi"))
    video = read_frames(VideoSource(file=path), 83, (32, 24))
    assert video.decoded == 83


@pytest.mark.real
def test_a_truncated_mp4_names_file_and_frame(shared: Path) -> None:
    source = VideoSource(file=shared / "data/videos/decord_corrupted.mp4")
    with pytest.raises(DecodeError, match=r"decord_corrupted\.mp4: frame 28 of 50"):
        read_frames(source, 50, (32, 24))
    assert len(read_frames(source, 20, (32, 24)).frames_thwc) == 20


@pytest.mark.parametrize(("rate", "expected"), [(60, [20, 20, 80, 80, 140, 140, 200]), (15, [20, 140, 200])])
def test_a_file_of_another_rate_is_sampled_by_time(tmp_path: Path, rate: float, expected: list[int]) -> None:
    source = VideoSource(file=write_video(tmp_path / "a.avi", [20, 80, 140, 200]), rate=rate)
    video = read_frames(source, len(expected))
    assert video.decoded == len(expected)
    assert np.allclose(levels_of(video.frames_thwc), expected, atol=4)


def test_a_file_of_another_rate_that_ends_early_says_so(tmp_path: Path) -> None:
    source = VideoSource(file=write_video(tmp_path / "a.avi", [20, 80, 140, 200]), rate=60)
    video = read_frames(source, 20)
    assert video.decoded == 7
    assert np.allclose(levels_of(video.frames_thwc[7:]), 200, atol=4)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_phone_videos_are_upright(tmp_path: Path, degrees: int) -> None:
    """Stored lying with a display matrix: the bright corner comes where a player shows it, and the size with it."""
    stored_hwc = np.full((48, 64, 3), 20, np.uint8)
    stored_hwc[:24, :32] = 220  # the upper left quarter
    source = VideoSource(file=write_turned(tmp_path / "phone.mp4", stored_hwc, degrees))
    upright_hwc = np.rot90(stored_hwc, degrees // 90)  # counter-clockwise, as a display matrix counts
    video = read_frames(source, 2)
    assert video.frames_thwc.shape == (2, *upright_hwc.shape)
    assert np.abs(video.frames_thwc[1].astype(int) - upright_hwc).mean() < 5
    assert probe(source) == (upright_hwc.shape[1], upright_hwc.shape[0], 2)
    assert frame_size(source) == probe(source)[:2]
    assert read_frames(source, 2, (20, 10)).frames_thwc.shape == (2, 10, 20, 3)


def test_an_odd_angle_is_refused_by_name(tmp_path: Path) -> None:
    source = VideoSource(file=write_turned(tmp_path / "odd.mp4", np.zeros((48, 64, 3), np.uint8), 30))
    for read in (probe, lambda source: read_frames(source, 2)):
        with pytest.raises(DecodeError, match=r"odd\.mp4: its frames are to be shown turned by -?30 degrees"):
            read(source)


def test_pictures_are_turned_as_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 6))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = picture.getexif()
    exif[274] = 6  # to be shown turned clockwise
    picture.save(tmp_path / "00001.png", exif=exif)
    source = VideoSource(images=(tmp_path / "00001.png",))
    assert probe(source) == (6, 8, 1)
    assert read_frames(source, 1).frames_thwc[0, 0, 5].tolist() == [255, 255, 255]


def test_uneven_frames_are_told_from_even_ones(tmp_path: Path) -> None:
    even = timing(VideoSource(file=write_video(tmp_path / "even.mkv", [20, 80, 140, 200])))
    uneven = timing(VideoSource(file=write_video(tmp_path / "uneven.mkv", [20, 80, 140, 200], at=[0, 1, 4, 5])))
    assert even is not None and uneven is not None
    assert (even.even, uneven.even, round(even.rate)) == (True, False, 30)

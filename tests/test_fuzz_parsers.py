"""Files from strangers: mutated real and made files end in truth or in the suite's own errors, soon and small.

At least 500 examples for each parser, and 10,000 in the acceptance tier (test_acceptance_fuzz.py). A limit on the
address space turns runaway memory into a failure, and each test has a limit of time. What runs write and people edit is
in test_fuzz_files.py.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_in_forms as forms
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from made_matches import FACTS as MADE
from made_matches import made_videos, scored
from scipy.io import loadmat, savemat
from test_folder import COCO, CSV, CVAT
from test_own_exports import key as key_box
from test_own_exports import label_studio, via

from ssldet.data import split_files
from ssldet.errors import DataError, SsldetError
from ssldet.evaluation.per_video import per_video, read_per_video, write_per_video
from ssldet.report.resampling import class_scores
from ssldet.util import safe_pickle
from ssldet_datasets import ava, own_boxes, own_records, tube_files
from ssldet_datasets.jhmdb import read_split_file
from ssldet_datasets.jhmdb_boxes import read_mask
from ssldet_datasets.layouts import checked_id
from ssldet_datasets.tube_files import ActTubes, StoredTubes
from ssldet_datasets.ucf24 import UCF24

EXAMPLES = int(os.environ.get("SSLDET_FUZZ_EXAMPLES", "500"))
SECONDS = 30 * max(1, EXAMPLES / 500)  # of the processor; a few on a quiet machine
MORE_MEMORY = 3 * 2**30

TOKENS = [b"../", b"/etc/passwd", b"\x00", b"-1", b"nan", b"1e999", b"9" * 40, b"\xff\xfe", b",", b'"', b"{", b"[" * 50]
FUZZ = settings(
    max_examples=EXAMPLES,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test may take much memory or time."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MORE_MEMORY, before[1]))
    start = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < SECONDS


def mutate(content: bytes, seed: int) -> bytes:
    """Change, insert, drop or repeat a few pieces of a file."""
    rng, data = random.Random(seed), bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 30))
        change = rng.randrange(6)
        if change == 0:
            data[place : place + length] = rng.randbytes(length)
        elif change == 1:
            data[place:place] = rng.choice(TOKENS)
        elif change == 2:
            del data[place : place + length * rng.choice((1, 1, 40))]
        elif change == 3:
            other = rng.randrange(len(data) + 1)
            data[place:place] = data[other : other + length * 10]
        elif change == 4:
            data[place : place + 1] = bytes([rng.choice((0, 1, 127, 128, 255))])
        else:
            data[place : place + length] = rng.choice(TOKENS)[:length]
    return bytes(data)


def survives(parse: Callable[[Path], Any], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        parse(path)
    except SsldetError as error:
        assert str(error)


def all_tubes(file: tube_files.TubeFile) -> None:
    for video_id in file.ids:
        checked_id(video_id, Path())
        try:
            tubes = file.tubes(video_id)
        except DataError:
            continue
        for start, boxes_n4 in tubes:
            assert 0 <= start <= start + len(boxes_n4) <= file.num_frames(video_id)
            assert np.isfinite(boxes_n4).all()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files in each form: from the stand-in, less all but six videos; compressed ones are kept plain."""
    folder = tmp_path_factory.mktemp("seeds")
    UCF24.write_stand_in(folder / "ucf24")
    whole = UCF24(folder / "ucf24")
    content = safe_pickle.load(folder / "ucf24/annots/pyannot.pkl")
    few = {key: plainly(content[key]) for key in list(content)[:6]}
    (folder / "ucf24/annots/pyannot.pkl").write_bytes(pickle.dumps(few, 4))
    small = UCF24(folder / "ucf24")
    forms.write_mat(small, folder / "small.mat")
    savemat(folder / "mask.mat", {"part_mask": np.eye(12, dtype=np.uint8)[:, :, None].repeat(3, 2)})
    return {
        "pyannot": pickle.dumps(few, 4),
        "pyannot protocol 0": pickle.dumps({"Biking/v": {"numf": 3, "annotations": []}}, 0),
        "act": pickle.dumps(forms.act_content(small, 1), 4),
        "mat": plain_mat((folder / "small.mat").read_bytes()),
        "packed mat": (folder / "small.mat").read_bytes(),
        "mask": (folder / "mask.mat").read_bytes(),
        "list": "\n".join(forms.ids(whole, "train")[:20]).encode(),
    }


def plainly(video: dict[str, Any]) -> dict[str, Any]:
    """A video as the real file has it, which knows nothing of the reader's arrays."""
    return {**video, "annotations": [{**tube, "boxes": np.array(tube["boxes"])} for tube in video["annotations"]]}


def plain_mat(content: bytes) -> bytes:
    """A MATLAB file without compression, so that changes reach what is inside."""
    size = int.from_bytes(content[132:136], "little")
    return content[:128] + zlib.decompress(content[136 : 136 + size])


def fuzz(
    parse: Callable[[Path], Any],
    content: bytes,
    path: Path,
    change: Callable[[bytes, int], bytes] = mutate,
    share: float = 1.0,
) -> None:
    """Parse changed content many times. As it is it must be read: a parser that refuses all would pass the rest.

    Args:
        share: of the examples, for parsers that take long; in the acceptance tier all get all.
    """
    path.write_bytes(content)
    parse(path)

    @settings(FUZZ, max_examples=EXAMPLES if EXAMPLES > 500 else max(1, round(share * EXAMPLES)))
    @given(st.integers(0, 2**32))
    def one(seed: int) -> None:
        survives(parse, path, change(content, seed))

    one()


@pytest.mark.parametrize("form", ["pyannot", "pyannot protocol 0"])
def test_pyannot(seeds: dict[str, bytes], tmp_path: Path, form: str) -> None:
    fuzz(lambda path: all_tubes(StoredTubes.from_pickle(path)), seeds[form], tmp_path / "pyannot.pkl")


def test_act(seeds: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(lambda path: all_tubes(ActTubes(path, 1)), seeds["act"], tmp_path / "GT.pkl")


@pytest.mark.parametrize("form", ["mat", "packed mat"])
def test_final_annots(seeds: dict[str, bytes], tmp_path: Path, form: str) -> None:
    fuzz(lambda path: all_tubes(StoredTubes.from_mat(path)), seeds[form], tmp_path / "finalAnnots.mat")


def test_puppet_masks(seeds: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(read_mask, seeds["mask"], tmp_path / "mask.mat")


def test_per_video_matches(tmp_path: Path) -> None:
    cases = made_videos(3, videos=3)
    kept = per_video(MADE, 1, [video for video, _, _ in cases], scored(cases, MADE, {"frame_map": ("yowo",)}).matches)
    write_per_video(tmp_path / "seed.parquet", kept)

    def parse(path: Path) -> None:
        for by_protocol in read_per_video(path).matches.values():
            for matches, key in ((each, key) for each in by_protocol.values() for key in each.columns):
                scores_dk = class_scores(matches, key, np.ones((1, len(matches.videos)), np.int64))
                assert ((scores_dk >= 0) | np.isnan(scores_dk)).all()

    fuzz(parse, (tmp_path / "seed.parquet").read_bytes(), tmp_path / "per_video.parquet")


def test_lists(seeds: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(tube_files.read_list, seeds["list"], tmp_path / "list.txt")
    fuzz(lambda path: read_split_file(path, "catch"), b"one.avi 1\ntwo.avi 2\nthree.avi 0\n", tmp_path / "split.txt")


def test_label_files(tmp_path: Path) -> None:
    def parse(path: Path) -> None:
        tubes = tube_files.link_boxes({0: tube_files.read_label_file(path), 1: np.ones((2, 4), np.float32)})
        assert all(np.isfinite(boxes).all() for _, boxes in tubes)

    fuzz(parse, b"3 10 20 30 40\n3 1.5 2 30.25 44\n", tmp_path / "00001.txt")


def test_ava_rows(tmp_path: Path) -> None:
    rows = b"film_a,0902,0.1,0.2,0.5,0.8,12,0\nfilm_a,0902,0.1,0.2,0.5,0.8,79,0\nfilm_b,1000,,,,,,\n"
    fuzz(lambda path: ava.read_films(path, {}), rows, tmp_path / "ava_val_v2.2.csv")
    fuzz(ava.read_excluded, b"film_a,0903\nfilm_b,1000\n", tmp_path / "excluded.csv")


def test_ava_frame_lists(tmp_path: Path) -> None:
    def parse(path: Path) -> None:
        ava._frame_lists.cache_clear()
        source = ava.ListedFrames(path.parent).source("film")
        assert source is None

    (tmp_path / "frame_lists").mkdir()
    rows = b'original_vido_id video_id frame_id path labels\nfilm 0 0 film/film_000001.jpg ""\nfilm 0 1 film/2.jpg ""\n'
    fuzz(parse, rows, tmp_path / "frame_lists/train.csv")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".csv", CSV),
        (".json", json.dumps(COCO)),
        (".xml", CVAT),
        (".json", json.dumps(label_studio([key_box(2, 0), key_box(6, 50, enabled=False)]))),
        (".json", json.dumps(via())),
    ],
    ids=["csv", "coco", "cvat", "label studio", "via"],
)
def test_own_boxes(tmp_path: Path, suffix: str, text: str) -> None:
    names = own_records.VideoNames(size=lambda video_id: (64, 48), rate=lambda video_id: 30.0)
    fuzz(lambda path: own_boxes.read_boxes(path, names), text.encode(), tmp_path / f"boxes{suffix}")


def test_published_lists(tmp_path: Path) -> None:
    fuzz(split_files.read_list, pickle.dumps([(np.str_("a/b"), [1]), ("c/d", 2)], 4), tmp_path / "list.pkl")
    fuzz(split_files.read_list, b'["a/b", ["c/d", 1]]', tmp_path / "list.json")


@pytest.mark.real
def test_mutated_real_files(shared: Path, tmp_path: Path) -> None:
    """Parts of the real files: the first videos of the pickles and of the .mat, a mask, and rows of AVA."""
    content = safe_pickle.load(shared / "data/ucf24/annots/pyannot.pkl")
    few = {key: plainly(content[key]) for key in sorted(content)[:4]}
    annots = loadmat(shared / "data/ucf24/annots/finalAnnots.mat")["annot"][:, :4]
    savemat(tmp_path / "small.mat", {"annot": annots})
    mask = next((shared / "data/jhmdb/puppet_mask/catch").glob("*.mat"))
    rows = (shared / "data/ava/ava_val_v2.1_head27163.csv").read_bytes()[:2000].rpartition(b"\n")[0]
    fuzz(lambda path: all_tubes(StoredTubes.from_pickle(path)), pickle.dumps(few, 4), tmp_path / "pyannot.pkl")
    fuzz(lambda path: all_tubes(StoredTubes.from_mat(path)), (tmp_path / "small.mat").read_bytes(), tmp_path / "a.mat")
    fuzz(read_mask, mask.read_bytes(), tmp_path / "mask.mat")
    fuzz(lambda path: ava.read_films(path, {}), rows, tmp_path / "ava_val_v2.1.csv")

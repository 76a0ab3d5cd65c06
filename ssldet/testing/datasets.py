"""The contract suite of data sets: on the stand-in that the data set writes, on data made on the spot, or on `root`.

Where none of these is to be had, what needs data is skipped, and says so.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Problem, Subset, Truth, Video, VideoSource
from ssldet.errors import ConfigError, DataError
from ssldet.testing.base import ConfiguredContract, skip

SUBSETS: tuple[Subset, ...] = ("train", "test")


class DatasetContract(ConfiguredContract):
    """What every data set keeps. Subclass it as `class TestMine(DatasetContract): plugin = Mine`.

    Attributes:
        plugin: the data set's class.
        config: its options; what is left out has its default.
        root: a folder that holds it; None means a stand-in that it writes, or else its default place.
        some: at most so many videos of a subset are looked into.
    """

    plugin: ClassVar[type[Dataset]]
    root: ClassVar[Path | None] = None
    some: ClassVar[int] = 8
    _place: ClassVar[Path | None] = None
    _temporary: ClassVar[tempfile.TemporaryDirectory[str] | None] = None

    @classmethod
    def setup_class(cls) -> None:
        """Write the stand-in, where there is one and no root is given."""
        cls._place = cls.root
        if cls.root is None:
            cls._temporary = tempfile.TemporaryDirectory()
            try:
                cls.plugin.write_stand_in(Path(cls._temporary.name))
                cls._place = Path(cls._temporary.name)
            except ConfigError:  # it has none
                cls._place = None

    @classmethod
    def teardown_class(cls) -> None:
        """Remove the stand-in."""
        if cls._temporary is not None:
            cls._temporary.cleanup()
            cls._temporary = None

    # --------------------------------------------------------------------------------------------- without data

    def test_its_facts_make_sense(self) -> None:
        """`facts` is known without data; classes may be found in the data instead."""
        _check_facts(self.plugin.facts)
        assert self.plugin.splits, "splits is empty, expected the numbers of its official splits"

    def test_an_empty_folder_is_a_data_error(self) -> None:
        """Opening it, or the first question, raises DataError; or `verify` says what is missing."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                dataset = self.plugin(Path(folder), self.options())
                if not dataset.verify(self.split):
                    dataset.videos("train", self.split)
            except DataError as error:
                assert str(error), "the DataError of an empty folder says nothing; expected what is missing and where"

    # ------------------------------------------------------------------------------------------------- with data

    def test_what_was_opened_has_sound_facts(self) -> None:
        facts = self.opened().facts
        _check_facts(facts)
        assert facts.classes, "an opened data set has no classes"

    def test_videos_are_in_order_and_of_one_subset(self) -> None:
        dataset = self.opened()
        ids = {subset: [video.id for video in dataset.videos(subset, self.split)] for subset in SUBSETS}
        for subset, subset_ids in ids.items():
            assert subset_ids, f"there are no {subset} videos"
            assert subset_ids == sorted(set(subset_ids)), f"{subset} videos are not ordered by id, each once"
        both = set(ids["train"]) & set(ids["test"])
        assert not both, f"{sorted(both)[0]!r} is a training and a test video"

    def test_videos_are_described(self) -> None:
        for video in self.videos():
            assert min(video.num_frames, video.width, video.height) > 0, f"{video} has no frames or no size"
            classes = range(self.opened().facts.num_classes)
            assert all(label in classes for label in video.classes), f"{video.id} has classes {video.classes}"
            assert isinstance(video.group, str), (
                f"{video.id} has the group {video.group!r}, expected text, which is empty where it stands alone"
            )

    def test_truth_is_in_form(self) -> None:
        """Shapes, types, order by (frame, tube), boxes within the frame, labels and key frames."""
        dataset = self.opened()
        for video in self.videos():
            check_truth(dataset.truth(video.id), video, dataset.facts)

    def test_sources_exist(self) -> None:
        """Frames are one file, or images in order, that are there unless `verify` knows better."""
        dataset = self.opened()
        missing = {problem.video for problem in dataset.verify(self.split) if problem.severity == "error"}
        for video in self.videos():
            if video.id in missing or "" in missing:
                continue
            source = dataset.source(video.id)
            assert isinstance(source, VideoSource), f"source() gave {type(source).__name__}, expected VideoSource"
            assert (source.file is None) == bool(source.images), f"{video.id}: expected a file, or images, not both"
            for path in filter(None, (source.file, *source.images)):
                assert path.is_file(), f"{video.id}: {path} does not exist, and verify() does not say so"

    def test_an_unknown_video_is_a_data_error(self) -> None:
        dataset = self.opened()
        for ask in (dataset.truth, dataset.source):
            try:
                ask("a video that nobody has")
            except DataError:
                continue
            except Exception as error:  # whatever it is, it should have been a DataError
                raise AssertionError(f"an unknown id raises {type(error).__name__}, expected DataError") from error
            raise AssertionError("an unknown id is answered, expected DataError")

    def test_verify_names_problems(self) -> None:
        problems = self.opened().verify(self.split)
        assert isinstance(problems, list), f"verify() gave {type(problems).__name__}, expected a list of Problem"
        for problem in problems:
            assert isinstance(problem, Problem) and problem.what, f"verify() gave {problem!r}, expected a Problem"

    def test_the_fingerprint_is_of_the_data(self) -> None:
        """Two objects over the same data agree; text that names no folder."""
        first, second = self.open().fingerprint(), self.open().fingerprint()
        assert isinstance(first, str) and first, f"fingerprint() gave {first!r}, expected text"
        assert first == second, "two objects over the same data have different fingerprints"
        assert self._place is None or str(self._place) not in first, "the fingerprint names the folder of the data"

    def test_a_stand_in_is_whole_and_follows_from_its_seed(self) -> None:
        """What `write_stand_in` writes has no problems, and written again it has the same fingerprint."""
        if self._temporary is None or self._place is None:
            skip("it has no stand-in, or a root is given")
        problems = self.opened().verify(self.split)
        assert not problems, f"its own stand-in is incomplete: {problems[0]}"
        with tempfile.TemporaryDirectory() as folder:
            self.plugin.write_stand_in(Path(folder))
            again = self.plugin(Path(folder), self.options()).fingerprint()
        assert again == self.opened().fingerprint(), "two stand-ins of one seed have different fingerprints"

    def test_without_options_every_option_has_its_default(self) -> None:
        """Opened with no Config and with one of defaults it is the same data."""
        if any(field.is_required() for field in self.plugin.Config.model_fields.values()):
            skip("an option has no default")
        try:
            plain, spelled_out = self.plugin(self._place), self.plugin(self._place, self.plugin.Config())
            prints = plain.fingerprint(), spelled_out.fingerprint()
        except DataError as error:
            skip(f"there is no data to test on: {str(error).splitlines()[0]}")
        assert prints[0] == prints[1], "opened without a Config it is other data than with Config(), all defaults"
        assert plain.config == spelled_out.config, f"without a Config, config is {plain.config!r}, expected Config()"

    # ------------------------------------------------------------------------------------------------ opening it

    @property
    def split(self) -> int:
        """The first of its official splits."""
        return self.plugin.splits[0]

    def open(self) -> Dataset:
        """A new object over the data; skips where there is none."""
        try:
            dataset = self.plugin(self._place, self.options())
            dataset.videos("train", self.split)
        except DataError as error:
            skip(f"there is no data to test on: {str(error).splitlines()[0]}")
        return dataset

    def opened(self) -> Dataset:
        """The object that most tests share."""
        if "_dataset" not in vars(type(self)):
            type(self)._dataset = self.open()  # type: ignore[attr-defined]  # a cache of this very class
        dataset: Dataset = vars(type(self))["_dataset"]
        return dataset

    def videos(self) -> Iterator[Video]:
        """Some videos of each subset."""
        for subset in SUBSETS:
            yield from list(self.opened().videos(subset, self.split))[: self.some]


def _check_facts(facts: DatasetFacts) -> None:
    assert isinstance(facts, DatasetFacts), f"facts is {facts!r}, expected ssldet.contracts.DatasetFacts"
    assert facts.name and isinstance(facts.name, str), f"facts.name is {facts.name!r}, expected its plugin name"
    assert len(set(facts.classes)) == facts.num_classes, "facts.classes names a class twice"
    sizes = [edge for anchor in facts.anchors for edge in anchor]
    assert facts.anchors and all(len(anchor) == 2 for anchor in facts.anchors), "facts.anchors are not pairs (w, h)"
    assert all(edge > 0 and math.isfinite(edge) for edge in sizes), f"facts.anchors are {facts.anchors}, not sizes"
    labels = range(facts.num_classes)
    assert facts.evaluated is None or all(label in labels for label in facts.evaluated), (
        "facts.evaluated: no such label"
    )
    assert 0 < facts.default_ratio <= 1, f"facts.default_ratio is {facts.default_ratio}, expected a share in (0, 1]"
    assert facts.packed_from is None or facts.packed_from >= 1, (
        f"facts.packed_from is {facts.packed_from}, expected a size of frames in pixels, or None"
    )
    assert facts.numbering.step >= 1, f"facts.numbering is {facts.numbering}, expected a step of 1 or more"
    assert facts.class_ratios is None or len(facts.class_ratios) == facts.num_classes, (
        f"facts.class_ratios has {len(facts.class_ratios or ())} entries for {facts.num_classes} classes"
    )


def check_truth(truth: Truth, video: Video, facts: DatasetFacts) -> None:
    """Raises AssertionError where the annotation of a video is not in the form that `Truth` promises."""
    n, who = len(truth.frames_n), f"the truth of {video.id!r}"
    forms = {
        "frames_n": ((n,), np.int64),
        "boxes_n4": ((n, 4), np.float32),
        "labels_nk": ((n, facts.num_classes), np.bool_),
        "tubes_n": ((n,), np.int64),
        "key_frames_m": ((len(truth.key_frames_m),), np.int64),
    }
    for name, (shape, dtype) in forms.items():
        array = getattr(truth, name)
        assert array.shape == shape and array.dtype == dtype, (
            f"{who}: {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )
    rows = list(zip(truth.frames_n.tolist(), truth.tubes_n.tolist(), strict=True))
    assert rows == sorted(rows), f"{who}: rows are not ordered by (frame, tube)"
    keys = truth.key_frames_m.tolist()
    assert keys == sorted(set(keys)), f"{who}: key_frames_m is not sorted, each frame once"
    assert all(0 <= frame < video.num_frames for frame in keys), f"{who}: key frames outside 0..{video.num_frames - 1}"
    assert set(truth.frames_n.tolist()) <= set(keys), f"{who}: boxes on frames that are no key frames"
    _check_boxes(truth.boxes_n4, video, who)
    counts_n = truth.labels_nk.sum(axis=1)
    assert (counts_n >= 1).all(), f"{who}: a box without a label"
    assert facts.multilabel or (counts_n == 1).all(), f"{who}: several labels on a box of single-label data"


def _check_boxes(boxes_n4: np.ndarray, video: Video, who: str) -> None:
    assert np.isfinite(boxes_n4).all(), f"{who}: boxes that are not finite"
    assert (boxes_n4[:, 2:] > boxes_n4[:, :2]).all(), f"{who}: boxes without area; expected x1 < x2 and y1 < y2"
    edge = np.array([video.width, video.height] * 2, np.float32)
    inside = (boxes_n4 >= 0).all() and (boxes_n4 <= edge).all()
    assert inside, f"{who}: boxes outside the frame of {video.width} x {video.height} pixels"

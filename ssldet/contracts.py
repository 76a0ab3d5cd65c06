"""The contracts: what a plugin implements, and the records that pass between the core and plugins.

There are six kinds of plugin, found through entry points of the same name:

    ssldet.datasets     Dataset     who does what, where and when; where the frames lie
    ssldet.backbones    Backbone    how a Detector is built: clips -> boxes with confidence and class scores
    ssldet.strategies   Strategy    which losses a step has, on labelled and on unlabelled clips
    ssldet.metrics      Metric      detections + truth -> numbers, under a named protocol
    ssldet.executors    Executor    where the tasks of a grid are carried out
    ssldet.trackers     Tracker     where the numbers of a run's log go beside its file

Shape letters: b clips, t frames of a clip, h w pixels, n boxes, k classes, a anchors, c channels.
Boxes are xyxy float32 in pixels of the view (or video) they belong to. Frames count from 0 in arrays and
from `FrameNumbering.first` in files. Time is in frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from ssldet.errors import ConfigError, PluginError, RequestError, UnknownName, WeightsError

if TYPE_CHECKING:  # the command line reads this page without paying for torch
    from torch import Generator, Tensor, device, nn

    Module = nn.Module
else:
    Module = object  # which is why the class of a detector names nn.Module itself

API_VERSION = "2.1"
"""`major.minor` of this page. A plugin written for another major version is listed as incompatible."""

Subset = Literal["train", "test"]

TemporalReduction = Literal["auto", "sum", "mean"]
"""How L_tmp reads |.| of a vector over classes."""


class Options(BaseModel):
    """Base of every plugin's typed options: unknown keys are errors, values are checked, instances frozen.

    Numbers must be finite: NaN would pass every bound. A string literal below a field is its description.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


# --------------------------------------------------------------------------------------------- data sets


_Frames = TypeVar("_Frames", int, np.ndarray)


@dataclass(frozen=True, slots=True)
class FrameNumbering:
    """How files number frames: `first + index // step`. Dense data: (1, 1). AVA: seconds, (900, 30)."""

    first: int = 1
    step: int = 1

    def to_file(self, index: _Frames) -> _Frames:
        return self.first + index // self.step

    def to_index(self, number: _Frames) -> _Frames:
        return (number - self.first) * self.step


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set without having it.

    Attributes:
        name: its plugin name.
        classes: the K class names, in label order.
        anchors: A pairs (w, h) in cells of a 7 x 7 grid over the frame.
        multilabel: whether a box may carry several labels (AVA).
        evaluated: the labels that are scored; None means all.
        numbering: how detections files number frames.
        class_ratios: per class, its share of the training boxes (multi-label weighting); None means unweighted.
        poses: on multi-label data, how many leading classes exclude each other (softmax), AVA 14.
        default_ratio: the share of labelled training videos of a run that names none, in (0, 1]: the smallest that is
            published for these data.
        protocol: the evaluation protocol under which its numbers are shown where none is named; a metric that does not
            know it takes its own first one.
        packed_from: from this size of frames on, pixels, a run that does not say how frames are stored reads JPEGs: raw
            frames of the whole data set would take tens of gigabytes or more. None keeps them raw at all sizes.
    """

    name: str
    classes: tuple[str, ...]
    anchors: tuple[tuple[float, float], ...]
    multilabel: bool = False
    evaluated: tuple[int, ...] | None = None
    numbering: FrameNumbering = FrameNumbering()
    class_ratios: tuple[float, ...] | None = None
    poses: int = 0
    default_ratio: float = 0.2
    protocol: str = "standard"
    packed_from: int | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, slots=True)
class Video:
    """One video as the annotation describes it. `classes` stratifies splits and is never given to a strategy.

    `group` names what it was cut from (a film, a recording session): validation takes whole groups, and intervals
    draw them. "" means that it stands alone.
    """

    id: str
    num_frames: int
    width: int
    height: int
    classes: tuple[int, ...]
    group: str = ""


@dataclass(frozen=True, slots=True)
class VideoSource:
    """Where frames lie: one container file, or one image per frame in order.

    `rate` is the frames a second that the annotation counts; a file of another rate is sampled by presentation time.
    None takes the file's frames as they come.
    """

    file: Path | None = None
    images: tuple[Path, ...] = ()
    rate: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The annotation of one video, one row per box, ordered by (frame, tube).

    Attributes:
        frames_n: int64, frame index from 0.
        boxes_n4: float32 xyxy, pixels of the video.
        labels_nk: bool, one True a row, or several on multi-label data.
        tubes_n: int64, which tube of the video the box belongs to; -1 where boxes are not linked (AVA).
        key_frames_m: int64, sorted: the frames about which the annotation speaks, with boxes or as background.
    """

    frames_n: np.ndarray
    boxes_n4: np.ndarray
    labels_nk: np.ndarray
    tubes_n: np.ndarray
    key_frames_m: np.ndarray

    @property
    def annotated_frames(self) -> np.ndarray:
        """Frames with at least one box, sorted."""
        return np.unique(self.frames_n)

    @property
    def background_frames(self) -> np.ndarray:
        """Key frames without a box, sorted."""
        return np.setdiff1d(self.key_frames_m, self.frames_n)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a data set: what, where it was looked for, and how to mend it.

    `video` is the id of the one video that it concerns; "" where it concerns more. An "error" makes the data unfit for
    a run, a "doubt" is for a look.
    """

    what: str
    where: str = ""
    remedy: str = ""
    video: str = ""
    severity: Literal["error", "doubt"] = "error"

    def __str__(self) -> str:
        return "; ".join(part for part in (self.what, self.where and f"looked in {self.where}", self.remedy) if part)


class Dataset(ABC):
    """A data set on disk. Opening is cheap; truth is read on demand.

    A plugin sets `facts` on the class (so that it is known without data) and opens the root in `__init__`.
    Raises `DataError` from any method when files are absent or damaged.

    Attributes:
        Config: typed options; its fields become `--set dataset.NAME=VALUE`.
        config: the options that it was opened with.
        splits: numbers of its official splits.
        frozen_splits: package or folder inside one ("package:folder") with its published splits; "" where it has none.
        reported: what a published table says of it (column -> entry), to be shown beside what is counted.
    """

    api_version: ClassVar[str] = API_VERSION
    Config: ClassVar[type[Options]] = Options
    facts: DatasetFacts
    splits: ClassVar[tuple[int, ...]] = (1,)
    frozen_splits: ClassVar[str] = ""
    reported: ClassVar[Mapping[str, str]] = {}

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        """Open the data set below `root`; None means its default place, where it has one.

        `config` is an instance of `Config`; None means that every option has its default.
        """
        self.config = self.Config() if config is None else config

    @abstractmethod
    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        """The annotated videos of a subset of an official split, ordered by id."""

    @abstractmethod
    def truth(self, video_id: str) -> Truth:
        """The annotation of one video."""

    @abstractmethod
    def source(self, video_id: str) -> VideoSource:
        """Where the frames of one video lie."""

    @abstractmethod
    def verify(self, split: int = 1) -> list[Problem]:
        """Everything that is missing or inconsistent, without decoding videos; empty when complete."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of what defines the data (annotation, and names and sizes of video files), not of where it lies."""

    def layout(self) -> str:
        """Which of the layouts that it knows was found, in words, one line per kind of file."""
        return ""

    @classmethod
    def facts_under(cls, config: Options) -> DatasetFacts:
        """The facts under some options, without data; those of the class unless a data set says otherwise."""
        return cls.facts

    @classmethod
    def guide(cls) -> str:
        """Where to get it, its licence, the expected folders and sizes."""
        return ""

    @classmethod
    def write_stand_in(cls, folder: Path, seed: int = 0) -> None:
        """Write small made-up data into `folder`, in the layout and formats of the real data.

        Raises:
            ConfigError: this data set has no stand-in.
        """
        raise ConfigError(f"no stand-in data can be made like {cls.facts.name!r}")


# --------------------------------------------------------------------------------------------- detectors


class Predictions(ABC):
    """Raw output of a detector for b clips; what is in it is the detector's own affair, but for the frame logits.

    Attributes:
        frame_logits: (b, k + 1), background last; (b, k) on multi-label data; None without a frame head.
    """

    frame_logits: Tensor | None

    @abstractmethod
    def __len__(self) -> int:
        """The number of clips, b."""

    @abstractmethod
    def split(self, sizes: Sequence[int]) -> Sequence[Self]:
        """The predictions of the first `sizes[0]` clips, of the next `sizes[1]`, and so on; the sizes add up to b."""


@dataclass(slots=True)
class Decoded:
    """Decoded boxes of a batch, n a clip, nothing filtered.

    Attributes:
        boxes_bn4: xyxy in pixels of the view.
        confidence_bn: objectness in [0, 1].
        scores_bnk: class probabilities.
    """

    boxes_bn4: Tensor
    confidence_bn: Tensor
    scores_bnk: Tensor


@dataclass(slots=True)
class Cells:
    """The raw output of every cell of a dense detector, with gradients; n cells a clip, in the order of `decode`.

    Attributes:
        confidence_bn: objectness logits.
        classes_bnk: class logits.
        boxes_bn4: xyxy in pixels of the view.
        shapes: (anchors, height, width) of each level; their products add up to n, each level flattened in this order.
    """

    confidence_bn: Tensor
    classes_bnk: Tensor
    boxes_bn4: Tensor
    shapes: tuple[tuple[int, int, int], ...]


@dataclass(slots=True)
class Targets:
    """What a batch of b clips should be found to show.

    Attributes:
        clip_n: int64, the clip that each box belongs to; rows in order of assignment.
        boxes_n4: xyxy in pixels of the view.
        labels_nk: float 0/1.
        box_mask_b: bool: clips whose box loss counts. Elsewhere it is exactly 0, the no-object part included.
        frame_labels_b: int64 class of the key frame, k = background; or (b, k) float 0/1 on multi-label data.
        frame_mask_b: bool: clips whose frame loss counts.
        weights_n3: float >= 0, what each box weighs in the parts (box, objectness, class) of its loss; None means 1.
        ignored_clip_m, ignored_boxes_m4: boxes about which nothing is said: what overlaps one is no negative; None
            means there are none.
        background_weights_bn: float >= 0, what each of the detector's cells weighs in the no-object part, in the order
            of `Detector.cells`; None means 1.
        label_mask_nk: bool, on multi-label data: the classes of each box whose label counts; None means all.
        frame_label_mask_bk: bool, on multi-label data: the classes of each clip whose frame label counts; None means
            all. What does not count adds exactly 0, and means over classes stay means over all k.
    """

    clip_n: Tensor
    boxes_n4: Tensor
    labels_nk: Tensor
    box_mask_b: Tensor
    frame_labels_b: Tensor
    frame_mask_b: Tensor
    weights_n3: Tensor | None = None
    ignored_clip_m: Tensor | None = None
    ignored_boxes_m4: Tensor | None = None
    background_weights_bn: Tensor | None = None
    label_mask_nk: Tensor | None = None
    frame_label_mask_bk: Tensor | None = None

    def to(self, device: device) -> Targets:
        """The same targets on a device."""
        values: dict[str, Tensor | None] = {name: getattr(self, name) for name in Targets.__slots__}
        ahead = device.type != "cpu"  # need not wait for the device; on the CPU values must be there to be read
        moved = {name: value.to(device, non_blocking=ahead) for name, value in values.items() if value is not None}
        return replace(self, **moved)


class Detector(ABC, Module):
    """A network over clips. A subclass is an nn.Module as well: `class Mine(Detector, nn.Module)`.

    Core and strategies use nothing of it but what stands here and what nn.Module has. `GridDetector` of
    `ssldet.detector` is YOWO's form; an anchor-free one is as good.

    Attributes:
        facts: of the data set whose classes it predicts.
        frame_head: F, the module that makes the frame logits; None where it was not asked for. Its entries in a
            weights file begin with "frame_head.".
    """

    facts: DatasetFacts
    frame_head: nn.Module | None

    @property
    def has_frame_head(self) -> bool:
        return self.frame_head is not None

    @abstractmethod
    def forward(self, clips_bcthw: Tensor) -> Predictions:
        """Clips -> raw output.

        Args:
            clips_bcthw: (b, 3, t, h, w), float32 RGB in [0, 1]; frames in the order of time, the key frame last; h = w,
                a multiple of the stride. Mean and standard deviation are the network's own affair: apply within what
                its weights were trained with. Training may be under autocast.
        """

    @abstractmethod
    def losses(
        self, predictions: Predictions, targets: Targets, *, details: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Unweighted losses of a batch, averaged over its clips, masked ones included.

        Args:
            predictions: what `forward` gave.
            targets: boxes in pixels of the view, and frame labels.
            details: if given, the detached terms that make up `box` are written here, as `box/conf` and the like.

        Returns:
            `box`: L_bou; with a frame head also `frame`: L_frame. A clip that its mask excludes adds exactly 0.
        """

    @abstractmethod
    def decode(self, predictions: Predictions) -> Decoded:
        """All boxes in pixels of the view, nothing filtered."""

    @abstractmethod
    def cells(self, predictions: Predictions) -> Cells | None:
        """The raw output of every cell; None where a detector has no cells."""


class Backbone(ABC):
    """How a detector is built. One object per run; it holds options, not weights.

    Attributes:
        Config: typed options; its fields become `--set backbone.NAME=VALUE`.
        stride: pixels a cell of its (coarsest) grid; clips are a multiple of it along each side.
        parts: the parts that have weights files of their own: name -> path of the module in its detector.
    """

    api_version: ClassVar[str] = API_VERSION
    Config: ClassVar[type[Options]] = Options
    stride: ClassVar[int]
    parts: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Options) -> None:
        self.config = config

    @abstractmethod
    def build(self, facts: DatasetFacts, *, frame_head: bool) -> Detector:
        """A fresh detector with random initial weights drawn from torch's global generator."""

    def check_clips(self, frames: int, size: int) -> None:
        """Refuse clips that its detectors cannot take, before anything is trained. New in 2.1.

        Args:
            frames: of a clip.
            size: of each frame in pixels, a multiple of `stride`.

        Raises:
            ConfigError: says why.
        """

    def pretrained_files(self, dataset: str) -> Mapping[str, str]:
        """Part name -> file name below the weights root that `--pretrained` loads; empty: it has none."""
        return {}

    def installed_weights(self, dataset: str) -> Mapping[str, Path]:
        """Part name -> file that this machine holds elsewhere, taken where the weights root has none. New in 2.1.

        Raises:
            WeightsError: it is not what it should be.
        """
        return {}

    def weights_place(self, dataset: str) -> str:
        """Where `pretrained_files` can be had, in words that end a message; "": nobody knows. New in 2.1."""
        return ""

    def fetch_weights(self, part: str, dataset: str) -> Path | None:
        """Download one of `pretrained_files`, which `--download` allows; None: it cannot be had so. New in 2.1.

        Raises:
            WeightsError: it could not be downloaded, or is not what it should be.
        """
        return None

    def read_part(self, part: str, file: Path) -> Mapping[str, Tensor]:
        """The tensors of a weights file of one of `parts`, by the names they have in its module.

        Published files may be of any form; a safetensors file of the module's own entries is read as well.

        Raises:
            WeightsError: there is no such part, or the file is not what it should be.
        """
        raise WeightsError(f"this backbone has no part {part!r} with weights of its own")

    def part_options(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Part name -> options that make another network of it; `ssldet weights inspect` tries them. New in 2.1."""
        return {}

    def load_pretrained(self, detector: Detector, files: Mapping[str, Path]) -> Mapping[str, Any]:
        """Load weights files into a detector.

        Args:
            detector: one that `build` made; it is filled in place.
            files: some or all of `parts` -> the file of each.

        Returns:
            Part -> what was loaded, for the record: plain values, such as `apply_weights(...).as_dict()`.

        Raises:
            WeightsError: a file is not what it should be, or lacks an entry or has one too many.
        """
        return {}

    def describe(self, *, measure: bool = False) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Tables for `ssldet plugins show`: heading -> rows, each column -> plain value. New in 2.1.

        Args:
            measure: whether the user asks for what takes time, such as clips a second here.
        """
        return {}

    def parameter_parts(self, detector: Detector) -> Mapping[str, Iterable[nn.Parameter]]:
        """Part name -> its parameters, no one in two parts: what `train.lr_scale` can name. New in 2.1.

        By default those of the modules of `parts`.
        """
        return {part: detector.get_submodule(path).parameters() for part, path in self.parts.items()}

    def frozen_parts(self) -> Mapping[str, str]:
        """The parts that are not trained under its options, wholly or some of their layers -> the option that says so.

        A run that loads no weights into such a part is refused, since it would stay random. New in 2.1.
        """
        return {}

    def pretraining(self, dataset: str) -> Mapping[str, Any] | None:
        """The run that makes the weights for `pretrained_files`, where nobody publishes them; None: somebody does.

        It holds fields of an Experiment (strategy, dataset, dataset_options, ratio ...) without backbone and seed. The
        inference weights that such a run leaves serve as every one of the files.
        """
        return None

    def translate_weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Give the entries of a published checkpoint the names they have in a Detector; others are left as they are."""
        return state


# -------------------------------------------------------------------------------------------- strategies


class Geometry(Protocol):
    """The map from the weak to the strong view of b clips, both `size` pixels square."""

    size: int

    def to_strong(self, boxes_n4: Tensor, clip_n: Tensor) -> Tensor:
        """Boxes of the weak view in the strong view, not clipped. `clip_n`: the clip of each box."""
        ...

    def warp(self, map_bchw: Tensor) -> Tensor:
        """A dense map over the weak view, of any resolution, as the strong view shows it: bilinear, 0 outside."""
        ...


@dataclass(slots=True)
class LabelledBatch:
    """b labelled clips in the view that the student trains on.

    Attributes:
        clips_bcthw: the clips.
        targets: what they show, in pixels of this view.
        following: the clips that end one key frame later, in the same view, for the first p <= b clips (Eq. 10); None
            unless `Needs.temporal`.
        weak_bcthw: the weak view of the same clips; None unless `Needs.labelled_weak`.
        weak_targets: what that view shows, in its pixels; None likewise. New in 2.1.
    """

    clips_bcthw: Tensor
    targets: Targets
    following: Tensor | None = None
    weak_bcthw: Tensor | None = None
    weak_targets: Targets | None = None


@dataclass(slots=True)
class UnlabelledBatch:
    """b unlabelled clips in two views of the same frames.

    Attributes:
        weak_bcthw, strong_bcthw: the views.
        geometry: carries boxes and maps from weak to strong.
        index_b: int64 from 0, the same number whenever the same clip is drawn, and nothing more: for memories.
        following: the strong view's partners, as in LabelledBatch; None unless `Needs.temporal` or `weak_following`.
        weak_following: the weak view of these partners; None unless `Needs.weak_following`.
    """

    weak_bcthw: Tensor
    strong_bcthw: Tensor
    geometry: Geometry
    index_b: Tensor
    following: Tensor | None = None
    weak_following: Tensor | None = None


@dataclass(slots=True)
class Batch:
    """One step's clips, or one part of them.

    Attributes:
        labelled: the labelled clips.
        unlabelled: None in a labelled-only stage.
        generator: for whatever a strategy draws itself (on the CPU): its state follows from seed, step and part alone.
    """

    labelled: LabelledBatch
    unlabelled: UnlabelledBatch | None
    generator: Generator


@dataclass(slots=True)
class PseudoLabels:
    """What a strategy took for true in a step, in the weak view: read by the diagnostics, never fed back.

    `targets` are boxes in the weak view with the masks that say which clips counted; `candidates` is how many
    boxes stood above the confidence threshold before any agreement with a frame label.
    """

    targets: Targets
    candidates: int


@dataclass(slots=True)
class StepLosses:
    """Named, weighted loss terms, each averaged over clips; the loop sums and back-propagates them once.

    Attributes:
        terms: by name. Names of terms of unlabelled clips end in `_u`: the log sets their sum against the others'.
        pseudo_labels: what was taken for true, where something was.
        teacher_clips: clips that a teacher saw.
        extra_clips: clips that went through the student with gradients beside those of the batch: mirror images,
            mixtures, second views. The record counts them.
        details: for the log alone: detached parts of terms, as `box/conf`, which add up to their term `box`.
    """

    terms: dict[str, Tensor]
    pseudo_labels: PseudoLabels | None = None
    teacher_clips: int = 0
    details: dict[str, Tensor] = field(default_factory=dict)
    extra_clips: int = 0


def _rows_of_one_process(rows: Tensor) -> Tensor:
    return rows


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands.

    Attributes:
        step: from 0.
        steps: of how many in all.
        burn_in: the step at which the semi-supervised part starts.
        epoch: in units of the schedule, from 0: `step * train.epochs / steps`.
        gather: (n, ...) of what this process saw of a step -> the rows of all processes (`--devices`), in the order of
            the groups; in one process what it is given. For state that follows from what `losses` saw: to be called in
            `after_step`, where every process calls it as often; a scalar is `gather(value[None]).sum(0)`.
    """

    step: int
    steps: int
    burn_in: int
    epoch: float
    gather: Callable[[Tensor], Tensor] = field(default=_rows_of_one_process, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TrainingInfo:
    """What a strategy may know before it starts; nothing of it comes from unlabelled videos but their number.

    Attributes:
        class_counts: labelled boxes of each of the k classes.
        labelled_clips, unlabelled_clips: how many key frames clips are drawn from.
        steps, burn_in: as in Progress.
        fused_forward: labelled clips and the strong views of unlabelled ones are to go through the student in one call;
            asked of none but strategies that have `takes_one_forward`.
    """

    class_counts: tuple[int, ...]
    labelled_clips: int
    unlabelled_clips: int
    steps: int
    burn_in: int
    fused_forward: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What a strategy needs from the core.

    Attributes:
        frame_head: F is built and trained with L_frame.
        temporal: pairs of consecutive key frames are sampled and L_tmp is computed.
        unlabelled: unlabelled clips are sampled after the first stage.
        unlabelled_extent: "video" samples the whole untrimmed video, "action" only its action's temporal extent:
            no clip shows a frame outside.
        extra_labelled: after the first stage the labelled batch grows by as many clips, and partners, as
            `unlabelled` would take; the clips that every strategy sees stay among its rows.
        labelled_weak: labelled clips come in the weak view too.
        weak_following: the partners of unlabelled clips come in both views, with `temporal` or without: then unlabelled
            clips have partners, labelled ones have none, and the core computes no L_tmp.
        beta, delta: weights of L_frame on labelled (Eq. 6) and on unlabelled clips (L_u).
        temporal_weight: weight of L_tmp.
        temporal_reduction: of L_tmp over classes; "auto" is "sum" on single-label and "mean" on multi-label data.
    """

    frame_head: bool = False
    temporal: bool = False
    unlabelled: bool = True
    unlabelled_extent: Literal["video", "action"] = "video"
    extra_labelled: bool = False
    labelled_weak: bool = False
    weak_following: bool = False
    beta: float = 1.0
    delta: float = 1.0
    temporal_weight: float = 1.0
    temporal_reduction: TemporalReduction = "auto"

    @property
    def has_partners(self) -> bool:
        """Whether unlabelled clips come with partners."""
        return self.temporal or self.weak_following


class Strategy(ABC):
    """A training strategy: a small object that the core's loop calls; it owns no loop and sees no hidden truth.

    The first stage (labelled clips only: L_bou, and with `needs` L_frame and L_tmp) belongs to the core, so that
    strategies can share it. A step's clips come in groups: `train.bn_batch` labelled ones and what goes with them. From
    step `progress.burn_in` on the loop calls, per step: `group_losses` and backward, once for each part of the step
    (`train.micro_batch`, one or several groups), then the optimiser, then `after_step` once.
    """

    api_version: ClassVar[str] = API_VERSION
    Config: ClassVar[type[Options]] = Options
    takes_one_forward: ClassVar[bool] = False
    """Whether its losses heed `TrainingInfo.fused_forward`; a class that overrides them says so anew."""

    def __init__(self, config: Options) -> None:
        self.config = config

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What the core must supply under this configuration."""

    def start(self, student: Detector, info: TrainingInfo) -> None:
        """Called once, with the student as the first stage left it (or as it is resumed): copy the teacher here."""

    def trained_modules(self) -> Mapping[str, nn.Module]:
        """Modules of its own that are trained with the student, by name; asked for once, after `start` made them.

        The loop moves them to the device, gives their parameters to the optimiser and keeps them in checkpoints.
        """
        return {}

    @abstractmethod
    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        """The loss terms of one group of a step's clips."""

    def group_losses(self, batches: Sequence[Batch], student: Detector, progress: Progress) -> list[StepLosses]:
        """What `losses` gives for each of several groups of a step's clips.

        As it stands they are taken one after the other. Whoever overrides it runs the network over all of them at once
        (`ssldet.training.forward_groups`), which a GPU does sooner, and must give the same numbers.
        """
        return [self.losses(batch, student, progress) for batch in batches]

    def extra_clips(self, labelled: int, unlabelled: int) -> int:
        """Clips that go through the student with gradients beside those of a batch of so many: see `StepLosses`.

        `--dry-run` asks before anything is trained.
        """
        return 0

    def forget_step(self) -> None:
        """Called where the memory did not hold a step: forget what `losses` gathered of it since `after_step`.

        The same step is then taken again, in smaller parts.
        """

    def after_step(self, student: Detector, progress: Progress) -> None:
        """Called after the optimiser moved the student in step `progress.step`: move an averaged teacher here."""

    def thresholds(self) -> Mapping[str, float]:
        """Thresholds that move while it trains, by name, as they are now; for the log alone. New in 2.1."""
        return {}

    def evaluated(self, student: Detector) -> Detector:
        """The network that is scored: the student unless the strategy says otherwise."""
        return student

    def networks(self, student: Detector) -> Mapping[str, Detector]:
        """The networks whose scores are watched while they train (`train.eval_every`), by name; asked after `start`."""
        return {"student": student}

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs beside the student's."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave; called after `start`."""


# ----------------------------------------------------------------------------------------------- metrics


@dataclass(frozen=True, slots=True, eq=False)
class VideoDetections:
    """The detections of one video, as the file has them: nothing filtered or suppressed.

    Attributes:
        frames_n: int64, frame index from 0.
        boxes_n4: float32 xyxy, pixels of the video.
        confidence_n: float32 in [0, 1].
        scores_nk: float32 class probabilities; NaN where the file offers no such label for the box (long form).
    """

    frames_n: np.ndarray
    boxes_n4: np.ndarray
    confidence_n: np.ndarray
    scores_nk: np.ndarray

    def __len__(self) -> int:
        return len(self.frames_n)

    def __getitem__(self, rows: np.ndarray | slice) -> VideoDetections:
        """Some of the rows: a mask, indices or a slice."""
        return VideoDetections(self.frames_n[rows], self.boxes_n4[rows], self.confidence_n[rows], self.scores_nk[rows])

    @classmethod
    def concat(cls, parts: Sequence[VideoDetections]) -> VideoDetections:
        """The rows of at least one part, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A mean and what it is a mean of; None where a class has no truth and the protocol skips it."""

    mean: float | None
    per_class: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MetricResult:
    """Values of one metric under one protocol, in up to three forms, each by its key. Fractions 0-1.

    Attributes:
        thresholds: IoU threshold ("0.5"), or range of thresholds ("0.5:0.95"), -> its mean and classes.
        scalars: plain numbers without classes, such as the recall pair; None where undefined.
        kinds: name of a kind, such as a kind of error, -> its mean and classes.
        notes: what a reader must know (videos without truth, classes without truth).

    Raises:
        PluginError: two forms share a key, or a scalar is named as a field of the result.
    """

    protocol: str
    thresholds: Mapping[str, MetricValue] = field(default_factory=dict)
    scalars: Mapping[str, float | None] = field(default_factory=dict)
    kinds: Mapping[str, MetricValue] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = [*self.thresholds, *self.scalars, *self.kinds]
        repeated = {key for key in keys if keys.count(key) > 1} | self.__dataclass_fields__.keys() & self.scalars.keys()
        if repeated:
            raise PluginError(
                f"key {min(repeated)!r} of a metric's result is taken; give each number a name of its own"
            )

    @property
    def by_class(self) -> dict[str, MetricValue]:
        """What has classes, by its key: thresholds, then kinds."""
        return {**self.thresholds, **self.kinds}

    @property
    def numbers(self) -> dict[str, float | None]:
        """Every number by its key: the means of thresholds and kinds, and the scalars."""
        return {key: value.mean for key, value in self.by_class.items()} | dict(self.scalars)

    def value(self, key: str) -> float | None:
        """One number: a mean or a scalar; None where the protocol gives none.

        Raises:
            UnknownName: names the keys that there are.
        """
        if key not in self.numbers:
            raise UnknownName("key of the result", key, self.numbers)
        return self.numbers[key]


@dataclass(frozen=True, slots=True)
class PrecisionRule:
    """How a metric's average precision follows from hits in rank order; the forms are those of `ssldet.ops`.

    Attributes:
        form: the area below the envelope at every point, or below the bare curve by the trapezoid rule.
        epsilon: added to recall's denominator.
        skip_empty: a class without truth has no AP and leaves the mean, rather than 0.
    """

    form: Literal["every_point", "trapezoid"] = "every_point"
    epsilon: float = 0.0
    skip_empty: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class RankedDetections:
    """The detections of one class over all videos, in rank order: by falling score.

    Attributes:
        videos_n: int64, the place of each one's video in `Matches.videos`.
        outcomes_n: unsigned, bit b is set where it is a hit at `Matches.thresholds[b]`.
        counts_n: int64 >= 1, how many detections of the same video and outcome stand there one after the other.
    """

    videos_n: np.ndarray
    outcomes_n: np.ndarray
    counts_n: np.ndarray

    def __len__(self) -> int:
        return len(self.videos_n)


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Which detection of which video was a hit: all that an average precision follows from, video by video.

    Detections are matched within their video, so that these numbers can be computed over other sets of the same videos.

    Attributes:
        videos: ids of the videos taken in.
        thresholds: of IoU, at most 64.
        columns: key of the metric's result -> the thresholds, by place, whose AP it is the mean of.
        rule: how AP follows.
        truths_vk: int64, how many truths each video has of each of the k classes.
        ranked: label -> its detections, for every class that is scored.
    """

    videos: tuple[str, ...]
    thresholds: tuple[float, ...]
    columns: Mapping[str, tuple[int, ...]]
    rule: PrecisionRule
    truths_vk: np.ndarray
    ranked: Mapping[int, RankedDetections]


class Metric(ABC):
    """Detections and truth of one video at a time -> numbers. Memory must not grow with the frames of all videos.

    Attributes:
        protocols: the evaluation protocols it knows, the default first.
        columns: result key -> short column title, for tables ("0.5" -> "V@0.5").
    """

    api_version: ClassVar[str] = API_VERSION
    protocols: ClassVar[tuple[str, ...]]
    columns: ClassVar[Mapping[str, str]]

    @abstractmethod
    def __init__(self, facts: DatasetFacts, protocol: str) -> None:
        """Raises ConfigError for a protocol that it does not know."""

    @abstractmethod
    def update(self, video: Video, detections: VideoDetections, truth: Truth) -> None:
        """Take in one video. Videos come in any order, each once; one without detections comes with empty arrays."""

    @abstractmethod
    def compute(self) -> MetricResult:
        """The numbers over all videos taken in."""

    def matches(self) -> Matches | None:
        """What `compute` makes its thresholds' numbers of, video by video; None where it has no such form.

        Comparisons of runs draw test videos again from it. A run keeps it for every metric that gives it.
        """
        return None


# -------------------------------------------------------------------------------------------- executors

TaskKind = Literal["pretraining", "first stage", "run"]
"""What a task of a grid is: a run that makes initial weights, a first stage that runs share, or a run of a cell."""

TaskState = Literal["done", "to run", "queued", "running", "failed", "blocked"]
"""Where a task stands; "queued": it was handed to a batch system and has not begun."""


class GridTask(Protocol):
    """One piece of work of a grid, as an executor sees it: `ssldet.benchmark.tasks.attempt` does it, in any process.

    Attributes:
        kind: what it is; `key` names it within the grid and, for one results folder, for good.
        needs: keys of the tasks that must be done before.
        state: where it stands, `reason` why; the grid alone changes them.
        run_id, folder: of the run or first stage, once they are known.
        seconds: estimate of what it takes; `progress`: share of it that is done, 0-1.
        memory_bytes: estimate of the main memory that it takes; 0 where it is not known, as on accelerators.
        cores: CPU cores that it takes.
        title: what is done and on what, in one line.
    """

    kind: TaskKind
    key: str
    needs: tuple[str, ...]
    state: TaskState
    reason: str
    run_id: str
    folder: Path | None
    seconds: float
    progress: float
    memory_bytes: int

    @property
    def cores(self) -> int: ...

    @property
    def title(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a task is: `done` of `total` `unit` of a phase; `note` is what its reporter adds, losses say."""

    phase: str
    done: int
    total: int
    unit: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended; `details`: a traceback, where the error is no message for users.

    "interrupted": it left a checkpoint and can begin again at once. "held": another command is at it; it is asked for
    again in a while. "blocked": it was never begun, and `reason` says what stands in its way.
    """

    state: Literal["done", "failed", "interrupted", "held", "blocked"]
    reason: str = ""
    details: str = ""


class GridCallback:
    """Is called while an executor runs a grid. This one does nothing; the command line draws bars.

    The grid has taken in what happened by then. Workers count from 0: places at which a task is under way.
    """

    def began(self, worker: int, task: GridTask) -> None:
        """A worker has taken up a task."""

    def progressed(self, worker: int, task: GridTask, progress: TaskProgress) -> None:
        """The task is so far; called a few times a second at most."""

    def ended(self, worker: int, task: GridTask, result: TaskResult) -> None:
        """The task has ended."""

    def tick(self) -> None:
        """Called about twice a second."""

    def stop(self) -> bool:
        """Whether the executor should begin nothing more; what is under way leaves checkpoints or goes on elsewhere."""
        return False


class TaskGrid(Protocol):
    """The tasks of a grid, in the order in which they are best done; an executor tells it what becomes of each.

    Attributes:
        results: the results folder, which whatever carries out a task must see under the same path.
        tasks: all of them by key; more can appear when one is done.
    """

    @property
    def results(self) -> Path: ...

    @property
    def tasks(self) -> Mapping[str, GridTask]: ...

    def ready(self) -> Iterable[GridTask]:
        """Tasks that can begin: to run, and all that they need is done."""

    def waits_for_others(self) -> bool:
        """Whether tasks that other commands are at will be ready again in a while."""

    def queued(self, task: GridTask, reason: str = "") -> None:
        """A batch system has the task, and waits for what `reason` says."""

    def began(self, task: GridTask) -> None:
        """The task is under way."""

    def progressed(self, task: GridTask, progress: TaskProgress) -> None:
        """The task is so far."""

    def ended(self, task: GridTask, result: TaskResult) -> None:
        """The task has ended; what needs it can begin, or is blocked."""


class Executor(ABC):
    """Where the tasks of a grid are carried out: on this machine, through a batch system.

    Attributes:
        outlives: whether tasks go on without the process that handed them out: Ctrl-C then leaves them alone, and
            `submit`, `attach` and `cancel` are there.
    """

    api_version: ClassVar[str] = API_VERSION
    Config: ClassVar[type[Options]] = Options
    outlives: ClassVar[bool] = False

    def __init__(self, config: Options) -> None:
        self.config = config

    def check(self) -> None:
        """Called before anything is handed out.

        Raises:
            RequestError: nothing can be carried out here: what to install, or what does not answer.
        """

    def cores(self) -> int | None:
        """CPU cores that a task gets, None for a share of this machine's: how many threads its run takes by default."""
        return None

    @abstractmethod
    def run(self, grid: TaskGrid, *, jobs: int, callback: GridCallback) -> bool:
        """Carry out all tasks that can be, and wait for them.

        A task that fails is told to the grid, and the rest goes on. Nothing is begun twice: what an earlier command
        handed out is waited for.

        Args:
            jobs: tasks at a time, for executors without a queue of their own.
            callback: hears how it goes, and says when to stop.

        Returns:
            Whether it came to its end; False where the callback asked to stop. The same call goes on from there.
        """

    def submit(self, grid: TaskGrid) -> int:
        """Hand out all tasks that are to run, and return; gives how many. Raises RequestError where none can be."""
        raise RequestError(f"{type(self).__name__} carries tasks out only while the command runs; leave out --detach")

    def attach(self, grid: TaskGrid) -> None:
        """Tell the grid where the tasks stand that earlier commands handed out."""

    def cancel(self, grid: TaskGrid) -> int:
        """End what earlier commands handed out; gives how many tasks that were. Raises RequestError."""
        raise RequestError(f"{type(self).__name__} leaves nothing behind that could be cancelled; Ctrl-C stops it")


# --------------------------------------------------------------------------------------------- trackers

TrackedStatus = Literal["done", "failed", "interrupted"]
"""How a run ended, as far as one process carried it out."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run, as a tracker sees it.

    Attributes:
        id: of the run; the same run has it in every process that goes on with it.
        name: of its folder: strategy, data, ratio, split, seed and id.
        config: its settings, as its record has them.
        folder: where this tracker may keep files, shared by the runs of a results folder; it is there.
    """

    id: str
    name: str
    config: Mapping[str, Any]
    folder: Path


class Tracker(ABC):
    """Where the numbers of a run's log go beside its file, for others to show them.

    All calls come in their order, from a thread that the run does not wait for. What a call raises ends the tracking
    and is said in the log; the run goes on. A process that goes on with a run begins with `start` again and gives
    all lines from the first on: what the tracker had of the run is replaced. The generators of random numbers that all
    of a process shares are left alone: training may be drawing from them at that moment.
    """

    api_version: ClassVar[str] = API_VERSION
    Config: ClassVar[type[Options]] = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    def check(self) -> None:
        """Called before a run begins.

        Raises:
            RequestError: nothing can be tracked here: what to install.
        """

    @abstractmethod
    def start(self, run: TrackedRun) -> None:
        """A run begins, or goes on. By default nothing leaves this machine: a server is for an option to ask for."""

    @abstractmethod
    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a line of the log, after a training step: "losses/box", "lr", "pseudo_labels/boxes"."""

    @abstractmethod
    def finish(self, status: TrackedStatus, scores: Mapping[str, float]) -> None:
        """Nothing more comes. `scores`: those of the record as "metric/protocol/key", none where it is not done."""

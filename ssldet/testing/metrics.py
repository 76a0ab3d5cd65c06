"""The contract suite of metrics, on a few made-up videos."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from ssldet.contracts import DatasetFacts, Matches, Metric, MetricResult, MetricValue, Truth, Video, VideoDetections
from ssldet.errors import ConfigError, RequestError
from ssldet.evaluation.results import is_threshold
from ssldet.ops.average_precision import FORMS
from ssldet.testing.base import Contract
from ssldet.testing.tiny import MULTI_LABEL, SINGLE_LABEL

Rows = TypeVar("Rows", Truth, VideoDetections)
FRAMES = 24  # protocols may drop tubes of fewer than 15

Detector = Callable[[Truth, np.random.Generator], VideoDetections]


class MetricContract(Contract):
    """What every metric keeps. Subclass it as `class TestMine(MetricContract): plugin = Mine`.

    Attributes:
        plugin: the metric's class.
        data: the label kinds that it is tried on; those that it refuses with ConfigError are passed over.
        higher_is_better: of its first column.
    """

    plugin: ClassVar[type[Metric]]
    data: ClassVar[tuple[DatasetFacts, ...]] = (SINGLE_LABEL, MULTI_LABEL)
    higher_is_better: ClassVar[bool] = True

    def test_its_protocols_and_columns_are_named(self) -> None:
        protocols, columns = self.plugin.protocols, self.plugin.columns
        assert protocols and len(set(protocols)) == len(protocols), (
            f"protocols is {protocols!r}, expected distinct names"
        )
        assert columns and all(isinstance(title, str) for title in columns.values()), (
            f"columns is {columns!r}, expected result keys with titles"
        )

    def test_an_unknown_protocol_is_refused(self) -> None:
        try:
            self.plugin(self.data[0], "a protocol that nobody has")
        except RequestError:  # ConfigError or UnknownName
            return
        raise AssertionError("a protocol that it does not know is not refused; raise ConfigError")

    def test_every_column_is_in_the_result(self) -> None:
        """Under its first protocol; and the values are fractions, or None."""
        for build, facts in self.meters():
            result = score(build(), facts, perfect)
            missing = [key for key in self.plugin.columns if key not in result.numbers]
            assert not missing, (
                f"the result has no {missing[0]!r}, which columns promises; it has {sorted(result.numbers)}"
            )
            for key, value in result.numbers.items():
                assert value is None or 0 <= value <= 1, f"{key!r} is {value}, expected a fraction of 1 or None"

    def test_thresholds_are_numbers(self) -> None:
        """Such as "0.5", or a range "0.5:0.95"; any other name belongs among `kinds`."""
        for build, facts in self.meters():
            for key in score(build(), facts, perfect).thresholds:
                assert is_threshold(key), f"threshold {key!r} is no number and no range of numbers; return it as a kind"

    def test_the_result_names_its_protocol(self) -> None:
        for protocol in self.plugin.protocols:
            for build, facts in self.meters(protocol):
                result = score(build(), facts, perfect)
                assert isinstance(result, MetricResult), f"compute() gave {type(result).__name__}, not MetricResult"
                assert result.protocol == protocol, (
                    f"asked for protocol {protocol!r}, the result says {result.protocol!r}"
                )

    def test_perfect_detections_score_best_and_none_worst(self) -> None:
        """By the first column: perfect >= displaced >= none, and perfect > none."""
        first = next(iter(self.plugin.columns))
        sign = 1 if self.higher_is_better else -1
        for protocol in self.plugin.protocols:
            for build, facts in self.meters(protocol):
                best, middle, worst = (
                    sign * (score(build(), facts, detector).numbers.get(first) or 0.0)
                    for detector in (perfect, displaced, nothing)
                )
                where = f"column {first!r}, protocol {protocol!r}, {facts.name} data"
                assert best > worst, f"{where}: perfect detections score {sign * best}, none at all {sign * worst}"
                assert best >= middle >= worst, (
                    f"{where}: displaced detections score {sign * middle}, perfect {sign * best}, none {sign * worst}"
                )

    def test_the_order_of_videos_does_not_matter(self) -> None:
        for protocol in self.plugin.protocols:
            for build, facts in self.meters(protocol):
                orders = ((0, 1, 2, 3), (2, 0, 3, 1))
                one, other = (score(build(), facts, displaced, order).numbers for order in orders)
                differing = [key for key in one if not _same(one[key], other.get(key))]
                assert not differing, f"{differing[0]!r} depends on the order of the videos (protocol {protocol!r})"

    def test_computing_twice_gives_the_same(self) -> None:
        for build, facts in self.meters():
            meter = build()
            first, second = score(meter, facts, displaced).numbers, meter.compute().numbers
            assert all(_same(first[key], second.get(key)) for key in first), "a second compute() gives other numbers"

    def test_its_matches_give_its_numbers(self) -> None:
        """Where it gives `matches`, the AP that follows from them is what `compute` says, class by class."""
        for protocol in self.plugin.protocols:
            for build, facts in self.meters(protocol):
                meter = build()
                result, matches = score(meter, facts, displaced), meter.matches()
                if matches is None:
                    continue
                for key, label in itertools.product(matches.columns, matches.ranked):
                    assert key in result.thresholds, f"matches promise a threshold {key!r}, and the result has none"
                    name, follows = facts.classes[label], _follows(matches, label, key)
                    given = result.thresholds[key].per_class.get(name)
                    assert _same(given, follows), (
                        f"{key!r} of class {name!r} is {given}, and {follows} by its matches (protocol {protocol!r}, "
                        f"{facts.name} data)"
                    )

    def test_videos_without_truth_are_no_obstacle(self) -> None:
        """A video without any box, with detections and without; and no video at all."""
        for protocol in self.plugin.protocols:
            for build, facts in self.meters(protocol):
                meter, (video, truth) = build(), next(made_videos(facts))
                bare = _without_boxes(truth)
                meter.update(video, nothing(truth, _generator(video)), bare)
                _check_finite(meter.compute())
                other = build()
                other.update(video, perfect(truth, _generator(video)), bare)
                _check_finite(other.compute())
                _check_finite(build().compute())

    def meters(self, protocol: str | None = None) -> Iterator[tuple[Callable[[], Metric], DatasetFacts]]:
        """Makers of fresh meters under a protocol (None: the first), and the data of each that it applies to."""
        chosen, fitting = protocol or self.plugin.protocols[0], 0
        for facts in self.data:
            try:
                self.plugin(facts, chosen)
            except ConfigError:
                continue
            fitting += 1
            yield _Maker(self.plugin, facts, chosen), facts
        assert fitting, f"protocol {chosen!r} applies to none of {', '.join(facts.name for facts in self.data)}"


@dataclass(frozen=True)
class _Maker:
    plugin: type[Metric]
    facts: DatasetFacts
    protocol: str

    def __call__(self) -> Metric:
        return self.plugin(self.facts, self.protocol)


def score(meter: Metric, facts: DatasetFacts, detector: Detector, order: Sequence[int] = (0, 1, 2, 3)) -> MetricResult:
    """A meter's result over the made-up videos, in some order; what is handed over cannot be written to."""
    made = list(made_videos(facts))
    for place in order:
        video, truth = made[place]
        meter.update(video, _sealed(detector(truth, _generator(video))), _sealed(truth))
    return meter.compute()


# ------------------------------------------------------------------------------------------- videos, detections


def made_videos(facts: DatasetFacts) -> Iterator[tuple[Video, Truth]]:
    """Four videos of 24 frames in which a box wanders through frames 2 to 21; two boxes in the last."""
    for place in range(4):
        label = place % facts.num_classes
        yield (
            Video(f"v{place}", FRAMES, 320, 240, (label,)),
            _truth(facts, label, tubes=2 if place == 3 else 1, at=10 * place),
        )


def _truth(facts: DatasetFacts, label: int, tubes: int, at: int) -> Truth:
    rows = [(frame, tube) for frame in range(2, FRAMES - 2) for tube in range(tubes)]
    frames_n, tubes_n = np.array(rows, np.int64).T
    x_n, y_n = at + 3 * frames_n, 20 + 100 * tubes_n
    labels_nk = np.zeros((len(rows), facts.num_classes), bool)
    labels_nk[:, label] = True
    if facts.multilabel:
        labels_nk[:, (label + 1) % facts.num_classes] = True
        tubes_n = np.full(len(rows), -1)
    boxes_n4 = np.stack([x_n, y_n, x_n + 40, y_n + 60], axis=1).astype(np.float32)
    return Truth(frames_n, boxes_n4, labels_nk, tubes_n, np.arange(FRAMES))


def _without_boxes(truth: Truth) -> Truth:
    none = np.zeros(len(truth.frames_n), bool)
    rows = (truth.frames_n[none], truth.boxes_n4[none], truth.labels_nk[none], truth.tubes_n[none])
    return Truth(*rows, truth.key_frames_m)


def perfect(truth: Truth, generator: np.random.Generator) -> VideoDetections:
    """The truth, as a detector has it that makes no mistake."""
    confidence_n = np.ones(len(truth.frames_n), np.float32)
    return VideoDetections(truth.frames_n, truth.boxes_n4, confidence_n, truth.labels_nk.astype(np.float32))


def displaced(truth: Truth, generator: np.random.Generator) -> VideoDetections:
    """The truth, unsure: some boxes in place, some moved by a few pixels, some far away."""
    n = len(truth.frames_n)
    far_n1 = generator.choice([0.0, 1.0, 20.0], (n, 1))
    boxes_n4 = truth.boxes_n4 + np.tile(generator.uniform(-8, 8, (n, 2)), 2) * far_n1
    confidence_n = generator.uniform(0.3, 1, n).astype(np.float32)
    scores_nk = np.where(truth.labels_nk, 0.8, 0.1).astype(np.float32)
    return VideoDetections(truth.frames_n, boxes_n4.astype(np.float32), confidence_n, scores_nk)


def nothing(truth: Truth, generator: np.random.Generator) -> VideoDetections:
    """No detection at all: empty arrays."""
    return perfect(truth, generator)[:0]


def _generator(video: Video) -> np.random.Generator:
    return np.random.default_rng(int(video.id[1:]))


def _sealed(rows: Rows) -> Rows:
    """The same rows in arrays that refuse to be written to."""
    for name in type(rows).__dataclass_fields__:
        getattr(rows, name).flags.writeable = False
    return rows


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def _follows(matches: Matches, label: int, key: str) -> float | None:
    """What a class's AP is by a metric's matches; None where it has none."""
    ranked, truths = matches.ranked[label], int(matches.truths_vk[:, label].sum())
    if not truths and matches.rule.skip_empty:
        return None
    outcomes_n = np.repeat(ranked.outcomes_n, ranked.counts_n)
    form, bits = FORMS[matches.rule.form], matches.columns[key]
    return sum(form((outcomes_n >> bit & 1) == 1, truths, epsilon=matches.rule.epsilon) for bit in bits) / len(bits)


def _check_finite(result: MetricResult) -> None:
    per_class = [one for value in result.by_class.values() for one in _all_of(value)]
    for number in (*result.numbers.values(), *per_class):
        assert number is None or math.isfinite(number), f"a video without truth makes a value {number}"


def _all_of(value: MetricValue) -> list[float | None]:
    return list(value.per_class.values())

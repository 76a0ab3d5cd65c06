"""The contract suite of backbones: what a detector gives for clips of several lengths and sizes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor, nn

from ssldet.contracts import Backbone, DatasetFacts, Decoded, Detector, Options, Predictions
from ssldet.detector.weights import COUNTER, write_weights
from ssldet.errors import WeightsError
from ssldet.nn import frozen_layers
from ssldet.testing.base import ConfiguredContract, skip
from ssldet.testing.tiny import MULTI_LABEL, SINGLE_LABEL, tiny_targets

STRANGE = "an_entry_that_no_network_has"


def with_each_option_set(test: Callable[[Any], None]) -> Callable[[Any], None]:
    """A test that is done with each of `option_sets`; it is skipped where each of them skips it."""

    @functools.wraps(test)
    def done(self: BackboneContract) -> None:
        skipped = []
        for chosen in self.option_sets:
            self.chosen = chosen
            try:
                test(self)
            except AssertionError as error:
                raise AssertionError(f"with the options {dict(chosen)}: {error}" if chosen else str(error)) from error
            except SkipTest as error:
                skipped.append(str(error))
        if len(skipped) == len(self.option_sets):
            skip(skipped[0])

    return done


class BackboneContract(ConfiguredContract):
    """What every backbone keeps. Subclass it as `class TestMine(BackboneContract): plugin = Mine`.

    Attributes:
        plugin: the backbone's class.
        config: its options; narrow ones make the tests quick.
        option_sets: options beside `config`; every test is done with each of them, as in `({}, {"freeze": True})`.
        clips: pairs (frames of a clip, cells along each side of the grid) that it must take.
    """

    plugin: ClassVar[type[Backbone]]
    option_sets: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    chosen: Mapping[str, Any] = {}
    clips: ClassVar[tuple[tuple[int, int], ...]] = ((8, 2), (16, 3))

    @with_each_option_set
    def test_boxes_have_their_form(self) -> None:
        """n boxes a clip: (b, n, 4), (b, n), (b, n, k), finite float32, for every length and size of clips."""
        for facts in (SINGLE_LABEL, MULTI_LABEL):
            detector = self.detector(facts)
            for frames, cells in self.clips:
                decoded = detector.decode(_predict(detector, self.input(frames, cells)))
                n, what = decoded.boxes_bn4.shape[1], f"of {frames} frames, {cells} cells a side"
                _check_tensor(decoded.boxes_bn4, (2, n, 4), f"decoded boxes {what}")
                _check_tensor(decoded.confidence_bn, (2, n), f"decoded confidences {what}")
                _check_tensor(decoded.scores_bnk, (2, n, facts.num_classes), f"decoded class scores {what}")

    @with_each_option_set
    def test_cells_are_those_of_the_boxes(self) -> None:
        """Where there are cells: logits in the order of `decode`, and one cell a stride at the coarsest level."""
        for frames, side in self.clips:
            detector = self.detector(SINGLE_LABEL)
            predictions = _predict(detector, self.input(frames, side))
            cells, decoded = detector.cells(predictions), detector.decode(predictions)
            if cells is None:
                skip("it has no cells")
                return
            counted = sum(a * h * w for a, h, w in cells.shapes)
            n = decoded.boxes_bn4.shape[1]
            assert counted == n, f"the shapes of its cells add up to {counted}, and it decodes {n} boxes"
            grids = [shape[1:] for shape in cells.shapes]
            assert (side, side) in grids, f"no level has {side} x {side} cells on {side} strides a side: {grids}"
            _check_close(cells.confidence_bn.sigmoid(), decoded.confidence_bn, "cells' confidence and decode's")
            _check_close(cells.boxes_bn4, decoded.boxes_bn4, "cells' boxes and decode's")
            _check_tensor(cells.classes_bnk, (2, n, SINGLE_LABEL.num_classes), "class logits of cells")

    @with_each_option_set
    def test_predictions_can_be_split(self) -> None:
        """`len` is the number of clips; `split` gives those of the first clips, then of the next."""
        detector = self.detector(SINGLE_LABEL, frame_head=True)
        predictions = _predict(detector, self.input(*self.clips[0]))
        assert len(predictions) == 2, f"len() of the predictions of 2 clips is {len(predictions)}"
        whole = detector.decode(predictions)
        for clip, part in enumerate(predictions.split([1, 1])):
            assert len(part) == 1, f"len() of a split's part of 1 clip is {len(part)}"
            _check_close(detector.decode(part).boxes_bn4[0], whole.boxes_bn4[clip], "boxes of a split and of the whole")
            assert part.frame_logits is not None and predictions.frame_logits is not None, "split lost frame logits"
            _check_close(part.frame_logits[0], predictions.frame_logits[clip], "frame logits of a split and the whole")

    @with_each_option_set
    def test_masks_and_weights_count(self) -> None:
        """A clip outside the masks adds exactly 0 to both losses; weights of 1 change nothing, weights of 0 do."""
        detector = self.detector(SINGLE_LABEL, frame_head=True).train()
        targets = tiny_targets(SINGLE_LABEL, 2)
        nothing = torch.zeros(2, dtype=torch.bool)
        predictions = detector(self.input(*self.clips[0]))
        masked = detector.losses(predictions, replace(targets, box_mask_b=nothing, frame_mask_b=nothing))
        for name, term in masked.items():
            assert term.item() == 0, f"the loss {name!r} is {term.item()} where every clip is masked, expected 0"
        plain = detector.losses(predictions, targets)["box"]
        ones = detector.losses(predictions, replace(targets, weights_n3=torch.ones(2, 3)))["box"]
        _check_close(ones, plain, "the box loss with weights of 1 and without weights")
        zeros = detector.losses(predictions, replace(targets, weights_n3=torch.zeros(2, 3)))["box"]
        assert zeros < plain, "weights_n3 of 0 leave the box loss as it is"

    @with_each_option_set
    def test_details_are_parts_of_the_box_loss(self) -> None:
        """What `details` take up adds up to the box loss, as scalars without gradient; nothing there is right too."""
        detector = self.detector(SINGLE_LABEL).train()
        details: dict[str, Tensor] = {}
        targets = tiny_targets(SINGLE_LABEL, 2)
        losses = detector.losses(detector(self.input(*self.clips[0])), targets, details=details)
        for name, part in details.items():
            assert name.startswith("box/"), f"details hold {name!r}, expected names such as 'box/conf'"
            assert part.shape == () and not part.requires_grad, f"detail {name!r} is no detached scalar"
        if details:
            _check_close(
                torch.stack(tuple(details.values())).sum(), losses["box"].detach(), "details' sum and box loss"
            )

    @with_each_option_set
    def test_masks_of_classes_count(self) -> None:
        """Multi-label data: the labels of classes outside the masks change no loss, and those inside do."""
        detector = self.detector(MULTI_LABEL, frame_head=True).train()
        targets = tiny_targets(MULTI_LABEL, 2)
        predictions = detector(self.input(*self.clips[0]))
        labels = {"labels_nk": 1 - targets.labels_nk, "frame_labels_b": 1 - targets.frame_labels_b}
        other = replace(targets, **labels)
        for count, name in ((False, "outside"), (True, "inside")):
            masks = {
                "label_mask_nk": torch.full_like(targets.labels_nk, count, dtype=torch.bool),
                "frame_label_mask_bk": torch.full_like(targets.frame_labels_b, count, dtype=torch.bool),
            }
            one, two = (detector.losses(predictions, replace(each, **masks)) for each in (targets, other))
            for term, value in one.items():
                equal = bool(torch.isclose(value, two[term]))
                verb = "change" if count else "leave"
                assert equal != count, f"labels of classes {name} the masks should {verb} the loss {term!r}"

    @with_each_option_set
    def test_the_frame_head_is_built_where_it_is_asked_for(self) -> None:
        """Logits are (b, k + 1), or (b, k) on multi-label data; without a frame head there are none."""
        for facts, wanted in ((SINGLE_LABEL, SINGLE_LABEL.num_classes + 1), (MULTI_LABEL, MULTI_LABEL.num_classes)):
            found = _predict(self.detector(facts, frame_head=True), self.input(*self.clips[0]))
            _check_tensor(found.frame_logits, (2, wanted), f"frame logits on {facts.name} data")
        without = self.detector(SINGLE_LABEL, frame_head=False)
        assert without.frame_head is None, "frame_head=False still builds a frame head"

    @with_each_option_set
    def test_gradients_reach_every_part(self) -> None:
        """In a training step every trained parameter gets a finite gradient, and every part some that is not 0."""
        for facts in (SINGLE_LABEL, MULTI_LABEL):
            detector = self.detector(facts, frame_head=True).train()
            self.step(detector, facts)
            for name, parameter in detector.named_parameters():
                _check_gradient(name, parameter)
            for part in (*dict(detector.named_children()), *self.plugin.parts.values()):
                _check_part(part, detector.get_submodule(part))

    @with_each_option_set
    def test_frozen_parts_stay_as_they_are(self) -> None:
        """What is frozen in `parts` is named by `frozen_parts`; a step in training mode moves no statistics of it."""
        detector = self.detector(SINGLE_LABEL, frame_head=True).train()
        known = dict(detector.named_modules())
        layers = {part: dict(frozen_layers(known[path])) for part, path in self.plugin.parts.items() if path in known}
        said = set(self.plugin(self.options()).frozen_parts())
        frozen = {part for part, within in layers.items() if within}
        assert said == frozen, (
            f"frozen_parts() names {sorted(said)}; layers are frozen in {sorted(frozen)} of its parts"
        )
        before = {name: value.clone() for name, value in detector.state_dict().items()}
        self.step(detector, SINGLE_LABEL)
        for name, layer in frozen_layers(detector):
            entries = layer.state_dict(prefix=f"{name}.")
            moved = [entry for entry, value in entries.items() if _differ(value, before[entry])]
            assert not moved, (
                f"{moved[0]} moves though {name} is frozen: keep it in evaluation mode (ssldet.nn.FrozenParts)"
            )

    @with_each_option_set
    def test_weights_of_a_part_come_back(self) -> None:
        """A file of a part's entries is read and fills this part of another network, and nothing else of it."""
        parts = self.parts_to_load()
        source, target = (self.detector(SINGLE_LABEL, seed=seed) for seed in (3, 4))
        for part, path in parts:
            state = source.get_submodule(path).state_dict()
            before = {name: value.clone() for name, value in target.state_dict().items()}
            with _weights_file(state) as file:
                _check_entries(part, self.plugin(self.options()).read_part(part, file), state)
                report = self.plugin(self.options()).load_pretrained(target, {part: file})
            assert part in report, f"the report of load_pretrained says nothing of the part {part}: {dict(report)}"
            prefix = f"{path}." if path else ""
            for name, value in target.state_dict().items():
                own = name.startswith(prefix)
                verb, wanted = ("does not fill", state[name[len(prefix) :]]) if own else ("moves", before[name])
                assert not _differ(value, wanted), f"load_pretrained of the part {part} {verb} {name}"

    @with_each_option_set
    def test_weights_that_do_not_fit_are_told_of(self) -> None:
        """A file that lacks an entry, or has one too many, is refused with WeightsError, or the report names it."""
        parts = self.parts_to_load()
        detector = self.detector(SINGLE_LABEL)
        for part, path in parts:
            state = dict(detector.get_submodule(path).state_dict())
            lost = next(name for name in reversed(state) if not name.endswith(COUNTER))
            self.check_refusal(detector, part, {n: v for n, v in state.items() if n != lost}, f"lacks {lost}", lost)
            self.check_refusal(detector, part, state | {STRANGE: torch.zeros(1)}, f"has {STRANGE} besides", STRANGE)

    @with_each_option_set
    def test_the_same_seed_gives_the_same_weights(self) -> None:
        """Initial weights come from torch's global generator and nowhere else."""
        first, second = (self.detector(SINGLE_LABEL, seed=3).state_dict() for _ in range(2))
        moved = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
        assert not moved, f"two networks of one seed differ in {moved[0]}"
        other = self.detector(SINGLE_LABEL, seed=4).state_dict()
        assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items()), (
            "two networks of different seeds are equal; initial weights must come from torch's global generator"
        )

    @with_each_option_set
    def test_a_prediction_depends_on_its_own_clip_alone(self) -> None:
        """In evaluation mode: the same clip gives the same boxes, beside whatever other clip it stands."""
        detector, clips = self.detector(SINGLE_LABEL), self.input(*self.clips[0])
        together, again, alone = (detector.decode(_predict(detector, shown)) for shown in (clips, clips, clips[:1]))
        for name in Decoded.__slots__:
            first, second, single = (getattr(decoded, name) for decoded in (together, again, alone))
            assert torch.equal(first, second), f"two predictions of the same clips differ in {name}"
            _check_close(first[:1], single, f"{name} of a clip and of the same clip beside another")

    @with_each_option_set
    def test_its_parts_are_modules_of_the_detector(self) -> None:
        """The paths in `parts`, which name what has weights files of its own, exist."""
        known = dict(self.detector(SINGLE_LABEL, frame_head=True).named_modules())
        missing = [f"{name} -> {path}" for name, path in self.plugin.parts.items() if path not in known]
        assert not missing, f"parts names modules that do not exist: {', '.join(missing)}"

    def parts_to_load(self) -> list[tuple[str, str]]:
        """`parts`, of which there must be some."""
        if not self.plugin.parts:
            skip("it has no parts with weights files of their own")
        return list(self.plugin.parts.items())

    def check_refusal(self, detector: Detector, part: str, state: Mapping[str, Tensor], how: str, entry: str) -> None:
        """A file of these tensors is refused by read_part or load_pretrained, or the report names the entry."""
        backbone = self.plugin(self.options())
        with _weights_file(state) as file:
            try:
                report = backbone.load_pretrained(detector, {part: file})
            except WeightsError:
                return
        assert entry in str(report), f"a file of the part {part} that {how} is loaded, and the report does not name it"

    def step(self, detector: Detector, facts: DatasetFacts) -> None:
        """Losses and gradients of two clips, in the mode that the detector is in."""
        predictions = detector(self.input(*self.clips[0]))
        torch.stack(list(detector.losses(predictions, tiny_targets(facts, 2)).values())).sum().backward()

    def options(self) -> Options:
        """The Config that a test runs with."""
        options: Options = self.plugin.Config(**{**self.config, **self.chosen})
        return options

    def detector(self, facts: DatasetFacts, *, frame_head: bool = False, seed: int = 0) -> Detector:
        """A fresh network with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detector = self.plugin(self.options()).build(facts, frame_head=frame_head)
        assert isinstance(detector, Detector), f"build() gave {type(detector).__name__}, expected a Detector"
        assert isinstance(detector, nn.Module), "the detector is no nn.Module; derive it from Detector and nn.Module"
        return detector

    def input(self, frames: int, cells: int) -> Tensor:
        """Two clips, (2, 3, frames, size, size), of `cells` strides a side."""
        size = cells * self.plugin.stride
        return torch.rand(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _predict(detector: Detector, clips_bcthw: Tensor) -> Predictions:
    found: Predictions = detector.eval()(clips_bcthw)
    return found


def _check_tensor(found: Tensor | None, shape: tuple[int, ...], what: str) -> None:
    came = None if found is None else (tuple(found.shape), found.dtype)
    assert came == (shape, torch.float32), f"{what}: expected float32 {shape}, got {came}"
    assert found is not None and torch.isfinite(found).all(), f"{what}: not finite"


def _check_close(one: Tensor, other: Tensor, what: str) -> None:
    assert torch.allclose(one, other, atol=1e-4, rtol=1e-3), f"{what} differ"


def _check_gradient(name: str, parameter: nn.Parameter) -> None:
    gradient = parameter.grad
    if not parameter.requires_grad:
        assert gradient is None, f"{name} is frozen and has a gradient"
        return
    assert gradient is not None, f"no gradient reaches {name}: it is trained and takes no part in the losses"
    assert torch.isfinite(gradient).all(), f"the gradient of {name} is not finite"


def _check_part(part: str, module: nn.Module) -> None:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    moved = any(parameter.grad is not None and parameter.grad.any() for parameter in trained)
    assert moved or not trained, f"no gradient reaches {part}"


def _check_entries(part: str, came: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    names = sorted(came.keys() ^ state.keys())
    assert not names, f"read_part({part!r}) of a file of this part: {names[0]} is in one of them only"
    differing = [name for name, value in came.items() if _differ(value, state[name])]
    assert not differing, f"read_part({part!r}) changes {differing[0]}"


def _differ(one: Tensor, other: Tensor) -> bool:
    return not torch.equal(one, other.to(one))


@contextmanager
def _weights_file(state: Mapping[str, Tensor]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "part.safetensors")
        write_weights(file, state)
        yield file

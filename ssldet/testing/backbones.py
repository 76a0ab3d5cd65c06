"""The contract suite of backbones: what the parts give for clips of several lengths and sizes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ssldet.contracts import Backbone, DatasetFacts, DetectorParts, Predictions
from ssldet.detector.detector import Detector
from ssldet.detector.region import RegionOptions
from ssldet.testing.base import ConfiguredContract
from ssldet.testing.tiny import MULTI_LABEL, SINGLE_LABEL, tiny_targets


class BackboneContract(ConfiguredContract):
    """What every backbone keeps. Subclass it as `class TestMine(BackboneContract): plugin = Mine`.

    Attributes:
        plugin: the backbone's class.
        config: its options; narrow ones make the tests quick.
        clips: pairs (frames of a clip, cells along each side of the grid) that it must take.
    """

    plugin: ClassVar[type[Backbone]]
    clips: ClassVar[tuple[tuple[int, int], ...]] = ((8, 2), (16, 3))

    def test_the_grid_has_one_cell_a_stride(self) -> None:
        """(b, a * (5 + k), size / stride, size / stride), float32 and finite, for every length and size."""
        for facts in (SINGLE_LABEL, MULTI_LABEL):
            detector = self.detector(facts)
            for frames, cells in self.clips:
                found = _predict(detector, self.input(frames, cells))
                depth = len(facts.anchors) * (5 + facts.num_classes)
                _check_tensor(
                    found.grid, (2, depth, cells, cells), f"the grid of {frames} frames, {cells} cells a side"
                )

    def test_the_frame_head_is_built_where_it_is_asked_for(self) -> None:
        """Logits are (b, k + 1), or (b, k) on multi-label data; without a frame head there are none."""
        for facts, wanted in ((SINGLE_LABEL, SINGLE_LABEL.num_classes + 1), (MULTI_LABEL, MULTI_LABEL.num_classes)):
            found = _predict(self.detector(facts, frame_head=True), self.input(*self.clips[0]))
            _check_tensor(found.frame_logits, (2, wanted), f"frame logits on {facts.name} data")
        without = self.detector(SINGLE_LABEL, frame_head=False)
        assert without.frame_head is None, "frame_head=False still builds a frame head"

    def test_gradients_reach_every_part(self) -> None:
        """A training step's losses and gradients are finite, and some gradient reaches G, P and F."""
        for facts in (SINGLE_LABEL, MULTI_LABEL):
            detector = self.detector(facts, frame_head=True).train()
            predictions = detector(self.input(*self.clips[0]))
            torch.stack(list(detector.losses(predictions, tiny_targets(facts, 2)).values())).sum().backward()
            for part in ("features", "box_head", "frame_head"):
                _check_part(part, getattr(detector, part))

    def test_the_same_seed_gives_the_same_weights(self) -> None:
        """Initial weights come from torch's global generator and nowhere else."""
        first, second = (self.detector(SINGLE_LABEL, seed=3).state_dict() for _ in range(2))
        moved = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
        assert not moved, f"two networks of one seed differ in {moved[0]}"
        other = self.detector(SINGLE_LABEL, seed=4).state_dict()
        assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items()), (
            "two networks of different seeds are equal; initial weights must come from torch's global generator"
        )

    def test_a_prediction_depends_on_its_own_clip_alone(self) -> None:
        """In evaluation mode: the same clip gives the same grid, beside whatever other clip it stands."""
        detector, clips = self.detector(SINGLE_LABEL), self.input(*self.clips[0])
        together, again = _predict(detector, clips).grid, _predict(detector, clips).grid
        assert torch.equal(together, again), "two predictions of the same clips differ in evaluation mode"
        alone = _predict(detector, clips[:1]).grid
        assert torch.allclose(together[:1], alone, atol=1e-4, rtol=1e-3), "a clip's grid depends on its neighbours"

    def test_its_parts_are_modules_of_the_detector(self) -> None:
        """The paths in `parts`, which name what has weights files of its own, exist."""
        known = dict(self.detector(SINGLE_LABEL, frame_head=True).named_modules())
        missing = [f"{name} -> {path}" for name, path in self.plugin.parts.items() if path not in known]
        assert not missing, f"parts names modules that do not exist: {', '.join(missing)}"

    def detector(self, facts: DatasetFacts, *, frame_head: bool = False, seed: int = 0) -> Detector:
        """A fresh network with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = self.plugin(self.options()).build(facts, frame_head=frame_head)
        assert isinstance(parts, DetectorParts), f"build() gave {type(parts).__name__}, expected DetectorParts"
        return Detector(parts, facts=facts, stride=self.plugin.stride, region=RegionOptions(form="giou"))

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


def _check_part(part: str, module: nn.Module) -> None:
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    unfit = [name for name, p in trained if p.grad is not None and not torch.isfinite(p.grad).all()]
    assert not unfit, f"the gradient of {part}.{unfit[0]} is not finite"
    assert not trained or any(p.grad is not None and p.grad.any() for _, p in trained), f"no gradient reaches {part}"

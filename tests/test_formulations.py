"""Formulations of 3D convolutions: numbers and gradients are those of torch's own, and measuring moves nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from helpers import FACTS
from torch import Tensor, nn

import ssldet
from ssldet.config import resolve
from ssldet.nn import ChosenFormulations, Conv3d, choose_formulations, formulation_choice
from ssldet.nn.formulations import formulations_of
from ssldet.runs import planning

with torch.random.fork_rng():
    torch.manual_seed(0)
    LAYERS = {
        "grouped": Conv3d(64, 64, 3, 1, 1, groups=32, bias=False),
        "grouped, strided": Conv3d(64, 128, 3, 2, 1, groups=16),
        "depthwise": Conv3d(16, 16, 3, (1, 2, 2), 1, groups=16),
        "first": Conv3d(3, 8, 7, (1, 2, 2), 3, bias=False),
        "first, uneven": Conv3d(2, 4, (3, 4, 5), (2, 2, 3), (1, 2, 0)),
        "unpadded": Conv3d(4, 8, (3, 1, 3), bias=True),
        "pointwise": Conv3d(8, 16, 1),
        "pointwise, strided": Conv3d(8, 16, 1, 2, bias=False),
    }
EVERY = [(name, way) for name, layer in LAYERS.items() for way in formulations_of(layer)]
FORMATS = {"contiguous": torch.contiguous_format, "last": torch.channels_last_3d}


def with_gradients(layer: Conv3d, x: Tensor) -> list[Tensor]:
    layer.zero_grad()
    x = x.detach().requires_grad_()
    out = layer(x)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape))
    gradients = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    return [out.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("name", "way"), EVERY)
def test_a_formulation_gives_the_numbers_and_gradients_of_torch(name: str, way: str, form: str) -> None:
    layer = copy.deepcopy(LAYERS[name]).double()
    layer.weight.data = layer.weight.data.contiguous(memory_format=FORMATS[form])
    for frames in (3, 4):
        x = torch.rand(2, layer.in_channels, frames + 4, 6, 7, dtype=torch.double)
        x = x.contiguous(memory_format=FORMATS[form])
        expected = with_gradients(layer, x)
        layer.formulation = way
        for ours, theirs in zip(with_gradients(layer, x), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        layer.formulation = None


@pytest.mark.parametrize("way", ["frames", "stacked", "squares"])
def test_the_result_lies_as_the_layer_does(way: str) -> None:
    layer = copy.deepcopy(LAYERS["first"]).to(memory_format=torch.channels_last_3d)
    layer.formulation = way
    for form in FORMATS.values():
        assert layer(torch.rand(2, 3, 8, 6, 7).contiguous(memory_format=form)).is_contiguous(
            memory_format=torch.channels_last_3d
        )


def test_the_layers_of_resnext_have_all_of_them() -> None:
    ways = {way for name in ("grouped", "pointwise") for way in formulations_of(LAYERS[name])}
    assert {"matmul", "frames", "stacked", "blocks of 8", "blocks of 64"} <= ways


def test_squares_are_for_layers_without_dilation_in_space() -> None:
    spread = Conv3d(3, 8, 3, (1, 2, 2), 1, dilation=(1, 2, 2))
    assert "stacked" in formulations_of(spread) and "squares" not in formulations_of(spread)


@pytest.mark.parametrize("other", [{"dilation": 2}, {"padding_mode": "replicate"}, {"padding": "same"}])
def test_what_they_do_not_know_is_left_to_torch(other: dict[str, object]) -> None:
    assert formulations_of(Conv3d(4, 4, 3, groups=2, **{"padding": 1, **other})) == {}  # type: ignore[arg-type]


def test_a_clip_shorter_than_the_kernel_is_seen_through_its_padding() -> None:
    layer = copy.deepcopy(LAYERS["first"])
    x = torch.rand(1, 3, 2, 8, 8)
    expected = layer(x)
    for way in ("frames", "stacked"):
        layer.formulation = way
        torch.testing.assert_close(layer(x), expected)


# ------------------------------------------------------------------------------------------------------ the choice


@dataclass(slots=True)
class Timings:
    """Seconds that layers and networks are said to take; how often they were asked for."""

    quickest: str | None
    network: list[float]
    asked: int = 0


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> Timings:
    made = Timings("frames", [3.0, 2.0, 1.0])
    monkeypatch.setattr(formulation_choice, "_chosen", {})

    def quickest(layer: Conv3d, x: Tensor, layout: str, backward: bool) -> str | None:
        made.asked += 1
        return made.quickest if made.quickest in formulations_of(layer) else None

    monkeypatch.setattr(formulation_choice, "_quickest", quickest)
    monkeypatch.setattr(formulation_choice, "_seconds_of_network", lambda *_: made.network.pop(0))
    return made


def network() -> nn.Module:
    torch.manual_seed(0)
    return ssldet.build_detector("yowo_nano", dataset=FACTS, width=4, dropout=0.0)


def ways(module: nn.Module) -> set[str | None]:
    return {layer.formulation for layer in module.modules() if isinstance(layer, Conv3d)}


def test_the_quickest_is_taken_and_named(timings: Timings) -> None:
    detector, clips = network(), torch.rand(2, 3, 8, 32, 32)
    expected = detector.eval()(clips).grid
    chosen = choose_formulations(detector, clips, backward=True)
    assert chosen.as_record() == {"layout": "channels last", "formulations": {"frames": 5}, "times_as_fast": 3.0}
    assert ways(detector) == {"frames", None}
    torch.testing.assert_close(detector(clips).grid, expected)
    assert ways(copy.deepcopy(detector)) == {"frames", None}  # a teacher's too


def test_a_network_is_measured_once_a_process(timings: Timings) -> None:
    clips = torch.rand(2, 3, 8, 32, 32)
    choose_formulations(network(), clips, backward=True)
    asked = timings.asked
    again = network()
    choose_formulations(again, clips, backward=True)
    assert timings.asked == asked and ways(again) == {"frames", None}
    timings.network = [1.0, 2.0, 2.0]
    choose_formulations(again, clips, backward=False)
    assert timings.asked == 2 * asked


def test_a_network_stays_as_it_is_where_nothing_is_clearly_quicker(timings: Timings) -> None:
    timings.network = [1.0, 0.99, 0.98]
    detector = network()
    before = [parameter.stride() for parameter in detector.parameters()]
    chosen = choose_formulations(detector, torch.rand(2, 3, 8, 32, 32), backward=True)
    assert chosen.as_record() == {"layout": "as it is", "formulations": {}, "times_as_fast": 1.0}
    assert ways(detector) == {None} and before == [parameter.stride() for parameter in detector.parameters()]


def test_measuring_moves_neither_weights_nor_statistics_nor_draws() -> None:
    detector = network().train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    chosen = choose_formulations(detector, torch.rand(2, 3, 8, 32, 32, generator=torch.Generator()), backward=True)
    assert set(chosen.seconds) == {"as it is", "contiguous", "channels last"}
    assert torch.equal(torch.rand(3), expected)
    after = detector.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert detector.training and all(parameter.grad is None for parameter in detector.parameters())


def test_a_network_without_3d_convolutions_has_no_choice() -> None:
    chosen = choose_formulations(
        nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), torch.rand(2, 3, 4, 8, 8), backward=False
    )
    assert chosen.as_record()["layout"] == "as it is"


# ------------------------------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize(
    ("setting", "device", "measured"),
    [("auto", "cpu", False), ("plain", "cpu", False), ("measured", "cpu", True), ("auto", "meta", True)],
)
def test_a_run_measures_where_its_machine_says_so(
    setting: str, device: str, measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"strategy": "supervised", "dataset": "synthetic"}
    config = resolve(asked, preset="smoke", assignments=[f"convolutions={setting}"])
    assert config.experiment == resolve(asked, preset="smoke").experiment  # what the id is made of
    plan = SimpleNamespace(config=config, device=torch.device(device))
    calls = []
    choice = ChosenFormulations("channels last", {"layer": "matmul"}, {"as it is": 2.0, "channels last": 1.0})
    monkeypatch.setattr(planning, "choose_formulations", lambda *args, **options: calls.append(args) or choice)
    record = planning.choose_convolutions(plan, network())  # type: ignore[arg-type]
    assert len(calls) == measured
    assert record["layout"] == ("channels last" if measured else "as it is")

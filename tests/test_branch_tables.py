"""What `ssldet plugins show` says of the branches of yowo."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ssldet import cli, plugin_info
from ssldet_backbones.branches import description
from ssldet_backbones.branches.branch import Branch, BranchKind
from ssldet_backbones.branches.catalogue import KINDS_2D, KINDS_3D
from ssldet_backbones.yowo_nano import YOWONano


class OneLayer(Branch):
    channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(3, 8, (1, 3, 3), (1, 32, 32), (0, 1, 1), groups=1, bias=True)

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        return self.layer(clips_bcthw).mean(2)

    def stages(self) -> list[list[nn.Module]]:
        return [[self.layer]]


def kind(**fields: int) -> BranchKind:
    return BranchKind("one_layer", OneLayer, lambda path: {}, origin="us", licence="MIT", weights="nowhere", **fields)


@pytest.mark.parametrize(("least", "frames"), [(1, 16), (32, 32)])
def test_multiplications_are_those_of_a_clip(least: int, frames: int) -> None:
    (row,) = description.rows_3d([kind(least_frames=least)], measure=False)
    assert row["parameters"] == 8 * (3 * 9 + 1) and row["stages"] == 1
    assert description.multiplications(OneLayer(), (1, 3, frames, 224, 224)) == 8 * 3 * 9 * frames * 7 * 7
    assert row["GMAC"] == round(8 * 3 * 9 * frames * 7 * 7 / 1e9, 2)
    assert list(row) == ["name", "parameters", "GMAC", "channels", "stages", "licence", "weights", "origin"]


def test_speed_is_measured_when_asked() -> None:
    (row,) = description.rows_3d([kind()], measure=True)
    assert row["clips/s"] > 0


def test_yowo_lists_its_branches() -> None:
    """Parameters and multiplications are those that are published for the network and by timm."""
    done = CliRunner().invoke(cli.main, ["plugins", "show", "yowo", "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    types = {row["option"]: row["type"] for row in content["options"]}
    assert (types["freeze_2d"], types["branch_2d"]) == ("bool | int >= 0", "str")
    assert types["anchors"] == "tuple[tuple[float, float], ...] | None"
    rows = {row["name"]: row for heading in ("3D branches", "2D branches") for row in content[heading]}
    assert {kind.name for kind in (*KINDS_3D, *KINDS_2D)} < rows.keys()
    assert rows["resnext101"]["parameters"] == 47_521_216 and rows["darknet19"]["parameters"] == 50_962_889
    assert rows["timm:resnet18"]["parameters"] == 11_176_512  # 11,689,512 without the classifier's 513,000
    for name, published in (("resnext101", 38.2), ("darknet19", 4.3), ("timm:resnet18", 1.82), ("timm:resnet50", 4.11)):
        assert rows[name]["GMAC"] == pytest.approx(published, rel=0.01)
    assert rows["timm:resnet18"]["licence"] == "apache-2.0"
    assert "huggingface.co/timm/resnet18" in rows["timm:resnet18"]["weights"]
    assert "clips/s" not in rows["darknet19"]


def test_a_table_is_printed_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        YOWONano, "describe", lambda self, measure: {"Speed": [{"name": "a", "clips": 12345, "on": measure}]}
    )
    done = CliRunner().invoke(cli.main, ["plugins", "show", "yowo_nano", "--measure"])
    assert done.exit_code == 0, done.output
    assert "Speed:\n  name  clips   on\n  a     12,345  True\n" in done.stdout


def test_other_backbones_have_no_tables_and_a_broken_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plugin_info.describe(plugin_info.choose("yowo_nano", None))
    assert "tables" not in plain and list(plain)[-1] == "parts"
    monkeypatch.setattr(YOWONano, "describe", lambda self, measure: 1 / 0)
    broken = plugin_info.describe(plugin_info.choose("yowo_nano", None))
    assert broken["tables"] == "not known (ZeroDivisionError: division by zero)"

"""What is fixed about the synthetic data: classes, sizes, anchors.

A class is a look and a motion. Every look occurs with two motions and every motion with two looks, so neither is
enough. Every look wears the same three colours, on other parts of the body. Every pose of a motion is also held by
figures that stand still, so a single frame cannot tell a motion, nor whether there is one.
"""

from __future__ import annotations

from ssldet.contracts import DatasetFacts

VERSION = 5
"""Raised whenever the generator's output changes: it names the folder and enters the fingerprint."""

WIDTH, HEIGHT, FPS = 160, 120, 25

LOOKS = ("coral", "teal", "amber")
"""Named after the colour of the torso."""

MOTIONS = ("wave", "jump", "dash")
"""Arms swing; the body goes up and down; the body goes left and right."""

CLASSES: tuple[tuple[str, str], ...] = (
    ("coral", "wave"),
    ("coral", "jump"),
    ("teal", "jump"),
    ("teal", "dash"),
    ("amber", "dash"),
    ("amber", "wave"),
)

ANCHORS = ((1.75, 3.22), (1.93, 3.77), (2.39, 3.46), (2.22, 4.21), (2.82, 4.02))
"""k-means (IoU) of the training boxes of seed 0, in cells of a 7 x 7 grid; `anchors.py` computes them."""

FACTS = DatasetFacts(
    name="synthetic",
    classes=tuple(f"{look}_{motion}" for look, motion in CLASSES),
    anchors=ANCHORS,
)

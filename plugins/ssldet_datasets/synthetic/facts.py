"""What is fixed about the synthetic data: classes, sizes, anchors.

A class is a look and a motion. Every look occurs with two motions and every motion with two looks, so neither is
enough. Every look wears the same three colours, on other parts of the body. Every pose of a motion is also held by
figures that stand still, so a single frame cannot tell a motion, nor whether there is one.

The classes to pretrain on wear the three other orders of the colours and make two of the movements at once.
"""

from __future__ import annotations

from ssldet.contracts import DatasetFacts, FrameNumbering

VERSION = 5
"""Raised whenever the generator's output changes: it names the folder and enters the fingerprint."""

WIDTH, HEIGHT, FPS = 160, 120, 25

LOOKS = ("coral", "teal", "amber")
"""Named after the colour of the torso."""

MOTIONS = ("wave", "jump", "dash")
"""Arms swing; the body goes up and down; the body goes left and right."""

Kinds = tuple[tuple[str, str], ...]
"""Pairs of a look and a motion: what a video may be about."""

CLASSES: Kinds = (
    ("coral", "wave"),
    ("coral", "jump"),
    ("teal", "jump"),
    ("teal", "dash"),
    ("amber", "dash"),
    ("amber", "wave"),
)

PRETRAINING_CLASSES: Kinds = (
    ("brick", "star"),
    ("brick", "hop"),
    ("petrol", "hop"),
    ("petrol", "flap"),
    ("ochre", "flap"),
    ("ochre", "star"),
)
"""Torsos as coral, teal, amber, with the colours of legs and head exchanged; wave + jump, jump + dash, wave + dash."""

POSES = ("stand", *MOTIONS)
"""What people do on multi-label data: exactly one of these."""
CROWD, CROWD_IOU = "crowd (another person)", 0.3
"""A label that rests on two people: their boxes have a greater IoU than this."""

ANCHORS = ((1.75, 3.22), (1.93, 3.77), (2.39, 3.46), (2.22, 4.21), (2.82, 4.02))
"""k-means (IoU) of the training boxes of seed 0, in cells of a 7 x 7 grid; `anchors.py` computes them."""


def _single_label(kinds: Kinds) -> DatasetFacts:
    return DatasetFacts(name="synthetic", classes=tuple(map("_".join, kinds)), anchors=ANCHORS, protocol="yowo")


FACTS = _single_label(CLASSES)
PRETRAINING_FACTS = _single_label(PRETRAINING_CLASSES)

PEOPLE_FACTS = DatasetFacts(
    name="synthetic",
    classes=(*POSES, *LOOKS, CROWD),
    anchors=ANCHORS,
    multilabel=True,
    evaluated=tuple(range(len(POSES) + len(LOOKS))),
    numbering=FrameNumbering(first=1, step=5),
    class_ratios=(0.243, 0.277, 0.237, 0.243, 0.325, 0.321, 0.354, 0.079),
    poses=len(POSES),
)
"""Like AVA: whoever is there has a pose and a look, on every fifth frame. The rare label is not scored."""

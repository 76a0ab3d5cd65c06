"""What is known of the public data sets without having them: classes in label order, anchors, conventions.

Anchors are YOWO's, (w, h) in cells of a 7 x 7 grid.
"""

from __future__ import annotations

from ssldet.contracts import DatasetFacts

JHMDB = DatasetFacts(
    name="jhmdb",
    classes=(
        "brush_hair",
        "catch",
        "clap",
        "climb_stairs",
        "golf",
        "jump",
        "kick_ball",
        "pick",
        "pour",
        "pullup",
        "push",
        "run",
        "shoot_ball",
        "shoot_bow",
        "shoot_gun",
        "sit",
        "stand",
        "swing_baseball",
        "throw",
        "walk",
        "wave",
    ),
    anchors=(
        (0.95878, 3.10197),
        (1.67204, 4.0040),
        (1.75482, 5.64937),
        (3.09299, 5.80857),
        (4.91803, 6.25225),
    ),
)

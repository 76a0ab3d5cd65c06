"""What happens in a video, drawn at random: who stands where, who acts when, and how the camera shakes.

Lengths are in pixels, y points down, times in frames, angles in radians. A figure's place is that of its feet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssldet_datasets.synthetic.facts import CLASSES, FPS, HEIGHT, LOOKS, MOTIONS, WIDTH

FRAMES = (30, 50)
SHORT_EVERY = 6
"""One video in so many, of each class alike, shows its action in a small part only; the others in most of it."""
ACTION_SHARE = {True: (0.15, 0.35), False: (0.88, 0.98)}
"""Shares of the frames, by whether the action is short. Tubes are linked over whole videos: a short one is missed."""
TWO_ACTORS = 0.35
BYSTANDERS = (0.3, 0.45, 0.25)
"""Chances of no, one and two bystanders."""
MOST_FIGURES = 3
ABSENT = 0.25
"""Chance that an actor is away, not idle, outside its action (only where a bystander is there)."""
BODY = (0.45, 0.64)
"""Height of a body, as a share of the frame's."""
FAVOURITE = 0.2
"""Chance that a class gets its own background; else one is drawn among those of all classes."""
OCCLUDED = 0.4
JITTER = 4
"""Most pixels that the camera strays from where it points."""

SWING = {"arm": np.radians(62), "lift": 0.17, "shift": 0.26}
"""Half the stroke of each motion: arms (angle), body up and down, body sideways (shares of the height)."""
DRIVEN = {"wave": "arm", "jump": "lift", "dash": "shift"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One person. Arrays have one entry a frame; `label` is None and `acts_t` all False for a bystander.

    Attributes:
        height: of the body, arms down.
        look: index of LOOKS.
        feet_t2: (x, y) of the feet.
        arm_t: how far the arms are raised, 0 = hanging.
        leg_t: how far the legs are spread.
        visible_t: whether it is drawn.
        acts_t: whether it does what its label says.
    """

    label: int | None
    height: float
    look: int
    feet_t2: np.ndarray
    arm_t: np.ndarray
    leg_t: np.ndarray
    visible_t: np.ndarray
    acts_t: np.ndarray
    tint: np.ndarray


@dataclass(frozen=True, slots=True)
class Bar:
    """An object that passes in front: its left edge per frame, its width, top, and grey level."""

    left_t: np.ndarray
    width: float
    top: float
    grey: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A video before it is drawn. Figures are ordered from back to front; `camera_t2` is added to all places."""

    num_frames: int
    figures: tuple[Figure, ...]
    camera_t2: np.ndarray
    background: int
    bar: Bar | None


def draw_scene(rng: np.random.Generator, label: int, short: bool) -> Scene:
    """Make up a video of one class: one or two actors, up to two bystanders, a short or a long action."""
    num_frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    actors = 2 if rng.random() < TWO_ACTORS else 1
    bystanders = min(int(rng.choice(3, p=BYSTANDERS)), MOST_FIGURES - actors)
    window = _window(rng, num_frames, short)
    figures = [
        _figure(rng, num_frames, window, place, label if i < actors else None, alone=bystanders == 0)
        for i, place in enumerate(_places(rng, actors + bystanders))
    ]
    own = rng.random() < FAVOURITE
    return Scene(
        num_frames=num_frames,
        figures=tuple(sorted(figures, key=lambda figure: float(figure.feet_t2[:, 1].max()))),
        camera_t2=_camera(rng, num_frames),
        background=label if own else int(rng.integers(len(CLASSES))),
        bar=_bar(rng, num_frames) if rng.random() < OCCLUDED else None,
    )


def _places(rng: np.random.Generator, count: int) -> np.ndarray:
    """Where `count` figures stand along x, as shares of the width: spread out, in random order."""
    slots = (np.arange(count) + 0.5) / count
    return rng.permutation(slots + rng.uniform(-0.25, 0.25, count) / count)


def _figure(
    rng: np.random.Generator, num_frames: int, window: tuple[int, int], place: float, label: int | None, alone: bool
) -> Figure:
    times = np.arange(num_frames)
    height = HEIGHT * rng.uniform(*BODY)
    start, stop = window[0] + int(rng.integers(2)), window[1] - int(rng.integers(2))
    acts = np.zeros(num_frames, bool) if label is None else (times >= start) & (times < stop)
    motion = None if label is None else CLASSES[label][1]
    look = int(rng.integers(len(LOOKS))) if label is None else LOOKS.index(CLASSES[label][0])
    stroke = {name: _stroke(rng, times, start, stop, DRIVEN.get(motion or "") == name) for name in SWING}
    drift = rng.uniform(-0.35, 0.35) * (times - num_frames / 2) if label is None else 0.0
    sway = SWING["shift"] * height * stroke["shift"]
    ground = rng.uniform(height * (1 + 2 * SWING["lift"]) + JITTER + 2, HEIGHT - JITTER - 2)
    x = _within_frame(place * WIDTH + drift + sway, 0.4 * height + JITTER)
    y = ground - SWING["lift"] * height * (1 + stroke["lift"])
    away = label is not None and not alone and rng.random() < ABSENT
    return Figure(
        label=label,
        height=height,
        look=look,
        feet_t2=np.stack([x, y], 1),
        arm_t=np.radians(92) + SWING["arm"] * stroke["arm"],
        leg_t=np.radians(20 + 14 * stroke["shift"]),
        visible_t=acts if away else np.ones(num_frames, bool),
        acts_t=acts,
        tint=rng.uniform(0.85, 1.15) * rng.uniform(0.93, 1.07, 3),
    )


def _within_frame(x_t: np.ndarray, reach: float) -> np.ndarray:
    """A course along x, moved as a whole so that it stays `reach` away from the sides."""
    return x_t + max(reach - x_t.min(), 0) - max(x_t.max() - (WIDTH - reach), 0)


def _window(rng: np.random.Generator, num_frames: int, short: bool) -> tuple[int, int]:
    """Start and stop (exclusive) of what happens in a video; its actors begin and end within a frame of it."""
    length = round(num_frames * rng.uniform(*ACTION_SHARE[short]))
    start = int(rng.integers(num_frames - length + 1))
    return start, start + length


def _stroke(rng: np.random.Generator, times: np.ndarray, start: int, stop: int, driven: bool) -> np.ndarray:
    """A coordinate in [-1, 1] over time: swinging within [start, stop) if driven, else held at a random phase.

    It is held before and after, too, and drawn from the same distribution, so that one frame cannot tell.
    """
    phase, hertz = rng.uniform(0, 2 * np.pi), rng.uniform(2.2, 3.0)
    moving = np.clip(times, start, stop - 1) - start if driven else np.zeros(len(times))
    return np.sin(phase + 2 * np.pi * hertz / FPS * moving)


def _camera(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Whole-pixel shifts (t, 2): a slow walk and a tremble."""
    walk = np.cumsum(rng.normal(0, 0.3, (num_frames, 2)), 0)
    shifts = np.rint(walk - walk.mean(0) + rng.normal(0, 0.5, (num_frames, 2)))
    return np.clip(shifts, -JITTER, JITTER).astype(np.int64)


def _bar(rng: np.random.Generator, num_frames: int) -> Bar:
    speed = rng.choice([-1, 1]) * rng.uniform(0.5, 4.0)
    middle = rng.uniform(0.2, 0.8) * WIDTH
    return Bar(
        left_t=middle + speed * (np.arange(num_frames) - num_frames * rng.uniform(0.3, 0.7)),
        width=float(rng.uniform(6, 16)),
        top=float(rng.choice([0, rng.uniform(0.3, 0.7) * HEIGHT])),
        grey=float(rng.uniform(30, 210)),
    )


assert set(DRIVEN) == set(MOTIONS)

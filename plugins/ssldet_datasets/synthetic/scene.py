"""What happens in a video, drawn at random: who stands where, who acts when, and how the camera shakes.

Lengths are in pixels, y points down, times in frames, angles in radians. A figure's place is that of its feet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssldet_datasets.synthetic.facts import FPS, HEIGHT, POSES, WIDTH, Kinds

FRAMES = (30, 50)
TRIMMED_FRAMES = (24, 40)
GATHERING_FRAMES = (40, 60)
"""Fewest and most frames of a video."""
SHORT_EVERY = 6
"""One video in so many, of each class alike, shows its action in a small part only; the others in most of it."""
ACTION_SHARE = {True: (0.15, 0.35), False: (0.88, 0.98)}
"""Shares of the frames, by whether the action is short. Tubes are linked over whole videos: a short one is missed."""
TWO_ACTORS = 0.35
BYSTANDERS = (0.3, 0.45, 0.25)
"""Chances of no, one and two bystanders."""
COMPANY = (0.25, 0.45, 0.3)
"""Chances that no, one and two others are at a gathering."""
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
DRIVEN = {
    "wave": ("arm",),
    "jump": ("lift",),
    "dash": ("shift",),
    "star": ("arm", "lift"),
    "hop": ("lift", "shift"),
    "flap": ("arm", "shift"),
}
"""Which strokes a motion makes."""


Role = tuple[str | tuple[str, ...], str | None]
"""A look, or several to draw one from; and a motion, None for a bystander."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One person. Arrays have one entry a frame; `motion` is None and `acts_t` all False for a bystander.

    Attributes:
        look, motion: how it is dressed and what it does.
        height: of the body, arms down.
        feet_t2: (x, y) of the feet.
        arm_t: how far the arms are raised, 0 = hanging.
        leg_t: how far the legs are spread.
        visible_t: whether it is drawn.
        acts_t: whether it makes its motion.
        tint: light on it, per colour channel.
    """

    look: str
    motion: str | None
    height: float
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


def untrimmed(rng: np.random.Generator, kinds: Kinds, kind: int, short: bool) -> Scene:
    """A video of one kind: one or two actors, up to two bystanders, a short or a long action."""
    num_frames = _length(rng, FRAMES)
    actors = 2 if rng.random() < TWO_ACTORS else 1
    bystanders = min(int(rng.choice(3, p=BYSTANDERS)), MOST_FIGURES - actors)
    window = _window(rng, num_frames, short)
    roles: list[Role] = [kinds[kind]] * actors + [(looks(kinds), None)] * bystanders
    figures = [
        _figure(rng, num_frames, window, place, role, alone=bystanders == 0)
        for place, role in zip(_places(rng, len(roles)), roles, strict=True)
    ]
    return _scene(rng, num_frames, figures, kinds, kind)


def trimmed(rng: np.random.Generator, kinds: Kinds, kind: int, short: bool) -> Scene:
    """A video of one kind: one actor, alone, who acts from the first frame to the last; `short` has no meaning."""
    num_frames = _length(rng, TRIMMED_FRAMES)
    window = (-1, num_frames + 1)  # actors begin and end up to a frame within it
    figures = [_figure(rng, num_frames, window, place, kinds[kind], alone=True) for place in _places(rng, 1)]
    return _scene(rng, num_frames, figures, kinds, kind)


def gathering(rng: np.random.Generator, kinds: Kinds, kind: int, short: bool) -> Scene:
    """One to three people, each with a look, a motion (or none) and a time of their own; the first is of `kind`."""
    num_frames = _length(rng, GATHERING_FRAMES)
    places = _places(rng, 1 + int(rng.choice(3, p=COMPANY)))
    roles: list[Role] = [kinds[kind], *((looks(kinds), _any_motion(rng)) for _ in places[1:])]
    figures = [
        _figure(rng, num_frames, _window(rng, num_frames, short), place, role, alone=len(places) == 1)
        for place, role in zip(places, roles, strict=True)
    ]
    return _scene(rng, num_frames, figures, kinds, kind)


def looks(kinds: Kinds) -> tuple[str, ...]:
    """The looks of some kinds, each once, in order."""
    return tuple(dict.fromkeys(look for look, _ in kinds))


def _any_motion(rng: np.random.Generator) -> str | None:
    pose = POSES[rng.integers(len(POSES))]
    return pose if pose in DRIVEN else None


def _length(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _scene(rng: np.random.Generator, num_frames: int, figures: list[Figure], kinds: Kinds, kind: int) -> Scene:
    """Put figures before a background, a camera before them, and perhaps a bar between."""
    own = rng.random() < FAVOURITE
    return Scene(
        num_frames=num_frames,
        figures=tuple(sorted(figures, key=lambda figure: float(figure.feet_t2[:, 1].max()))),
        camera_t2=_camera(rng, num_frames),
        background=kind if own else int(rng.integers(len(kinds))),
        bar=_bar(rng, num_frames) if rng.random() < OCCLUDED else None,
    )


def _places(rng: np.random.Generator, count: int) -> np.ndarray:
    """Where `count` figures stand along x, as shares of the width: spread out, in random order."""
    slots = (np.arange(count) + 0.5) / count
    return rng.permutation(slots + rng.uniform(-0.25, 0.25, count) / count)


def _figure(
    rng: np.random.Generator, num_frames: int, window: tuple[int, int], place: float, role: Role, *, alone: bool
) -> Figure:
    outfits, motion = role
    times = np.arange(num_frames)
    height = HEIGHT * rng.uniform(*BODY)
    start, stop = window[0] + int(rng.integers(2)), window[1] - int(rng.integers(2))
    acts = np.zeros(num_frames, bool) if motion is None else (times >= start) & (times < stop)
    look = outfits if isinstance(outfits, str) else outfits[rng.integers(len(outfits))]
    stroke = {name: _stroke(rng, times, start, stop, name in DRIVEN.get(motion or "", ())) for name in SWING}
    drift = rng.uniform(-0.35, 0.35) * (times - num_frames / 2) if motion is None else 0.0
    sway = SWING["shift"] * height * stroke["shift"]
    ground = rng.uniform(height * (1 + 2 * SWING["lift"]) + JITTER + 2, HEIGHT - JITTER - 2)
    x = _within_frame(place * WIDTH + drift + sway, 0.4 * height + JITTER)
    y = ground - SWING["lift"] * height * (1 + stroke["lift"])
    away = motion is not None and not alone and rng.random() < ABSENT
    return Figure(
        look=look,
        motion=motion,
        height=height,
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

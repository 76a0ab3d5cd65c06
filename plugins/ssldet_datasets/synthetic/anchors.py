"""Recompute the anchors and class ratios in `facts.py`: `python -m ssldet_datasets.synthetic.anchors`."""

from __future__ import annotations

import numpy as np

from ssldet_datasets.synthetic.facts import ANCHORS, HEIGHT, WIDTH
from ssldet_datasets.synthetic.flavours import FLAVOURS
from ssldet_datasets.synthetic.storage import Recipe, make_scene

GRID = 7


def training_rows(recipe: Recipe) -> dict[str, np.ndarray]:
    """The truth of all training videos, column by column. Draws no pictures."""
    clips = [clip for clip in recipe.clips() if clip[0] == "train"]
    tables = [recipe.made_as.annotate(make_scene(recipe, *clip)[0]) for clip in clips]
    return {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}


def training_sizes(recipe: Recipe) -> np.ndarray:
    """Width and height of every training box (n, 2), in cells of the grid."""
    boxes_n4 = training_rows(recipe)["box"]
    return (boxes_n4[:, 2:] - boxes_n4[:, :2]) * GRID / np.array([WIDTH, HEIGHT])


def size_iou(sizes_n2: np.ndarray, anchors_a2: np.ndarray) -> np.ndarray:
    """IoU (n, a) of boxes that share their centre."""
    overlap = np.minimum(sizes_n2[:, None], anchors_a2[None]).prod(2)
    return overlap / (sizes_n2.prod(1)[:, None] + anchors_a2.prod(1)[None] - overlap)


def kmeans(sizes_n2: np.ndarray, count: int, rounds: int = 100) -> np.ndarray:
    """Anchors (count, 2) by k-means under 1 - IoU, started at quantiles of the area; ordered by area."""
    by_area = sizes_n2[np.argsort(sizes_n2.prod(1), kind="stable")]
    anchors = by_area[((np.arange(count) + 0.5) / count * len(by_area)).astype(int)]
    for _ in range(rounds):
        nearest = size_iou(sizes_n2, anchors).argmax(1)
        anchors = np.stack([np.median(sizes_n2[nearest == i], 0) for i in range(count)])
    return anchors[np.argsort(anchors.prod(1))]


def main() -> None:
    sizes = training_sizes(Recipe())
    print("anchors:", kmeans(sizes, len(ANCHORS)).round(2).tolist())
    for name, flavour in FLAVOURS.items():
        recipe = Recipe(flavour=name)
        print(f"{name}: mean IoU {size_iou(training_sizes(recipe), np.array(ANCHORS)).max(1).mean():.3f}")
        if flavour.facts.multilabel:
            print("class ratios:", training_rows(recipe)["label"].mean(0).round(3).tolist())


if __name__ == "__main__":
    main()

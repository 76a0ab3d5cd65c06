"""Is the synthetic data set a task? Linear classifiers against the nano network.

    python benchmarks/synthetic_task.py [--results FOLDER] [--json]

A detector must see motion and appearance. So a linear classifier on the pixels of the key frame, and one on its mean
background colour, must stay below 60 % of the accuracy of the nano network trained with all labels, and that network
must reach video-mAP@0.5 (protocol `standard`) of at least 0.50. Exit code 1 where one of these does not hold.

Accuracy is over the annotated test frames. The network's answer for a frame is the class of its best box (confidence
x class probability), a linear classifier's the most probable of the classes and background. Its answer among the
classes alone is printed beside: there the background that people stand in and the colours they wear show more. The
strength of regularisation is chosen by cross-validation over training videos.

Needs the extra `bench`. About five minutes on two cores; the network's run is resumed or reused where it exists.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import ssldet
from ssldet.contracts import Dataset, Subset, Truth
from ssldet.evaluation.detections import read_detections

SHARE = 0.6
"""Linear accuracy must stay below this share of the network's."""
LEAST_MAP = 0.5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
PIXELS = (14, 28)
"""Sizes of the whole key frame, shrunk to a square, that the pixel classifiers see."""
EVERY = 6
"""One training frame in so many: neighbours hardly differ."""


class Frames(NamedTuple):
    """Key frames: pictures per size, mean colour of what lies outside the boxes, class (last: background), video."""

    pixels: dict[int, np.ndarray]
    background_n3: np.ndarray
    label_n: np.ndarray
    video_n: np.ndarray


def read_frames(dataset: Dataset, subset: Subset, every: int) -> Frames:
    """Decode the key frames of a subset."""
    pixels: dict[int, list[np.ndarray]] = {size: [] for size in PIXELS}
    colours, labels, groups = [], [], []
    for place, video in enumerate(dataset.videos(subset)):
        truth = dataset.truth(video.id)
        with av.open(str(dataset.source(video.id).file)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % every:
                    continue
                for size, pictures in pixels.items():
                    pictures.append(frame.reformat(size, size, "rgb24").to_ndarray().ravel() / 255)
                colours.append(background_colour(frame.to_ndarray(format="rgb24"), truth, index))
                labels.append(video.classes[0] if index in truth.frames_n else dataset.facts.num_classes)
                groups.append(place)
    stacked = {size: np.stack(pictures) for size, pictures in pixels.items()}
    return Frames(stacked, np.stack(colours), np.array(labels), np.array(groups))


def background_colour(picture: np.ndarray, truth: Truth, frame: int) -> np.ndarray:
    """Mean colour of the pixels outside all boxes."""
    outside = np.ones(picture.shape[:2], bool)
    for x1, y1, x2, y2 in truth.boxes_n4[truth.frames_n == frame].astype(int):
        outside[y1 : y2 + 1, x1 : x2 + 1] = False
    return picture[outside].mean(0) / 255


def fit_linear(features: np.ndarray, frames: Frames) -> Pipeline:
    """Multinomial logistic regression; its regularisation does best on held-out training videos."""
    folds = list(GroupKFold(3).split(features, frames.label_n, frames.video_n))

    def build(strength: float) -> Pipeline:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, tol=1e-3))

    def held_out(strength: float) -> float:
        return float(cross_val_score(build(strength), features, frames.label_n, cv=folds).mean())

    return build(max(STRENGTHS, key=held_out)).fit(features, frames.label_n)


def linear_accuracy(train: np.ndarray, frames: Frames, test: np.ndarray, truth_n: np.ndarray) -> dict[str, float]:
    """Accuracy on annotated test frames, with background as an answer and without it."""
    model = fit_linear(train, frames)
    annotated = truth_n < truth_n.max()
    chances = model.predict_proba(test[annotated])
    answers = {"with_background": chances.argmax(1), "classes_only": chances[:, :-1].argmax(1)}
    return {name: float((answer == truth_n[annotated]).mean()) for name, answer in answers.items()}


def all_linear(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Every linear classifier's accuracies."""
    train, test = read_frames(dataset, "train", EVERY), read_frames(dataset, "test", 1)
    found = {
        f"key-frame pixels {size}x{size}": linear_accuracy(train.pixels[size], train, test.pixels[size], test.label_n)
        for size in PIXELS
    }
    colours = linear_accuracy(train.background_n3, train, test.background_n3, test.label_n)
    return found | {"mean background colour": colours}


def run_network(results: Path) -> tuple[dict[str, Any], Path]:
    """Train and score the nano network with all labels; its record and its folder."""
    options = ["--strategy", "supervised", "--dataset", "synthetic", "--ratio", "1", "--preset", "nano", "--json"]
    command = [Path(sys.executable).with_name("ssldet"), "run", *options, "--results", results]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with exit code {done.returncode}")
    record = json.loads(done.stdout)
    return record, next(folder for folder in results.iterdir() if folder.name.endswith(record["id"]))


def network_accuracy(dataset: Dataset, detections: Path) -> float:
    """Share of annotated test frames whose best box has the right class."""
    videos = {video.id: video for video in dataset.videos("test")}
    right = frames = 0
    for video_id, found in read_detections(detections, dataset.facts, list(videos.values())).items():
        best = best_classes(found.frames_n, found.confidence_n[:, None] * found.scores_nk)
        annotated = dataset.truth(video_id).annotated_frames
        right += sum(best.get(int(frame)) == videos[video_id].classes[0] for frame in annotated)
        frames += len(annotated)
    return right / frames


def best_classes(frames_n: np.ndarray, scores_nk: np.ndarray) -> dict[int, int]:
    """Frame -> class of its best box."""
    order = np.argsort(scores_nk.max(1), kind="stable")
    return {int(frames_n[row]): int(scores_nk[row].argmax()) for row in order}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/runs"), help="folder of the network's run")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    dataset = ssldet.load_dataset("synthetic")
    linear = all_linear(dataset)
    record, folder = run_network(options.results)
    accuracy = network_accuracy(dataset, folder / "detections.parquet")
    video_map = record["metrics"]["video_map"]["standard"]["thresholds"]["0.5"]["mean"]
    highest = max(answers["with_background"] for answers in linear.values())
    holds = {"linear": highest < SHARE * accuracy, "video_map": video_map >= LEAST_MAP}
    result = {"network": {"accuracy": accuracy, "V@0.5": video_map}, "linear": linear, "holds": holds}
    print(json.dumps(result, indent=2) if options.json else describe(result))
    return 0 if all(holds.values()) else 1


def describe(result: dict[str, Any]) -> str:
    accuracy, video_map = result["network"]["accuracy"], result["network"]["V@0.5"]
    lines = [f"{'accuracy on annotated test frames':<38}{'':>10}{'classes alone':>15}"]
    for name, answers in result["linear"].items():
        lines.append(f"  {name:<36}{answers['with_background']:>10.1%}{answers['classes_only']:>15.1%}")
    lines.append(f"  {'nano network, all labels':<36}{accuracy:>10.1%}")
    lines.append(f"linear below {SHARE:.0%} of the network ({SHARE * accuracy:.1%}): {result['holds']['linear']}")
    lines.append(f"V@0.5 (standard) {video_map:.3f}, at least {LEAST_MAP}: {result['holds']['video_map']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

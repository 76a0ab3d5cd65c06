"""A trained detector over whole videos: every key frame -> decoded boxes, filtered and suppressed -> detections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ssldet.config import DetectOptions
from ssldet.contracts import Detector, Video, VideoDetections
from ssldet.data.batches import ClipReader, to_input
from ssldet.detector.modes import evaluation_mode
from ssldet.detector.postprocess import detections
from ssldet.evaluation.detection_rows import empty


def detect_videos(
    detector: Detector,
    videos: Sequence[Video],
    key_frames_of: Callable[[str], np.ndarray],
    reader: ClipReader,
    options: DetectOptions,
    *,
    device: torch.device,
    autocast: bool = False,
) -> Iterator[tuple[Video, VideoDetections]]:
    """The detections of each video, one video after another, in pixels of the video.

    Args:
        detector: put into evaluation mode for the duration; it may go on training afterwards.
        videos: what to detect in.
        key_frames_of: the frames of a video that get detections.
        reader: clips from the frame store.
        options: filter, suppression and batch size.
        device: where the detector is.
        autocast: compute the forward pass in bfloat16.
    """
    with evaluation_mode(detector):
        for video in videos:
            yield video, _detect(detector, video, key_frames_of(video.id), reader, options, device, autocast)


@torch.no_grad()  # inference mode would spoil tensors that a network keeps for its next step of training
def _detect(
    detector: Detector,
    video: Video,
    frames: np.ndarray,
    reader: ClipReader,
    options: DetectOptions,
    device: torch.device,
    autocast: bool,
) -> VideoDetections:
    to_video = np.array([video.width, video.height] * 2, dtype=np.float32) / reader.options.size
    multilabel = detector.facts.multilabel
    parts = []
    for start in range(0, len(frames), options.batch):
        some = frames[start : start + options.batch]
        clips = to_input(reader.read([video.id] * len(some), some.tolist()), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            predictions = detector(clips)
        boxes = detections(
            detector.decode(predictions),
            score_threshold=options.score_threshold,
            nms_iou=options.nms_iou or (0.5 if multilabel else 0.4),
            filter_by="confidence" if multilabel else "score",
        )
        parts.append(
            VideoDetections(
                frames_n=some[boxes.clip_n.cpu().numpy()],
                boxes_n4=boxes.boxes_n4.float().cpu().numpy() * to_video,
                confidence_n=boxes.confidence_n.float().cpu().numpy(),
                scores_nk=boxes.scores_nk.float().cpu().numpy(),
            )
        )
    return VideoDetections.concat([empty(detector.facts), *parts])

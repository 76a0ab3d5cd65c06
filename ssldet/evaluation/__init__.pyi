from .detections import DetectionsWriter as DetectionsWriter
from .detections import read_detections as read_detections
from .inference import detect_videos as detect_videos
from .scoring import score as score

__all__ = [
    "DetectionsWriter",
    "detect_videos",
    "read_detections",
    "score",
]

from .detection_conventions import FileConventions as FileConventions
from .detections import DetectionsWriter as DetectionsWriter
from .detections import read_detections as read_detections
from .evaluator import Evaluation as Evaluation
from .evaluator import evaluate as evaluate
from .inference import detect_videos as detect_videos
from .prediction import TubeLinker as TubeLinker
from .prediction import TubeOptions as TubeOptions
from .prediction import detect_in as detect_in
from .scoring import score as score

__all__ = [
    "DetectionsWriter",
    "Evaluation",
    "FileConventions",
    "TubeLinker",
    "TubeOptions",
    "detect_in",
    "detect_videos",
    "evaluate",
    "read_detections",
    "score",
]

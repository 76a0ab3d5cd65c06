from .build import build_detector as build_detector
from .detector import GridDetector as GridDetector
from .detector import GridOptions as GridOptions
from .detector import GridPredictions as GridPredictions
from .heads import CosineLinear as CosineLinear
from .heads import FrameHead as FrameHead
from .heads import frame_loss as frame_loss
from .postprocess import BoxRecords as BoxRecords
from .postprocess import detections as detections
from .region import RegionOptions as RegionOptions
from .region import region_loss as region_loss
from .weights import apply_weights as apply_weights
from .weights import load_parts as load_parts
from .weights import read_weights as read_weights

__all__ = [
    "BoxRecords",
    "CosineLinear",
    "FrameHead",
    "GridDetector",
    "GridOptions",
    "GridPredictions",
    "RegionOptions",
    "apply_weights",
    "build_detector",
    "detections",
    "frame_loss",
    "load_parts",
    "read_weights",
    "region_loss",
]

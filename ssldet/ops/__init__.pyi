from .average_precision import every_point as every_point
from .average_precision import trapezoid as trapezoid
from .boxes import aligned_giou as aligned_giou
from .boxes import aligned_iou as aligned_iou
from .boxes import box_areas as box_areas
from .boxes import cxcywh_from_xyxy as cxcywh_from_xyxy
from .boxes import pairwise_iou as pairwise_iou
from .boxes import xyxy_from_cxcywh as xyxy_from_cxcywh
from .iou import paired_iou as paired_iou
from .tubes import Tube as Tube
from .tubes import link_greedily as link_greedily
from .tubes import link_paths as link_paths
from .tubes import tube_iou as tube_iou

__all__ = [
    "Tube",
    "aligned_giou",
    "aligned_iou",
    "box_areas",
    "cxcywh_from_xyxy",
    "every_point",
    "link_greedily",
    "link_paths",
    "paired_iou",
    "pairwise_iou",
    "trapezoid",
    "tube_iou",
    "xyxy_from_cxcywh",
]

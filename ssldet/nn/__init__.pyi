from .batch_norm import StatisticsSnapshot as StatisticsSnapshot
from .batch_norm import normalised_in_groups as normalised_in_groups
from .batch_norm import running_statistics_of_groups as running_statistics_of_groups
from .convolution import Conv3d as Conv3d
from .folding import FoldedBatchNorm as FoldedBatchNorm
from .folding import fold_batch_norm as fold_batch_norm
from .formulation_choice import ChosenFormulations as ChosenFormulations
from .formulation_choice import choose_formulations as choose_formulations
from .frame_head import CosineLinear as CosineLinear
from .frame_head import FrameHead as FrameHead
from .freezing import FrozenParts as FrozenParts
from .freezing import frozen_layers as frozen_layers
from .fusion import CFAM as CFAM
from .fusion import ChannelAttention as ChannelAttention
from .normalisation import BatchNorm3d as BatchNorm3d

__all__ = [
    "CFAM",
    "BatchNorm3d",
    "ChannelAttention",
    "ChosenFormulations",
    "Conv3d",
    "CosineLinear",
    "FoldedBatchNorm",
    "FrameHead",
    "FrozenParts",
    "choose_formulations",
    "fold_batch_norm",
    "frozen_layers",
]

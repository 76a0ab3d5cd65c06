from .batch_norm import StatisticsSnapshot as StatisticsSnapshot
from .batch_norm import normalised_in_groups as normalised_in_groups
from .batch_norm import running_statistics_of_groups as running_statistics_of_groups
from .convolution import Conv3d as Conv3d
from .frame_head import CosineLinear as CosineLinear
from .frame_head import FrameHead as FrameHead
from .freezing import FrozenParts as FrozenParts
from .freezing import frozen_layers as frozen_layers
from .fusion import CFAM as CFAM
from .fusion import ChannelAttention as ChannelAttention

__all__ = ["CFAM", "ChannelAttention", "Conv3d", "CosineLinear", "FrameHead", "FrozenParts", "frozen_layers"]

from .batches import BatchSource as BatchSource
from .batches import ClipOptions as ClipOptions
from .batches import ClipReader as ClipReader
from .datasets import load_dataset as load_dataset
from .frame_store import FrameStore as FrameStore
from .health import Health as Health
from .health import examine as examine
from .sampling import KeyFrames as KeyFrames
from .sampling import key_frames as key_frames
from .sampling import stream_seed as stream_seed
from .splits import LabelSplit as LabelSplit
from .targets import TruthTable as TruthTable
from .video import read_frames as read_frames
from .video import stream_frames as stream_frames
from .views import ViewOptions as ViewOptions

__all__ = [
    "BatchSource",
    "ClipOptions",
    "ClipReader",
    "FrameStore",
    "Health",
    "KeyFrames",
    "LabelSplit",
    "TruthTable",
    "ViewOptions",
    "examine",
    "key_frames",
    "load_dataset",
    "read_frames",
    "stream_frames",
    "stream_seed",
]

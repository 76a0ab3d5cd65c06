from .backbones import BackboneContract as BackboneContract
from .base import Contract as Contract
from .datasets import DatasetContract as DatasetContract
from .executors import ExecutorContract as ExecutorContract
from .metrics import MetricContract as MetricContract
from .strategies import StrategyContract as StrategyContract
from .suite import Outcome as Outcome
from .suite import check as check
from .suite import contract_of as contract_of
from .suite import run_pytest as run_pytest
from .tiny import MULTI_LABEL as MULTI_LABEL
from .tiny import SINGLE_LABEL as SINGLE_LABEL
from .tiny import TINY_INFO as TINY_INFO
from .tiny import TINY_PROGRESS as TINY_PROGRESS
from .tiny import tiny_batch as tiny_batch
from .tiny import tiny_detector as tiny_detector
from .tiny import tiny_targets as tiny_targets
from .trackers import TrackerContract as TrackerContract

__all__ = [
    "MULTI_LABEL",
    "SINGLE_LABEL",
    "TINY_INFO",
    "TINY_PROGRESS",
    "BackboneContract",
    "Contract",
    "DatasetContract",
    "ExecutorContract",
    "MetricContract",
    "Outcome",
    "StrategyContract",
    "TrackerContract",
    "check",
    "contract_of",
    "run_pytest",
    "tiny_batch",
    "tiny_detector",
    "tiny_targets",
]

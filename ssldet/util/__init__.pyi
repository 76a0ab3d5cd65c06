from .cache import CacheEntry as CacheEntry
from .cache import cache_root as cache_root
from .files import content_hash as content_hash
from .files import file_hash as file_hash
from .files import replacing as replacing
from .files import write_json as write_json
from .files import write_text as write_text
from .interrupts import graceful_interrupts as graceful_interrupts

__all__ = [
    "CacheEntry",
    "cache_root",
    "content_hash",
    "file_hash",
    "graceful_interrupts",
    "replacing",
    "write_json",
    "write_text",
]

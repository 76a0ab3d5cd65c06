"""Reading pickles from strangers: plain containers and NumPy data, nothing else, and no code run.

A pickle is a program. This reader interprets only the instructions that build containers, strings and numbers, and
stands its own functions in for the five NumPy names that annotation files use (under `numpy.core` or `numpy._core`).
They rebuild an array from its bytes after checking that there are as many as its shape and type say. Every other
name or instruction is refused by name.

Why it is hand-written: Python's own interpreter of pickles in C, restricted by `find_class`, allocates what a file asks
for, however much, and `torch.load(weights_only=True)` knows tensors, not annotation. Weights files are left to torch.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssldet.errors import DataError

MAX_BYTES = 512 * 2**20
"""A pickle file larger than this is refused: UCF24's and J-HMDB's have 3 to 30 MB."""

_PLAIN_DTYPE = re.compile(r"[<>=|]?([biuf][1248]|c8|c16|[SU]\d{1,5})")

_REFUSED = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
    *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
"""Instructions that make objects, or fetch them from elsewhere."""


def load(path: Path) -> Any:
    """Read a pickle of containers and NumPy data; Python 2 strings are taken as latin1.

    Raises:
        DataError: the file is absent, damaged, too large, or asks for anything else; what it asked for is named.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; annotation pickles have at most {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return loads(content, str(path))


def loads(content: bytes, name: str = "pickle") -> Any:
    """The same from bytes; `name` is what errors call it."""
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except Exception as error:  # a damaged pickle fails in any way; none of them may reach the user raw
        raise DataError(f"{name}: not a readable pickle ({type(error).__name__}: {error})") from error


class _DType:
    """Stands for `numpy.dtype` while reading; only plain numbers and strings."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str):
            raise DataError(f"refused: a dtype described by a {type(code).__name__}")
        if not _PLAIN_DTYPE.fullmatch(code):
            raise DataError(f"refused: arrays of dtype {code[:40]!r}; only numbers and strings are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|"):
            raise DataError("refused: a dtype of unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array that accepts only a state whose bytes fill its shape."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        values = _from_bytes(raw, kind, shape)
        super().__setstate__((1, shape, values.dtype, bool(fortran), values.tobytes()))  # type: ignore[arg-type]


def _from_bytes(raw: Any, kind: Any, shape: Any) -> np.ndarray:
    """`raw` as a flat array of `kind`, after checking that it has as many elements as `shape`."""
    if isinstance(raw, str):  # Python 2 wrote bytes as strings
        raw = raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray):
        raise DataError(f"refused: an array made of {type(raw).__name__}; only raw bytes are read")
    if not isinstance(kind, _DType):
        raise DataError(f"refused: an array whose dtype is a {type(kind).__name__}")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise DataError("an array whose shape is not a tuple of sizes")
    if len(shape) > 8 or prod(shape) * kind.dtype.itemsize != len(raw):
        raise DataError(f"an array whose shape and dtype {kind.dtype} do not fit its {len(raw)} bytes")
    if kind.dtype.kind == "U" and not _are_characters(raw, kind.dtype):
        raise DataError("text with characters that do not exist")
    return np.frombuffer(raw, kind.dtype) if raw else np.empty(0, kind.dtype)


def _are_characters(raw: bytes | bytearray, kind: np.dtype[Any]) -> bool:
    """NumPy would make strings of any number, and Python fails on those far away from where they were read."""
    codes = np.frombuffer(raw, np.dtype("u4").newbyteorder(kind.byteorder))
    return bool((codes < 0x110000).all())


def _ndarray(*_: object) -> Any:
    raise DataError("refused: numpy.ndarray called; only its reconstruction is read")


def _reconstruct(kind: object, *_: object) -> _Array:
    if kind is not _ndarray:
        raise DataError("refused: an array of another type than numpy.ndarray")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _scalar(kind: Any, raw: Any = b"") -> Any:
    return _from_bytes(raw, kind, (1,))[0]


def _frombuffer(raw: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    return _from_bytes(bytes(raw), kind, shape).reshape(shape, order="F" if order == "F" else "C").copy()


def _set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in items}


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _key(value: Any) -> Any:
    """A key or member that is cheap to hash: nested tuples can take exponential time, or overflow the stack."""
    for part in value if type(value) is tuple else (value,):
        if not isinstance(part, str | bytes | int | float | np.generic | None):
            raise DataError(f"refused: a {type(part).__name__} inside a key")
    return value


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _ndarray,
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in ("numpy.core", "numpy._core")},
    **{(module, "set"): _set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): _frozenset for module in ("builtins", "__builtin__")},
}


class _Unpickler(pickle._Unpickler):
    """Python's interpreter of pickles with most of it taken out, and what is left made careful."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise DataError(f"refused: the pickle asks for {module}.{name}; only containers and NumPy data are read")
        return _KNOWN[module, name]

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(arguments, tuple) or not any(function is known for known in _KNOWN.values()):
            raise DataError(f"refused: a call of a {type(function).__name__}")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _DType | _Array) or not isinstance(state, tuple):
            raise DataError(f"refused: setting the state of a {type(target).__name__}")
        target.__setstate__(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._fill(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(self._fill({}, items))

    def load_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        if not isinstance(target, set):
            raise DataError(f"refused: adding members to a {type(target).__name__}")
        target.update(_set(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # before `self.append` is looked up: popping a mark replaces it
        self.append(_frozenset(items))

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(self.stack[-1], items)

    def load_append(self) -> None:
        item = self.stack.pop()
        self._extend(self.stack[-1], [item])

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")  # nothing is set aside for bytes that may not come
        self.append(bytearray(self.read(length)))

    def refuse(self) -> None:
        raise DataError("refused: the pickle makes objects or refers to outside ones; only containers are read")

    @staticmethod
    def _fill(target: Any, items: list[Any]) -> dict[Any, Any]:
        if type(target) is not dict:
            raise DataError(f"refused: setting items of a {type(target).__name__}")
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
        return target

    @staticmethod
    def _extend(target: Any, items: list[Any]) -> None:
        if type(target) is not list:
            raise DataError(f"refused: appending to a {type(target).__name__}")
        target.extend(items)

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((code[0] for code in _REFUSED), refuse),
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }

"""Pickles from strangers: plain data comes through, everything else is refused by name, nothing crashes."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssldet.errors import DataError
from ssldet.util import safe_pickle

PLAIN: dict[str, Any] = {
    "boxes": np.arange(8, dtype=np.uint8).reshape(2, 4),
    "columns": np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
    "empty": np.empty((0, 4), np.float32),
    "names": np.array(["a", "bc"]),
    "count": np.uint16(300),
    "video": np.str_("Basketball/v"),
    "nested": [(1, None, True, 2.5, b"raw"), {"x": {1, 2}, (1, "y"): frozenset({3})}],
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_data_comes_through(protocol: int) -> None:
    read = safe_pickle.loads(pickle.dumps(PLAIN, protocol))
    for name in ("boxes", "columns", "empty", "names"):
        assert np.array_equal(read[name], PLAIN[name])
        assert read[name].dtype.newbyteorder("=") == PLAIN[name].dtype.newbyteorder("=")
    assert (read["count"], read["video"], read["nested"]) == (300, "Basketball/v", PLAIN["nested"])
    assert read["count"].dtype == np.uint16


def test_both_names_of_numpy_core_are_known() -> None:
    content = pickle.dumps(np.arange(3), 3)
    old, new = content.replace(b"numpy._core", b"numpy.core"), content.replace(b"numpy.core", b"numpy._core")
    assert all(safe_pickle.loads(form).tolist() == [0, 1, 2] for form in (old, new))


def test_python_2_strings_are_latin1() -> None:
    assert safe_pickle.loads(b"U\x02a\xe9.") == "a\xe9"


@pytest.mark.parametrize("text", [np.str_("abc"), np.array(["abc", "d"])])
def test_text_of_impossible_characters_is_refused(text: Any) -> None:
    content = pickle.dumps(text, 4)
    assert np.array_equal(safe_pickle.loads(content), text)
    with pytest.raises(DataError, match="characters that do not exist"):
        safe_pickle.loads(content.replace(b"a\0\0\0b", b"a\0\0\x80b"))


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (pickle.dumps(Harm()), r"(posix|nt)\.system"),
        (pickle.dumps(Path("x")), r"pathlib"),
        (pickle.dumps(print), r"builtins\.print"),
        (b"cbuiltins\neval\n(V1+1\ntR.", r"builtins\.eval"),
        (b"cnumpy\nload\n.", r"numpy\.load"),
        (b"cnumpy\nndarray\n(I1000000000000\ntR.", r"numpy\.ndarray called"),
        (pickle.dumps(np.array([1, "a"], object)), "dtype 'O8'"),
        (pickle.dumps(np.zeros(2, [("a", "i4")])), "dtype 'V4'"),
        (pickle.dumps(np.array(["2020-01-01"], "M8[D]")), "dtype 'M8'"),
        (b"(iposix\nsystem\n.", "makes objects"),
        (b"Pname\n.", "refers to outside ones"),
        (b"cnumpy\ndtype\n}(V__call__\nI1\nub.", "setting items of a|setting the state of a"),
        (b"cnumpy\ndtype\n}b.", "setting the state of a type"),
        (b"K\x01K\x02\x85R.", "a call of a int"),
        (b"K\x01]\x85a.", "appending to a int"),
        (b"}]K\x01s.", "a list inside a key"),
    ],
)
def test_what_is_refused_is_named(content: bytes, named: str) -> None:
    with pytest.raises(DataError, match=named):
        safe_pickle.loads(content)


def test_an_array_must_fill_its_shape() -> None:
    content = pickle.dumps(np.arange(3, dtype=np.uint8), 3)
    assert content.count(b"K\x03\x85") == 1
    with pytest.raises(DataError, match="do not fit its 3 bytes"):
        safe_pickle.loads(content.replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"))


def test_claimed_sizes_take_no_memory() -> None:
    terabyte = (2**40).to_bytes(8, "little")
    tracemalloc.start()
    try:
        for content in (b"\x80\x05\x96" + terabyte + b"x.", b"\x80\x04\x8e" + terabyte + b"x.", b"Nr\xff\xff\xff\xff."):
            read_or_refuse(content)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_keys_that_take_for_ever_to_hash_are_refused() -> None:
    doubled = b"K\x01" + b"2\x86" * 60  # (t, t) sixty times over: 2 ** 60 numbers
    with pytest.raises(DataError, match="inside a key"):
        safe_pickle.loads(b"}" + doubled + b"K\x01s.")


def test_absent_and_large_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"gone\.pkl"):
        safe_pickle.load(tmp_path / "gone.pkl")
    (tmp_path / "large.pkl").write_bytes(pickle.dumps(list(range(100))))
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 50)
    with pytest.raises(DataError, match="at most 50"):
        safe_pickle.load(tmp_path / "large.pkl")


def read_or_refuse(content: bytes) -> None:
    try:
        safe_pickle.loads(content)
    except DataError:
        return


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    read_or_refuse(content)


VALID = pickle.dumps(PLAIN, 4)
changes = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=500, deadline=None)
@given(changes, st.integers(1, len(VALID)))
def test_damaged_pickles_are_read_or_refused(at: list[tuple[int, int]], length: int) -> None:
    content = bytearray(VALID)
    for position, value in at:
        content[position] = value
    read_or_refuse(bytes(content[:length]))


@pytest.mark.real
def test_the_published_list_of_labelled_videos(shared: Path) -> None:
    videos = safe_pickle.load(shared / "data/ucf24/lists/train_annots_10_labeled.pkl")
    assert len(videos) == 215
    assert videos[0][0] == "Basketball/v_Basketball_g10_c03"

"""Parcels: what comes out is what went in, in one piece of memory."""

from __future__ import annotations

import multiprocessing
import pickle
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from torch import Tensor

from ssldet.data.transport import ALIGNED, Parcel
from ssldet.errors import DataError


@dataclass(slots=True)
class Some:
    """A thing that holds tensors, as batches do."""

    large: Tensor
    parts: tuple[Tensor, ...]
    word: str


def some() -> Some:
    generator = torch.Generator().manual_seed(0)
    large = torch.randint(0, 256, (3, 5, 70, 90, 3), dtype=torch.uint8, generator=generator)
    parts = (torch.rand(4, 4, generator=generator), torch.arange(3), torch.tensor([True, False]), torch.empty(0, 4))
    return Some(large, parts, "v1")


def same(ours: Some, theirs: Some) -> bool:
    pairs = zip((ours.large, *ours.parts), (theirs.large, *theirs.parts), strict=True)
    return ours.word == theirs.word and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_what_comes_out_is_what_went_in() -> None:
    assert same(Parcel(some()).unpack(), some())


def test_tensors_begin_at_aligned_places_and_can_be_written() -> None:
    out = Parcel(some()).unpack()
    for tensor in (out.large, *out.parts):
        assert tensor.numel() == 0 or tensor.data_ptr() % ALIGNED == 0
    out.large.zero_()
    assert not out.large.any()


def test_tensors_in_any_layout_keep_their_values() -> None:
    turned = torch.arange(24).view(2, 3, 4).permute(2, 0, 1)[1:]
    assert torch.equal(Parcel(turned).unpack(), turned)


def test_errors_travel_too() -> None:
    error = Parcel(DataError("v1 does not decode")).unpack()
    assert isinstance(error, DataError) and str(error) == "v1 does not decode"


def test_it_outlives_the_parcel() -> None:
    out = Parcel(some()).unpack()
    others = [Parcel(some()) for _ in range(3)]  # which would take memory that had been given up
    assert same(out, some()) and len(others) == 3


def test_no_shared_memory_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", refuse)
    with pytest.raises(DataError, match=r"no room for a batch of 0\.3 MB; .*--loader-workers"):
        Parcel(some())


def _send(end: Connection) -> None:
    end.send(Parcel(some()))
    end.recv()


def test_another_process_gets_it_in_a_short_message() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(theirs,))
    process.start()
    try:
        message = ours.recv_bytes()
        assert len(message) < 4096  # written in one piece, so that a killed process leaves none half-written
        parcel: Any = pickle.loads(message)
        assert same(parcel.unpack(), some())
    finally:
        ours.send(None)
        process.join(60)
    assert process.exitcode == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory is a GPU's")
def test_what_can_be_pinned_is() -> None:
    assert Parcel(torch.rand(3)).pin_memory().is_pinned()

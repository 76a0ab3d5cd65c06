from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssldet.ops.average_precision import every_point, trapezoid

HITS = np.array([True, False, True])


@pytest.mark.parametrize(("form", "value"), [(every_point, 0.8333), (trapezoid, 0.7917)])
def test_forms_differ_as_published(form, value):
    assert form(HITS, 2) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize("form", [every_point, trapezoid])
def test_a_perfect_list_scores_one(form):
    assert form(np.array([True, True, False]), 2) == pytest.approx(1.0)


@pytest.mark.parametrize("form", [every_point, trapezoid])
@pytest.mark.parametrize(("hits", "truths"), [([], 3), ([False], 3), ([], 0), ([False], 0)])
def test_nothing_found_scores_zero(form, hits, truths):
    assert form(np.array(hits, bool), truths) == 0.0


def test_epsilon_keeps_a_perfect_list_below_one():
    assert every_point(np.array([True]), 1, epsilon=1e-5) == pytest.approx(0.99999, abs=1e-9)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 3))
def test_every_point_is_the_area_under_the_envelope(hits, missed):
    hits_n = np.array(hits)
    truths = int(hits_n.sum()) + missed
    precision = np.cumsum(hits_n) / np.arange(1, len(hits_n) + 1)
    area = sum(precision[rank:].max() / truths for rank in np.flatnonzero(hits_n))
    assert every_point(hits_n, truths) == pytest.approx(area)


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 3), st.data())
def test_an_added_miss_never_helps(hits, missed, data):
    truths = sum(hits) + missed
    place = data.draw(st.integers(0, len(hits)))
    worse = np.array([*hits[:place], False, *hits[place:]], bool)
    for form in (every_point, trapezoid):
        assert form(worse, truths) <= form(np.array(hits, bool), truths) + 1e-12

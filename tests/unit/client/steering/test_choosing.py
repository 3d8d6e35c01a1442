"""Choosing against the formulas, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.steering.choosing import choose, relevance
from client.steering.coverage import spread
from client.steering.exposure import ExposureCap


def pool(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    units = rng.standard_normal((count, 4))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return relevance(rng.standard_normal(count), np.zeros(count), 0.0), units @ units.T


@given(st.integers(0, 50), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_mmr_takes_the_largest_marginal_relevance_each_time(seed, count, k, diversity):
    relevant, cosines = pool(seed, count)
    chosen: list[int] = []
    while len(chosen) < min(k, count):

        def marginal(item: int) -> float:
            nearest = max((cosines[item, other] for other in chosen), default=0.0)
            return (1 - diversity) * relevant[item] - diversity * nearest

        chosen.append(
            max((item for item in range(count) if item not in chosen), key=lambda item: (marginal(item), -item))
        )
    assert choose(relevant, k, diversity=diversity, cosines=lambda: cosines).tolist() == chosen


@given(st.integers(0, 50), st.integers(1, 20), st.floats(0, 1))
def test_the_share_holds_in_every_beginning_of_the_list(seed, k, share):
    rng = np.random.default_rng(seed)
    foreign = rng.random(60) < 0.5
    foreign[:20], foreign[20:40] = True, False
    chosen = choose(rng.random(60), k, foreign=foreign, foreign_share=share)
    assert len(set(chosen.tolist())) == k
    for rank in range(1, k + 1):
        assert abs(foreign[chosen[:rank]].sum() - share * rank) <= 0.5 + 1e-9


def test_one_kind_fills_up_for_the_other():
    foreign = np.array([True, False, False, False])
    assert choose(np.array([0.1, 0.9, 0.8, 0.7]), 4, foreign=foreign, foreign_share=1.0).tolist() == [0, 1, 2, 3]


def test_without_a_wish_the_order_is_that_of_the_scores():
    asked = []
    assert choose(np.array([0.2, 0.9, 0.9]), 3, cosines=lambda: asked.append(1)).tolist() == [1, 2, 0]
    assert not asked


def test_novelty_counts_by_its_weight():
    scores, novelty = np.array([3.0, 2.0, 1.0]), np.array([0.0, 0.1, 1.0])
    assert relevance(scores, novelty, 0.0).tolist() == [1.0, 0.5, 0.0]
    assert relevance(scores, novelty, 1.0).tolist() == pytest.approx([0.0, 0.1, 1.0])
    assert relevance(scores, novelty, 0.5).tolist() == pytest.approx([0.5, 0.3, 0.5])
    assert relevance(np.full(3, 7.0), novelty, 0.0).tolist() == [0.0] * 3


@given(st.lists(st.lists(st.integers(0, 5), max_size=3, unique=True), max_size=60), st.integers(1, 10))
def test_a_cap_is_full_where_the_window_says_so(lists, window):
    share = 0.5
    cap: ExposureCap[int] = ExposureCap(share, window)
    for place, items in enumerate(lists):
        cap.note(items)
        last = lists[max(0, place + 1 - window) : place + 1]
        most = max(1, int(share * window))
        assert cap.full() == {item for item in range(6) if sum(item in one for one in last) >= most}


def test_spread_says_what_the_lists_cover():
    ranked = np.array([[0, 1], [0, 2], [0, -1]])
    found = spread(ranked, np.array([4, 2, 1, 1]), 4, np.array([False, False, True, True]))
    assert (found.lists, found.coverage, found.most_shown, found.foreign_share) == (3, 0.75, 1.0, 0.2)
    # x = 0, 1, 1, 3: mean absolute difference of all pairs over twice the mean.
    shown = np.array([3, 1, 1, 0])
    assert found.gini == pytest.approx(np.abs(shown[:, None] - shown).mean() / (2 * shown.mean()))
    assert found.novelty == pytest.approx((0 * 3 + 1 + 2) / 5)

"""The deep model serves as the factor models do: the scores that evaluation measured, for anybody, from the newest items on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.data.dataset import UserItemMatrix
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.feedback import Event
from client.recommend.recommender import Recommender
from client.scoring.scorer import z
from client.service.client import RecommenderClient
from client.service.server import serve_recommender
from tests.scoring_oracle import cross_oracle
from tests.support.towers import LENGTH, platform


def measured(model: PlatformModel, user: int) -> dict[str, float]:
    """Every item's score from the scorers that evaluation uses."""
    row = np.array([user])
    own = z(model.own_scorer().scores(model.histories, row))[0]
    cross = z(cross_oracle(model).scores(model.on_vocabulary(model.histories), row), model.foreign)[0]
    scores = dict(zip(model.own.keys, own, strict=True))
    return scores | {model.vocabulary.keys[i]: cross[i] for i in np.flatnonzero(model.foreign)}


@pytest.mark.parametrize(
    ("verdict", "gamma", "kind"),
    [("tower_blend", 2.0, kind) for kind in ("transformer", "gru", "mean", "none")]
    + [("towers", 0.7, "transformer"), ("local", 0.7, "transformer"), ("towers", 0.0, "transformer")],
)
def test_serves_the_scores_that_evaluation_measured(verdict: str, gamma: float, kind: str) -> None:
    model = platform(verdict, gamma, kind=kind)
    recommender = Recommender(model)
    for user in (0, 4):
        expected = measured(model, user)
        listed = recommender.recommend(f"user-{user}", k=200, exclude_seen=False)
        assert len(listed) == len(expected)
        np.testing.assert_allclose([item.score for item in listed], [expected[i.key] for i in listed], atol=5e-5)
        assert [item.score for item in listed] == sorted((item.score for item in listed), reverse=True)


@pytest.mark.parametrize("verdict", ["towers", "tower_blend"])
def test_the_first_items_are_those_of_the_scorer_in_its_order(verdict: str) -> None:
    model = platform(verdict, seed=2)
    recommender = Recommender(model)
    for user in range(6):
        scores = model.own_scorer().scores(model.histories, np.array([user]))[0]
        best = np.argsort(-scores, kind="stable")[:15]
        listed = recommender.recommend(f"user-{user}", k=15, scope="own", exclude_seen=False)
        assert [item.key for item in listed] == [model.own.keys[i] for i in best]


def with_history(model: PlatformModel, columns: list[int]) -> PlatformModel:
    """The first user with another history, the others with none."""
    n = model.histories.n_users
    matrix = UserItemMatrix(
        np.array([0, *[len(columns)] * n]),
        np.array(columns, dtype=np.int32),
        np.ones(len(columns), dtype=np.float32),
        np.arange(len(columns)),
        model.histories.n_items,
    )
    return replace(model, histories=matrix)


def test_feedback_counts_from_the_next_request_on() -> None:
    model = platform()
    recommender = Recommender(model)
    events = [Event(item_key=model.own.keys[c], value=1.0, time=10**10 + c) for c in (7, 3)]
    history = recommender.history_of("user-0", events)
    assert history.columns[-2:].tolist() == [3, 7]
    got = {i.key: i.score for i in recommender.recommend_for(recommender.prepare(history), k=200, exclude_seen=False)}
    expected = measured(with_history(model, history.columns.tolist()), 0)
    np.testing.assert_allclose([got[key] for key in expected], list(expected.values()), atol=5e-5)
    before = {i.key: i.score for i in recommender.recommend("user-0", k=200, exclude_seen=False)}
    assert max(abs(got[key] - before[key]) for key in got) > 0.05


def test_a_history_without_a_user_is_ranked_by_its_items_alone() -> None:
    model = platform(personal=False)
    recommender = Recommender(model)
    given = [(model.own.keys[c], 1.0) for c in model.histories.row(2)]
    history, _ = recommender.history_from(given)
    listed = recommender.recommend_for(recommender.prepare(history), k=30)
    assert [item.key for item in listed] == [item.key for item in recommender.recommend("user-2", k=30)]


def test_nothing_private_of_a_known_user_is_used_for_a_given_history() -> None:
    model = platform(personal=True)
    recommender = Recommender(model)
    given = [(model.own.keys[c], 1.0) for c in model.histories.row(2)]
    history, _ = recommender.history_from(given)
    assert history.user is None
    assert recommender.history_of("user-2").user == 2
    one = recommender.recommend_for(recommender.prepare(history), k=200, exclude_seen=False)
    other = {i.key: i.score for i in recommender.recommend("user-2", k=200, exclude_seen=False)}
    assert max(abs(item.score - other[item.key]) for item in one) > 0.05


@pytest.mark.parametrize("verdict", ["towers", "tower_blend"])
def test_somebody_without_history_gets_what_is_popular(verdict: str) -> None:
    model = platform(verdict)
    recommender = Recommender(model)
    nothing, _ = recommender.history_from([])
    listed = recommender.recommend_for(recommender.prepare(nothing), k=500)
    counts = dict(zip(model.own.keys, model.histories.item_counts(), strict=True))
    own = [counts[item.key] for item in listed if item.key in counts]
    assert own == sorted(own, reverse=True)
    assert recommender.explain(nothing, listed[0].key).decided_by == "popularity"


def test_histories_of_1_and_10000_items_are_ranked_by_the_newest() -> None:
    model = platform(personal=False)
    vector = model.towers.user_vector  # type: ignore[union-attr]
    long = np.tile(np.arange(50, dtype=np.int32), 200)
    np.testing.assert_array_equal(vector(long, None), vector(long[-LENGTH:], None))
    assert np.abs(vector(long[-1:], None)).max() > 0
    assert not np.allclose(vector(long[-1:], None), vector(long[-LENGTH:], None))


def test_a_stored_model_serves_the_same(tmp_path: Path) -> None:
    model = platform("tower_blend")
    PlatformStore(tmp_path).commit(model)
    loaded = Recommender(PlatformStore(tmp_path).load())
    loaded.warm_up()
    assert loaded.recommend("user-1", k=20) == Recommender(model).recommend("user-1", k=20)
    why = loaded.explain(loaded.history_of("user-1"), model.own.keys[3])
    assert why.attributes.keys() == {"title", "genres", "id"}


def test_tensorflow_is_loaded_only_where_a_deep_model_decides(tmp_path: Path) -> None:
    """In a process of its own: here, TensorFlow is loaded already."""
    for name, verdict, gamma in (("without", "local", 0.0), ("own", "towers", 0.0), ("cross", "local", 0.5)):
        PlatformStore(tmp_path / name).commit(platform(verdict, gamma))
    program = f"""
import sys
from pathlib import Path
from client.recommend.recommender import Recommender
from client.personalization.store import PlatformStore
for name in ("without", "own", "cross"):
    if name != "cross":
        assert "tensorflow" not in sys.modules, name
    recommender = Recommender(PlatformStore(Path({str(tmp_path)!r}) / name).load())
    recommender.warm_up()
    recommender.recommend("user-1")
    recommender.similar(recommender.own.items.keys[0])
    assert ("tensorflow" in sys.modules) == (name != "without"), name
"""
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_warming_up_leaves_nothing_to_compile() -> None:
    model = platform()
    assert model.towers is not None
    # One that nobody has asked yet.
    model = replace(model, towers=replace(model.towers))
    recommender = Recommender(model)
    recommender.warm_up()
    assert model.towers is not None
    encode = model.towers.served._encode
    before = encode.experimental_get_tracing_count()
    for user in range(6):
        recommender.recommend(f"user-{user}")
    history, _ = recommender.history_from([(model.own.keys[0], 1.0)])
    recommender.recommend_for(recommender.prepare(history))
    assert (before, encode.experimental_get_tracing_count()) == (1, 1)


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [("tower_blend", kind) for kind in ("transformer", "gru", "mean", "none")] + [("towers", "transformer")],
)
def test_contributions_sum_to_the_score(verdict: str, kind: str) -> None:
    model = platform(verdict, kind=kind)
    recommender = Recommender(model)
    history = recommender.history_of("user-3")
    for item in recommender.recommend("user-3", k=200, exclude_seen=False)[::25]:
        why = recommender.explain(history, item.key)
        parts = sum(part.amount for part in why.contributions) + why.others + why.item_bias + why.popularity
        assert parts == pytest.approx(item.score, abs=1e-4)
        assert sum(share.amount for share in why.models.values()) == pytest.approx(item.score, abs=1e-4)
        sizes = sum(abs(part.amount) for part in why.contributions) + sum(map(abs, why.attributes.values()))
        assert sum(why.attributes.values()) == pytest.approx(why.item_bias, abs=0.01 * sizes)
        assert "towers" in why.models


def test_the_service_tells_the_share_of_each_attribute(tmp_path: Path) -> None:
    model = platform("tower_blend")
    PlatformStore(tmp_path).commit(model)
    recommender = Recommender(model)
    history = recommender.history_of("user-2")
    keys = (model.own.keys[4], model.vocabulary.keys[int(np.flatnonzero(model.foreign)[0])])
    with serve_recommender(tmp_path, port=0) as server, RecommenderClient(server.target, timeout=60) as client:
        for key in keys:
            told, expected = client.explain("user-2", key), recommender.explain(history, key)
            assert told.attributes == pytest.approx(expected.attributes, rel=1e-6)
            assert {"title", "genres"} <= told.attributes.keys()
            assert any(told.attributes.values())


def test_the_mean_of_a_history_is_explained_as_by_hand() -> None:
    """Without what is private the score is bilinear: each side has half of every product."""
    model = platform(kind="mean", personal=False)
    assert model.towers is not None
    recommender = Recommender(model)
    history, target = recommender.history_of("user-1"), 4
    why = recommender.explain(history, model.own.keys[target])
    vectors = model.towers.item_vectors.astype(np.float64)
    own = vectors[model.towers.own]
    read = own[history.columns[-LENGTH:]]
    user, deviation = read.mean(axis=0), own[target] - own.mean(axis=0)
    scale = 1 / (own @ user).std()
    got = {part.key: part.amount for part in why.contributions}
    expected = dict.fromkeys((model.own.keys[c] for c in history.columns), 0.0)
    for column, vector in zip(history.columns[-LENGTH:], read, strict=True):
        expected[model.own.keys[column]] = scale * float(vector @ deviation) / len(read) / 2
    assert got == pytest.approx(expected, abs=1e-4)
    title = model.towers.item_parts["title"][model.towers.own]
    assert why.attributes["title"] == pytest.approx(
        scale * float(user @ (title[target] - title.mean(axis=0))) / 2, abs=1e-4
    )


def test_says_that_the_deep_model_decided_and_with_what_weight() -> None:
    model = platform("tower_blend", gamma=0.7)
    recommender = Recommender(model)
    history = recommender.history_of("user-1")
    own = recommender.explain(history, model.own.keys[0])
    assert (own.decided_by, own.models["local"].weight, own.models["towers"].weight) == ("tower_blend", 1.0, 0.6)
    cross = recommender.explain(history, model.vocabulary.keys[int(np.flatnonzero(model.foreign)[0])])
    assert (cross.decided_by, cross.models.keys()) == ("tower_blend", {"shared", "towers", "popularity"})
    assert cross.models["towers"].weight == 0.7


@pytest.mark.parametrize(("verdict", "share"), [("towers", 1.0), ("tower_blend", 0.6 / 1.6)])
def test_similar_items_are_ordered_by_cosine_in_the_space_that_ranks(verdict: str, share: float) -> None:
    model = platform(verdict)
    assert model.towers is not None
    recommender, vectors = Recommender(model), model.towers.item_vectors

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    own, local, rows = 4, model.local.item_parameters, model.towers.own
    expected = {
        key: share * cosine(vectors[rows[own]], vectors[rows[c]]) + (1 - share) * cosine(local[own], local[c])
        for c, key in enumerate(model.own.keys)
    }
    listed = recommender.similar(model.own.keys[own], k=500, scope="own")
    assert len(listed) == len(expected) - 1
    np.testing.assert_allclose([item.score for item in listed], [expected[item.key] for item in listed], atol=1e-5)
    foreign = np.flatnonzero(model.foreign)
    space = vectors if verdict == "towers" else model.shared.item_parameters
    across = recommender.similar(model.own.keys[own], k=500, scope="cross")
    wanted = {model.vocabulary.keys[i]: cosine(space[model.own_positions[own]], space[i]) for i in foreign}
    np.testing.assert_allclose([item.score for item in across], [wanted[item.key] for item in across], atol=1e-5)


def test_an_unshared_own_item_has_a_place_in_the_deep_space() -> None:
    model = platform("towers")
    assert model.towers is not None
    alone = int(np.flatnonzero(model.own_positions < 0)[0])
    foreign = int(np.flatnonzero(model.foreign)[3])
    units = model.towers.item_vectors / np.linalg.norm(model.towers.item_vectors, axis=1, keepdims=True)
    expected = float(units[model.towers.own[alone]] @ units[foreign])
    one = {i.key: i.score for i in Recommender(model).similar(model.own.keys[alone], k=500, scope="cross")}
    other = {i.key: i.score for i in Recommender(model).similar(model.vocabulary.keys[foreign], k=500, scope="own")}
    assert one[model.vocabulary.keys[foreign]] == pytest.approx(expected, abs=1e-5)
    assert other[model.own.keys[alone]] == pytest.approx(expected, abs=1e-5)
    to_foreign = Recommender(model).similar(model.vocabulary.keys[foreign], k=1, scope="cross")[0]
    assert to_foreign.score == pytest.approx(
        np.sort(units[np.flatnonzero(model.foreign)] @ units[foreign])[-2], abs=1e-5
    )

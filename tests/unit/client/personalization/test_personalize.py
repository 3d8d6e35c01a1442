from __future__ import annotations

import logging
from dataclasses import asdict, replace

import numpy as np
import pytest

from client.data.dataset import ItemDescriptions
from client.data.split import EvaluationSlice
from client.data.training import TrainingData
from client.personalization.model_selection import rating_accuracy
from client.personalization.personalize import FederationView, Personalizer, describe
from client.scoring.described.released_counts import CountNoise
from client.scoring.factors import FactorModel
from client.scoring.fold_in import FoldIn
from common.config.model import FactorizationConfig
from common.config.platform import PersonalizationConfig
from tests.support import MODEL, held_out_last, matrix, no_slice, training_data

pytestmark = pytest.mark.usefixtures("one_thread")

N = 24
CONFIG = PersonalizationConfig(tuning_candidates=2, blend_weights=(1.0,))


def taste_data(n_users: int = 60, *, explicit: bool = False, validated: bool = True) -> TrainingData:
    """Two tastes, a half of the catalogue each, which enough users share for a platform to learn them alone."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        items = np.flatnonzero(np.arange(N) % 2 == user % 2)
        chosen = rng.choice(items, 3, replace=False)
        rows.append({int(item): float(4 + user % 2) if explicit else 1.0 for item in chosen})
    held_out = held_out_last(matrix(rows, N))
    return training_data(
        [f"x:{i}" for i in range(N)],
        held_out.history,
        validation=held_out if validated else no_slice(held_out.history),
    )


def view_of(
    parameters: np.ndarray, config: FactorizationConfig = MODEL, positions: np.ndarray | None = None
) -> FederationView:
    positions = np.arange(N, dtype=np.int32) if positions is None else positions
    names = tuple(f"x:{i}" for i in range(N))
    return FederationView(
        server_round=3,
        platforms=("here", "there"),
        vocabulary=ItemDescriptions(keys=names, titles=names, genres=((),) * N),
        cards=ItemDescriptions(keys=names, titles=names, genres=((),) * N),
        owners=np.ones((N, 2), dtype=bool),
        own_positions=positions,
        shared=FactorModel(item_parameters=parameters, config=config),
        foreign_popularity=np.ones(N) * 5,
    )


def knows_the_halves() -> np.ndarray:
    parameters = np.zeros((N, MODEL.dimension), dtype=np.float32)
    parameters[np.arange(N), np.arange(N) % 2] = 1.0
    return parameters


def knows_nothing() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((N, MODEL.dimension)).astype(np.float32)


def lonely_data() -> TrainingData:
    """Eight users of eight tastes with three items each: what one holds back nobody here has."""
    held_out = held_out_last(matrix([[3 * user, 3 * user + 1, 3 * user + 2] for user in range(8)], N))
    return training_data([f"x:{i}" for i in range(N)], held_out.history, validation=held_out)


def knows_the_tastes() -> np.ndarray:
    directions = np.vstack([np.eye(4), -np.eye(4)]).astype(np.float32)
    return np.repeat(directions, 3, axis=0)


def test_shared_factors_that_rank_better_win() -> None:
    personalizer = Personalizer("here", lonely_data(), MODEL, replace_config(anchored=False))
    verdict = personalizer.build(view_of(knows_the_tastes())).verdict
    assert verdict.name in ("shared", "blend")
    assert verdict.chosen_mean > verdict.local_mean
    assert verdict.interval[0] > 0


def test_shared_factors_that_rank_worse_lose() -> None:
    personalizer = Personalizer("here", taste_data(), MODEL, replace_config(anchored=False))
    verdict = personalizer.build(view_of(knows_nothing())).verdict
    assert verdict.name == "local"
    assert verdict.chosen_mean == verdict.local_mean


def replace_config(**changes: object) -> PersonalizationConfig:
    return CONFIG.model_copy(update=changes)


def test_the_local_model_does_not_depend_on_the_federation() -> None:
    first = Personalizer("here", taste_data(), MODEL, CONFIG).build(view_of(knows_the_halves()))
    second = Personalizer("here", taste_data(), MODEL, CONFIG).build(view_of(knows_nothing()))
    assert first.local.item_parameters.tobytes() == second.local.item_parameters.tobytes()
    assert first.local.config == second.local.config


def test_one_seed_gives_one_model_and_platforms_differ() -> None:
    def built(name: str, seed: int) -> np.ndarray:
        config = replace_config(seed=seed, anchored=False)
        return Personalizer(name, taste_data(), MODEL, config).local().item_parameters

    assert built("here", 0).tobytes() == built("here", 0).tobytes()
    assert built("here", 0).tobytes() != built("there", 0).tobytes()
    assert built("here", 0).tobytes() != built("here", 1).tobytes()


def test_without_validation_users_the_platform_keeps_its_own() -> None:
    model = Personalizer("here", taste_data(validated=False), MODEL, CONFIG).build(view_of(knows_the_halves()))
    assert asdict(model.verdict) == asdict(model.verdict) | {
        "name": "local",
        "weight": None,
        "local_mean": 0.0,
        "chosen_mean": 0.0,
        "interval": (0.0, 0.0),
    }


def test_without_shared_items_there_is_no_shared_or_anchored_model() -> None:
    nowhere = np.full(N, -1, dtype=np.int32)
    model = Personalizer("here", taste_data(), MODEL, CONFIG).build(view_of(knows_the_halves(), positions=nowhere))
    assert model.anchored is None
    assert model.verdict.name == "local"


def test_the_anchored_model_keeps_shared_dimensions_and_adds_its_own() -> None:
    model = Personalizer("here", taste_data(), MODEL, CONFIG).build(view_of(knows_the_halves()))
    assert model.anchored is not None
    assert model.anchored.item_parameters.shape == (N, model.anchored.config.dimension)
    assert model.anchored.config.dimension >= MODEL.dimension
    assert (
        Personalizer("here", taste_data(), MODEL, replace_config(anchored=False))
        .build(view_of(knows_the_halves()))
        .anchored
        is None
    )


def test_the_model_holds_what_was_told_and_all_known_of_the_users() -> None:
    data = taste_data()
    view = view_of(knows_the_halves())
    model = Personalizer("here", data, MODEL, CONFIG).build(view)
    assert (model.platform, model.server_round, model.platforms) == ("here", 3, view.platforms)
    assert model.user_ids == data.user_ids
    assert model.histories.nnz == data.known.nnz == 3 * 60
    assert asdict(model.own) == asdict(describe(data))
    assert np.all(np.isfinite(model.foreign_popularity))


def test_explicit_ratings_are_judged_by_their_error() -> None:
    config = MODEL.model_copy(update={"feedback": "explicit"})
    data = taste_data(explicit=True)
    parameters = np.zeros((N, config.dimension + 1), dtype=np.float32)
    personalizer = Personalizer("here", data, config, CONFIG)
    model = personalizer.build(view_of(parameters, config))
    assert model.verdict.metric == "-rmse"
    assert model.verdict.local_mean < 0
    total = data.train.values.mean(dtype=np.float64)
    assert model.local.value_mean == pytest.approx(total)


def test_a_users_error_is_the_rms_of_the_held_out_ratings() -> None:
    history = matrix([{0: 4.0}, {1: 2.0}, {2: 1.0}], 4)
    truth = matrix([{1: 5.0, 2: 1.0}, {}, {3: 3.0}], 4)
    config = FactorizationConfig(feedback="explicit", dimension=1)
    # With zero factors and biases of items only, every prediction is μ + b_i + b_u.
    items = np.array([[0, 0], [0, 1], [0, -1], [0, 2]], dtype=np.float32)
    scorer = FoldIn(items, config, 3.0)
    users = scorer.users(history)[:, -1]
    measured = rating_accuracy(scorer, EvaluationSlice(np.array([0, 1, 2]), history, truth))
    assert measured.users.tolist() == [0, 2]
    expected = [
        -np.sqrt(((3 + 1 + users[0] - 5) ** 2 + (3 - 1 + users[0] - 1) ** 2) / 2),
        -abs(3 + 2 + users[2] - 3),
    ]
    assert measured.values["-rmse"] == pytest.approx(expected, rel=1e-5)


def test_tuning_and_verdict_look_at_validation_users_alone() -> None:
    """Users outside the slice do not matter: their held-out items can be anything."""
    data = taste_data()
    half = replace(
        data.validation,
        users=data.validation.users[:20],
        truth=data.validation.truth.select_entries(data.validation.truth.entry_users() < 20),
    )
    spoilt = half.truth.select_entries(np.ones(half.truth.nnz, dtype=bool))
    first = Personalizer("here", replace(data, validation=half), MODEL, CONFIG).build(view_of(knows_the_halves()))
    again = Personalizer("here", replace(data, validation=replace(half, truth=spoilt)), MODEL, CONFIG).build(
        view_of(knows_the_halves())
    )
    assert asdict(first.verdict) == asdict(again.verdict)
    assert first.local.item_parameters.tobytes() == again.local.item_parameters.tobytes()


@pytest.mark.parametrize(
    ("ridge", "private", "told"), [(5000.0, False, True), (5000.0, True, False), (2.0, False, False)]
)
def test_the_operator_hears_of_settings_far_from_the_plans(
    caplog: pytest.LogCaptureFixture, ridge: float, private: bool, told: bool
) -> None:
    data = taste_data()
    here = Personalizer("here", data, MODEL, CONFIG).local().config
    there = here.model_copy(update={"dimension": MODEL.dimension, "regularization": ridge * here.regularization})
    there = there if ridge > 2 else here.model_copy(update={"dimension": MODEL.dimension})
    noise = CountNoise(sigma=np.ones(N), limit=5.0) if private else None
    view = replace(view_of(knows_nothing(), there), count_noise=noise)
    with caplog.at_level(logging.WARNING, logger="client.personalization.personalize"):
        model = Personalizer("here", data, MODEL, CONFIG).build(view)
    assert model.verdict.name == "local"
    assert ("quite other settings: ridge" in caplog.text or "quite other settings: dimension" in caplog.text) == told
    assert "user-" not in caplog.text

"""A user's latest items weigh more where validation users surely gain by it, and nowhere else."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

import numpy as np
import pytest

from client.data.dataset import ItemDescriptions
from client.data.split import leave_last_out, random_per_user
from client.data.training import TrainingData
from client.personalization.model_selection import RECENCIES, choose_recency
from client.personalization.personalize import FederationView, Personalizer
from client.personalization.platform_model import PlatformModel
from client.scoring.factors import FactorModel
from client.scoring.fold_in import Recency
from common.config.platform import PersonalizationConfig
from tests.support import MODEL, matrix, training_data

pytestmark = pytest.mark.usefixtures("one_thread")

N = 24
CONFIG = PersonalizationConfig(tuning_candidates=2, blend_weights=(1.0,), anchored=False)


def who_changed_taste(*, timed: bool = True, split: str = "last", users: int = 60) -> TrainingData:
    """Users with six items of one half of the catalogue, then three of the other."""
    rng = np.random.default_rng(0)
    halves = [np.flatnonzero(np.arange(N) % 2 == half) for half in (0, 1)]
    rows = []
    for user in range(users):
        before, since = halves[user % 2], halves[1 - user % 2]
        rows.append([*rng.choice(before, 6, replace=False).tolist(), *rng.choice(since, 3, replace=False).tolist()])
    everything = matrix(rows, N)
    parts = leave_last_out(everything, rng=rng) if split == "last" else random_per_user(everything, rng=rng)
    data = training_data([f"x:{i}" for i in range(N)], parts.train, validation=parts.validation)
    return replace(data, timed=timed)


def view() -> FederationView:
    """Of shared factors that tell the two halves apart."""
    parameters = (0.02 * np.random.default_rng(1).standard_normal((N, MODEL.dimension))).astype(np.float32)
    parameters[np.arange(N), np.arange(N) % 2] += 1.0
    names = tuple(f"x:{i}" for i in range(N))
    described = ItemDescriptions(keys=names, titles=names, genres=((),) * N)
    return FederationView(
        server_round=3,
        platforms=("here", "there"),
        vocabulary=described,
        cards=described,
        owners=np.ones((N, 2), dtype=bool),
        own_positions=np.arange(N, dtype=np.int32),
        shared=FactorModel(item_parameters=parameters, config=MODEL.model_copy(update={"regularization": 0.1})),
        foreign_popularity=np.ones(N) * 5,
    )


def built(data: TrainingData, config: PersonalizationConfig = CONFIG) -> PlatformModel:
    return Personalizer("here", data, MODEL, config).build(view())


def test_users_who_changed_are_served_by_their_latest_items(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="client.personalization.personalize"):
        model = built(who_changed_taste())
    assert "shared" in model.recencies
    assert model.shared.config == view().shared.config, "training is as it was"
    assert model.shared.item_parameters.tobytes() == view().shared.item_parameters.tobytes()
    assert "shared model: a user's latest interactions weigh up to" in caplog.text
    assert "user-" not in caplog.text
    scores = model.own_part("shared").scores(model.histories, np.arange(20))
    for user in range(20):
        since = np.arange(N) % 2 == 1 - user % 2
        assert scores[user, since].mean() > scores[user, ~since].mean()


@pytest.mark.parametrize(
    ("timed", "split", "asked"), [(False, "last", True), (True, "random", True), (True, "last", False)]
)
def test_it_is_not_tried_where_it_cannot_show(timed: bool, split: str, asked: bool) -> None:
    """To the bit: without times, with random entries kept back, or where the platform does not want it."""
    data = who_changed_taste(timed=timed, split=split)
    model = built(data, CONFIG.model_copy(update={"recency": asked}))
    never = built(replace(data, timed=False), CONFIG.model_copy(update={"recency": False}))
    assert model.recencies == {}
    assert asdict(model.verdict) == asdict(never.verdict)
    assert model.local.item_parameters.tobytes() == never.local.item_parameters.tobytes()


def test_the_verdict_counts_what_others_chose_for_each_user() -> None:
    data = who_changed_taste()
    by_latest, plain = built(data).verdict, built(data, CONFIG.model_copy(update={"recency": False})).verdict
    assert by_latest.chosen_mean > plain.chosen_mean


def told(values: dict[Recency | None, np.ndarray]) -> object:
    return lambda recency: values[recency]


def test_the_best_is_served_where_its_gain_is_sure() -> None:
    rng = np.random.default_rng(1)
    plain = rng.random(200)
    values: dict[Recency | None, np.ndarray] = {None: plain} | dict.fromkeys(RECENCIES, plain - 0.1)
    values[RECENCIES[2]] = plain + 0.1
    chosen = choose_recency(told(values), np.random.default_rng(0), level=0.6)  # type: ignore[arg-type]
    assert chosen.recency == RECENCIES[2]
    np.testing.assert_allclose(chosen.gain, 0.1)
    np.testing.assert_allclose(chosen.flattery, 0.0, atol=1e-12)


def test_luck_among_several_is_taken_off() -> None:
    """Weighings that are no better in truth: what is chosen looks better than it is, and users without a say know."""
    served, flattered = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        plain = rng.random(100)
        values: dict[Recency | None, np.ndarray] = {None: plain}
        values |= {each: plain + 0.3 * rng.standard_normal(100) for each in RECENCIES}
        chosen = choose_recency(told(values), rng, level=0.6)  # type: ignore[arg-type]
        served += chosen.recency is not None
        if chosen.recency is not None:
            flattered.append(float(np.mean(chosen.flattery)))
    assert served <= 22, "20 % of 60 in expectation, and three standard deviations"
    assert not flattered or np.mean(flattered) > 0


def test_nobody_to_validate_on_leaves_entries_alike() -> None:
    chosen = choose_recency(lambda _: np.zeros(0), np.random.default_rng(0), level=0.6)
    assert chosen.recency is None

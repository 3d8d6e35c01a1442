"""Membership inference on what a federation ends with: can the item factors tell who was in the training data?

The attacker has the released item factors and a person's history. He folds the history in and looks at how well the
factors reconstruct it: factors that were trained on it fit it better. The figure is the area under the ROC curve between
users who were trained on and users of the same kind who were not; 0.5 is guessing.

One half of 600 users can be easier to fit than the other whoever was trained on, which is no leak. So the attack is made
again with the halves in each other's place: such a difference raises one of the two areas as it lowers the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from client.data.cleaning import load_platform_data
from client.data.dataset import ItemTable, UserItemMatrix
from client.scoring.fold_in import FoldIn
from common.catalogue import FederationSecret
from common.config.data import DataConfig
from common.config.federation import FederationPlan
from common.config.loader import parse_model
from common.config.model import FactorizationConfig
from common.contributions.run_plan import read_plan
from server.federation.state import FederationState
from simulations.engine.datasets import SimulatedPlatform, untested_platform
from simulations.engine.federate import simulation_secret
from simulations.evaluation.measure import lookup
from simulations.evaluation.pooled import PlatformMatrix, train_pooled, without_privacy
from simulations.evaluation.privacy_cost import private_plan, train_shared
from simulations.scenarios.scenario import Scenario
from simulations.scenarios.sources import PartitionSource

MEMBERS = 300
_PLATFORMS = 3


@dataclass(frozen=True, kw_only=True)
class MembershipReport:
    """Areas under the ROC curve, by ε; ``none`` without privacy.

    Attributes:
        members: how many were trained on; as many were not.
        auc: of the first half.
        swapped: with the other half trained on.
    """

    members: int
    auc: dict[str, float]
    swapped: dict[str, float]

    @property
    def mean(self) -> dict[str, float]:
        """Of both: what knowing the factors gives away, clear of how the halves differ."""
        return {name: (area + self.swapped[name]) / 2 for name, area in self.auc.items()}


Train = Callable[[Mapping[str, PlatformMatrix], FederationPlan, FederationSecret], FederationState]


def membership_test(
    epsilons: tuple[float, ...], *, members: int = MEMBERS, seed: int = 0, train: Train = train_pooled
) -> MembershipReport:
    """Train on users over three platforms, with and without privacy, and attack these members and as many others.

    Then train on those others, and attack again.

    Args:
        epsilons: to train at, besides none.
        members: how many are trained on.
        seed: of who they are.
        train: makes the factors without privacy.
    """
    rng = np.random.default_rng(seed)
    data = load_platform_data(audit_data(), platform="audit")
    chosen = rng.permutation(data.interactions.n_users)[: 2 * members]
    halves = [data.interactions.select_users(part) for part in (chosen[:members], chosen[members:])]
    return MembershipReport(
        members=members,
        auc=_areas(data.items, halves[0], halves[1], epsilons, seed, train),
        swapped=_areas(data.items, halves[1], halves[0], epsilons, seed, train),
    )


def _areas(
    items: ItemTable,
    members: UserItemMatrix,
    others: UserItemMatrix,
    epsilons: tuple[float, ...],
    seed: int,
    train: Train,
) -> dict[str, float]:
    """The area by ε, of factors trained on ``members``."""
    parts = [members.select_users(rows) for rows in np.array_split(np.arange(members.n_users), _PLATFORMS)]
    platforms = [
        untested_platform(f"audit-{index}", part, items, "the data in the package") for index, part in enumerate(parts)
    ]
    plan = read_plan(
        {
            "federation": "membership",
            "platforms": _PLATFORMS,
            "rounds": 10,
            # A model as rich and as little regularised as is common without privacy: the attack's best case.
            "model": {"dimension": 64, "regularization": 1.0, "unobserved_weight": 0.1},
            "privacy": {"mode": "user", "user_bound": members.n_users, "minimum_users": 1},
        }
    )
    secret = simulation_secret(seed)
    exact = without_privacy(plan)
    pool = {platform.name: PlatformMatrix.of(platform.training) for platform in platforms}
    state = train(pool, exact, secret)
    # The attacker holds the federation's secret, and so knows which row is which item.
    rows = lookup(items.keys, state.vocabulary, secret)
    auc = {"none": attack(state.item_parameters[rows], exact.serving, members, others)}
    scenario = Scenario(partition=PartitionSource(data=audit_data(), equal_platforms=_PLATFORMS), plan=plan, seed=seed)
    for epsilon in epsilons:
        private = private_plan(plan, epsilon)
        state = train_shared(scenario.model_copy(update={"plan": private}), platforms)
        auc[f"{epsilon:g}"] = attack(state.item_parameters[rows], private.serving, members, others)
    return auc


def attack(
    item_factors: NDArray[np.float32], config: FactorizationConfig, members: UserItemMatrix, others: UserItemMatrix
) -> float:
    """AUC of the mean reconstruction of a history by the factors, members against others."""
    fold_in = FoldIn(item_factors, config)
    scores = np.concatenate([_reconstruction(fold_in, item_factors, part) for part in (members, others)])
    ranks = rankdata(scores)
    positives = members.n_users
    total = float(ranks[:positives].sum()) - positives * (positives + 1) / 2
    return total / (positives * others.n_users)


def _reconstruction(fold_in: FoldIn, item_factors: NDArray[np.float32], part: UserItemMatrix) -> NDArray[np.float64]:
    """float64 ``[n]``: mean predicted score of each user's own items."""
    users = part.entry_users()
    predicted = np.einsum("ed,ed->e", fold_in.users(part)[users], item_factors[part.indices])
    return np.bincount(users, predicted, minlength=part.n_users) / np.maximum(part.row_lengths, 1)


def audit_platforms(users: int = 60) -> list[SimulatedPlatform]:
    """Three small platforms of real users, for an audit of the books."""
    data = load_platform_data(audit_data(), platform="audit")
    parts = np.array_split(np.arange(users), _PLATFORMS)
    return [
        untested_platform(f"audit-{index}", data.interactions.select_users(rows), data.items, "the data in the package")
        for index, rows in enumerate(parts)
    ]


def audit_scenario(epsilon: float) -> Scenario:
    """A private federation over :func:`audit_platforms`."""
    plan = read_plan(
        {
            "federation": "audit",
            "platforms": _PLATFORMS,
            "privacy": {"mode": "user", "epsilon": epsilon, "user_bound": 1000, "minimum_users": 1},
        }
    )
    return Scenario(partition=PartitionSource(data=audit_data(), equal_platforms=_PLATFORMS), plan=plan)


def audit_data() -> DataConfig:
    """The data in the package."""
    folder = Path(str(files("simulations") / "data" / "movietweetings_core"))
    content = {
        "interactions": {"path": str(folder / "ratings.csv.gz")},
        "items": {"path": str(folder / "movies.csv.gz"), "namespace": "imdb"},
    }
    return parse_model(content, DataConfig, "the data in the package")

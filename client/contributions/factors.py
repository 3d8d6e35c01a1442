"""Solves user factors, which stay, and sums over users, which a mechanism releases."""

from __future__ import annotations

from dataclasses import replace
from logging import getLogger
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from client.contributions.contributor import Contributor, PlatformContext
from client.contributions.membership import Membership
from client.data.dataset import UserItemMatrix
from client.data.recorded import bounded_weights
from client.data.split import EvaluationSlice
from client.data.training import TrainingData
from client.scoring.evaluation import evaluate
from client.scoring.scorer import SolvedFactorScorer
from client.training.als import rating_sum_and_count
from client.training.factory import make_row_kernels, make_trainer
from client.training.trainer import Trainer
from common.config.federation import FederationPlan
from common.config.model import FactorizationConfig
from common.contributions.factors import PlainMechanism, UserLevelMechanism
from common.contributions.kind import ContributionKind
from common.contributions.race_kind import plan_asked
from common.contributions.run_plan import RunPlan
from common.errors import PrivacyError
from common.privacy.contribution import PrivatizedContribution
from common.privacy.postprocess import item_weights
from common.wire.exchange import AgentRequest, value_mean_of

_log = getLogger(__name__)


class FactorContributor(Protocol):
    """Makes one platform's counts and statistics."""

    def counts(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        """How many users have each shared item, and how many users there are."""

    def statistics(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        """One server round's sums over users at the request's item parameters."""


class PlainContributor:
    """``mode: none``: exact sums. The result of the federation is then that of pooled training.

    Args:
        plan: public parameters.
        data: the platform's.
    """

    def __init__(self, plan: FederationPlan, data: TrainingData) -> None:
        self._plan = plan
        self._data = data
        self._matrix = data.train.select_items(data.shared_columns)
        self._mechanism = PlainMechanism()
        self._trainer: tuple[FactorizationConfig, float, Trainer] | None = None

    def counts(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        value_sum, interactions = rating_sum_and_count(self._matrix)
        totals = np.array([self._matrix.n_users, interactions, value_sum], dtype=np.float64)
        arrays = {"item_counts": self._matrix.item_counts().astype(np.float64), "totals": totals}
        return self._mechanism.release("counts", request.server_round, arrays)

    def statistics(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        trainer = self._trainer_at(plan_asked(self._plan, request).training, value_mean_of(request))
        items = request.arrays["item_parameters"][membership.shared_positions]
        # Conjugate gradients start from zero, so that a round's sums depend on data and request alone: what is asked
        # again, after a restart too, is answered alike.
        users = trainer.solve_users(self._matrix, items, np.zeros((self._matrix.n_users, trainer.width), np.float32))
        sums = trainer.item_statistics(self._matrix, users)
        arrays: dict[str, NDArray[np.floating]] = {
            "gram": sums.gram_packed,
            "rhs": sums.rhs,
            "user_gram": sums.user_gram,
            "objective": np.array([trainer.objective(self._matrix, users, items)]),
            "evaluation": self._validation_recall(trainer, items),
        }
        return self._mechanism.release("statistics", request.server_round, arrays)

    def _trainer_at(self, model: FactorizationConfig, global_mean: float) -> Trainer:
        """One for all rounds: it keeps the matrix by columns."""
        if self._trainer is None or self._trainer[:2] != (model, global_mean):
            self._trainer = model, global_mean, make_trainer(model, global_mean=global_mean)
        return self._trainer[2]

    def _validation_recall(self, trainer: Trainer, items: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 ``[2]``: sum of Recall@20 over the validation users, on shared items, and how many they are."""
        if self._plan.model.feedback == "explicit" or not self._plan.evaluate_rounds:
            return np.zeros(2)
        columns, held_out = self._data.shared_columns, self._data.validation
        history = held_out.history.select_items(columns)
        users = trainer.solve_users(history, items)
        on_shared = EvaluationSlice(held_out.users, history, held_out.truth.select_items(columns))
        measured = evaluate(SolvedFactorScorer(users, items), on_shared, metrics=("recall@20",), depth=20)
        return np.array([measured.values["recall@20"].sum(), len(measured.users)])


class PrivateContributor:
    """``mode: user``: what one user changes in a sum is bounded, and noise hides it.

    Everything a user contributes depends on that user's history, released values and public parameters alone. Nothing is
    refused here for what the users are, nor for how many they are (:mod:`client.privacy.declared_users`). A platform that
    shares no item has no user as far as the federation is concerned; under secure summation it adds its noise to the others'.

    Args:
        plan: public parameters, from the platform's own configuration.
        data: the platform's.
        mechanism: holds the run's releases and their noise.

    Raises:
        PrivacyError: δ is too large for the public bound on users.
    """

    def __init__(self, plan: FederationPlan, data: TrainingData, mechanism: UserLevelMechanism) -> None:
        shared = data.train.select_items(data.shared_columns)
        shared = replace(shared, values=bounded_weights(shared.values))
        self._matrix = shared if len(data.shared_columns) else shared.select_users(np.zeros(0, dtype=np.int64))
        if max(plan.delta, mechanism.plan.delta) > 1 / plan.privacy.user_bound:
            raise PrivacyError("privacy.delta: is above 1/user_bound; agree on a smaller one")
        self._plan = plan
        kernels = make_row_kernels(plan.training)
        _log.info("users are solved one by one by the %s kernels", kernels.name)
        self._trainer = make_trainer(plan.training, kernels=kernels)
        self._release_plan = mechanism.plan
        self._mechanism = mechanism

    def counts(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        matrix = self._laid_out(membership)
        return self._mechanism.counts(matrix.indptr, matrix.indices, n_items=matrix.n_items)

    def statistics(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        parameters = self._release_plan.parameters
        weights = item_weights(
            request.arrays["item_counts"],
            kept_items=parameters.kept_items,
            popularity_exponent=parameters.popularity_exponent,
        )
        positions = membership.shared_positions
        kept = np.flatnonzero(weights[positions] > 0)
        users = self._trainer.solve_users(
            self._matrix.select_items(kept), request.arrays["item_parameters"][positions[kept]]
        )
        matrix = self._laid_out(membership)
        return self._mechanism.statistics(
            request.server_round,
            matrix.indptr,
            matrix.indices,
            users,
            weights if self._dense else weights[positions],
        )

    @property
    def _dense(self) -> bool:
        # Under secure summation every platform adds noise to every item, so that who contributed to one does not show.
        return self._plan.secure_sum

    def _laid_out(self, membership: Membership) -> UserItemMatrix:
        """Shared interactions in columns of the vocabulary, or of the own shared items where each adds all noise."""
        return membership.on_vocabulary(self._matrix) if self._dense else self._matrix


def make_contributor(plan: FederationPlan, data: TrainingData) -> FactorContributor:
    """The contributor for the plan's mode of privacy."""
    if plan.private:
        return PrivateContributor(plan, data, UserLevelMechanism(RunPlan.of(plan).release_plan()))
    return PlainContributor(plan, data)


def factor_contributor(context: PlatformContext) -> FactorContributor:
    """The platform's, which counts and statistics share."""
    return make_contributor(context.plan, context.data)


class CountsContributor(Contributor):
    """The platform's half of ``counts``."""

    def __init__(self, kind: ContributionKind, context: PlatformContext) -> None:
        super().__init__(kind, context)
        self._factors = context.once(factor_contributor)

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        return self._factors.counts(request, membership)


class StatisticsContributor(Contributor):
    """The platform's half of ``statistics``."""

    def __init__(self, kind: ContributionKind, context: PlatformContext) -> None:
        super().__init__(kind, context)
        self._factors = context.once(factor_contributor)

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        return self._factors.statistics(request, membership)

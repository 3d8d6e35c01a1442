"""The platform's half of a race between settings: sums at a setting's item parameters, and their worth on validation users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.contributions.contributor import Contributor
from client.contributions.membership import Membership
from client.data.split import EvaluationSlice
from client.scoring.evaluation import evaluate
from client.scoring.scorer import SolvedFactorScorer
from client.training.factory import make_trainer
from client.training.trainer import Trainer
from common.contributions.factors import PlainMechanism
from common.contributions.race_kind import RACE, plan_asked
from common.privacy.contribution import PrivatizedContribution
from common.wire.exchange import AgentRequest

_METRICS = ("recall@20", "ndcg@20")


class RaceContributor(Contributor):
    """Makes contributions to a race; there is none under privacy."""

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        data = self.context.data
        matrix = data.train.select_items(data.shared_columns)
        trainer = make_trainer(plan_asked(self.context.plan, request).training)
        items = request.arrays["item_parameters"][membership.shared_positions]
        # From zero, as in ordinary rounds: what is asked again is answered alike.
        users = trainer.solve_users(matrix, items, np.zeros((matrix.n_users, trainer.width), np.float32))
        sums = trainer.item_statistics(matrix, users)
        arrays: dict[str, NDArray[np.floating]] = {
            "gram": sums.gram_packed,
            "rhs": sums.rhs,
            "user_gram": sums.user_gram,
            "evaluation": self._worth(trainer, items),
        }
        return PlainMechanism().release(RACE, request.server_round, arrays)

    def _worth(self, trainer: Trainer, items: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 ``[3]``: sums of :data:`_METRICS` over the validation users, on shared items, and how many these are."""
        columns, validation = self.context.data.shared_columns, self.context.data.validation
        alone = [
            matrix.select_users(validation.users).select_items(columns)
            for matrix in (validation.history, validation.truth)
        ]
        held_out = EvaluationSlice(np.arange(len(validation.users)), *alone)
        users = trainer.solve_users(held_out.history, items)
        measured = evaluate(SolvedFactorScorer(users, items), held_out, metrics=_METRICS, depth=20)
        return np.array([*(measured.values[metric].sum() for metric in _METRICS), len(measured.users)])

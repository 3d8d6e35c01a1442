"""Counts how many of a platform's users have each two of its shared items, for the item-item model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.contributions.contributor import Contributor, PlatformContext
from client.contributions.membership import Membership
from client.data.dataset import UserItemMatrix
from client.data.training import TrainingData
from common.config.ease import EaseConfig
from common.contributions.cooccurrence import COOCCURRENCE, CooccurrenceMechanism, packed_products
from common.contributions.cooccurrence_kind import ease_config
from common.contributions.factors import PlainMechanism
from common.contributions.kind import ContributionKind
from common.contributions.run_plan import RunPlan
from common.privacy.contribution import PrivatizedContribution
from common.wire.exchange import AgentRequest


class CooccurrenceMaker:
    """Makes the one contribution of kind ``cooccurrence``: Σ_u x_u x_uᵀ over the kept items.

    Values count as presence: x_ui is the user's weight on every item of the history.

    Args:
        config: public parameters, from the platform's own configuration.
        data: the platform's.
        mechanism: bounds and noise under user-level privacy; None for ``mode: none``, where the sums are exact.
    """

    def __init__(
        self,
        config: EaseConfig,
        data: TrainingData,
        mechanism: CooccurrenceMechanism | None = None,
    ) -> None:
        self._config = config
        self._matrix = data.train.select_items(data.shared_columns)
        self._mechanism = mechanism

    def columns(
        self,
        item_counts: NDArray[np.floating],
        owners: NDArray[np.bool_],
        shared_positions: NDArray[np.integer],
    ) -> NDArray[np.int64]:
        """Vocabulary positions of the k rows and columns of the contribution, rising: own ones, or all where it is masked.

        Args:
            item_counts: float ``[m]``; released counts, as every platform and the aggregator see them.
            owners: bool ``[m, P]``; who shares which item.
            shared_positions: int ``[m_p]``; positions of the items that this platform shares, in order of column.

        Raises:
            ConfigError: the vocabulary is larger than ``linear.max_items`` and nothing prunes it.
        """
        kept = self._config.columns(item_counts, owners, private=self._mechanism is not None)
        # Under secure summation every platform adds noise to every pair, so that who contributed to one does not show.
        return kept if self._masked else kept[np.isin(kept, shared_positions)]

    def cooccurrence(
        self,
        item_counts: NDArray[np.floating],
        owners: NDArray[np.bool_],
        shared_positions: NDArray[np.integer],
        *,
        member: tuple[int, int] | None = None,
    ) -> PrivatizedContribution:
        """The statistics at released ``item_counts``; ``member`` as :meth:`CooccurrenceMechanism.release` takes it.

        Returns:
            Array ``cooccurrence`` ``[k(k + 1)/2]`` in the order of :meth:`columns`: float64 and exact for ``mode: none``,
            else int64 grid steps with off-diagonals times √2.

        Raises:
            ConfigError: as :meth:`columns`.
        """
        columns = self.columns(item_counts, owners, shared_positions)
        matrix = _laid_out(self._matrix, shared_positions, columns, len(item_counts))
        if self._mechanism is not None:
            return self._mechanism.release(matrix.indptr, matrix.indices, n_items=matrix.n_items, member=member)
        weights = np.maximum(matrix.row_lengths, 1).astype(np.float64) ** (-2 * self._config.user_weighting)
        packed = packed_products(matrix.indptr, matrix.indices, weights, weights, matrix.n_items)
        return PlainMechanism().release(COOCCURRENCE, 0, {COOCCURRENCE: packed.astype(np.float64, copy=False)})

    @property
    def _masked(self) -> bool:
        return self._mechanism is not None and self._mechanism.noise.masked


class CooccurrenceContributor(Contributor):
    """The platform's half of ``cooccurrence``."""

    def __init__(self, kind: ContributionKind, context: PlatformContext) -> None:
        super().__init__(kind, context)
        plan, config = context.plan, ease_config(context.plan)
        mechanism = CooccurrenceMechanism(RunPlan.of(plan).item_item_noise(), config) if plan.private else None
        self._linear = CooccurrenceMaker(config, context.data, mechanism)

    def check_size(self, n_items: int, of: str) -> None:
        ease_config(self.context.plan).check_size(n_items, private=self.context.plan.private, of=of)

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        member = membership.platforms.index(self.context.platform), len(membership.platforms)
        return self._linear.cooccurrence(
            request.arrays["item_counts"],
            membership.owners,
            membership.shared_positions,
            # Masked sums say whose users they are of.
            member=member if self.context.plan.secure_sum else None,
        )


def _laid_out(
    matrix: UserItemMatrix, positions: NDArray[np.integer], columns: NDArray[np.int64], n_items: int
) -> UserItemMatrix:
    """Interactions in columns of the own shared items as n × k; what is not among ``columns`` falls out."""
    place = np.full(n_items, -1, dtype=np.int32)
    place[columns] = np.arange(len(columns), dtype=np.int32)
    target = place[positions]
    kept = matrix.select_entries(target[matrix.indices] >= 0)
    return UserItemMatrix(kept.indptr, target[kept.indices], kept.values, kept.times, len(columns))

"""The ranking stage of a service: orders one user's best own items as :class:`client.scoring.reranker.RankedScorer` does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.recommend.index import ItemIndex
from client.scoring.linear_form import LinearScope, Query
from client.scoring.reranker import Ranker, UserContext, candidate_order, in_order


@dataclass(frozen=True, eq=False)
class RankingStage:
    """Attributes:
    ranker: trained over the parts of ``linear``, in their order.
    linear: the blend of all parts, alike in weight, that finds the candidates.
    index: over its items.
    """

    ranker: Ranker
    linear: LinearScope
    index: ItemIndex

    def context(self, columns: NDArray[np.int32], newest: float) -> UserContext:
        """Of a history of own columns whose newest interaction was at ``newest``, NaN if nobody knows."""
        taste = self.ranker.items.values[columns].sum(axis=0)
        taste /= max(float(np.linalg.norm(taste)), 1e-9)
        return UserContext(taste[None], np.array([len(columns)]), np.array([newest]))

    def best(
        self,
        query: Query,
        context: UserContext,
        k: int,
        *,
        excluded: NDArray[np.integer] | None,
        allowed: NDArray[np.bool_] | None,
    ) -> list[tuple[int, float]]:
        """Rows and scores of the k best, best first; arguments as of :meth:`client.recommend.scopes.ItemScope.best`."""
        count = min(self.ranker.config.candidates, len(self.linear))
        each = max(1, count // len(self.linear.parts))
        tops = [self.index.best(v, each, excluded=excluded, allowed=allowed)[0] for v in self._of_parts(query)]
        # Ranks below the candidates keep the blend's order.
        blended, _ = self.index.best(query.vector, max(count, k + count), excluded=excluded, allowed=allowed)
        chosen = candidate_order(tops, blended, count)
        products = self.linear.items[chosen] @ query.vector + np.float32(query.offset)
        odds = self.ranker.log_odds(
            self.ranker.features(context, chosen[None], self._standardised(query, chosen)[None])
        )
        scores = in_order(odds[0], products)
        order = np.argsort(-scores, kind="stable")
        further = blended[~np.isin(blended, chosen)][: max(0, k - len(chosen))]
        below = np.minimum(
            self.linear.items[further] @ query.vector + np.float32(query.offset), scores.min(initial=np.inf)
        )
        ranked = [*zip(chosen[order], scores[order], strict=True), *zip(further, below, strict=True)]
        return [(int(row), float(score)) for row, score in ranked[:k]]

    def _of_parts(self, query: Query) -> list[NDArray[np.float32]]:
        """The query of each part alone."""
        alone = []
        for where in self.linear.slices:
            vector = np.zeros_like(query.vector)
            vector[where] = query.vector[where]
            alone.append(vector)
        return alone

    def _standardised(self, query: Query, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[c, P]``: each part's scores of ``rows``, standardised over the scope."""
        linear, columns = self.linear, []
        for where in linear.slices:
            vector = query.vector[where].astype(np.float64)
            centred = (linear.items[rows, where] - linear.mean[where]) @ vector
            columns.append(centred * linear.inverse_deviation(vector, where))
        return np.stack(columns, axis=1)

"""Estimates how popular items are on other platforms from noisy counts, shrunk to what own users and descriptions let expect.

A count is c_i = N_i·exp(η_i + ε_i), with N_i users who could have the item, η_i = θᵀf_i expected from public features f_i, and
ε_i ~ N(0, τ²) the item's own. Released was o_i + c_i + N(0, σ_i²), o_i of own users, and no less than the floor below which
the aggregator cuts. θ and τ are fitted to all released counts (empirical Bayes, as Fay & Herriot 1979 for small areas); each
count is then replaced by its posterior mean. Post-processing of what was released, of public features and of own data: it
costs no privacy, and the words stay at home.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp

from client.data.dataset import UserItemMatrix
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan

Floats = NDArray[np.float64]

_RIDGE = 1.0
"""On θ, in units of one item whose noise is as large as its count."""
_SPREADS = np.array([0.15, 0.3, 0.5, 0.8, 1.2, 1.8])
_GRID = np.linspace(-4.0, 4.0, 81)
_LEAST = -20.0


@dataclass(frozen=True, eq=False, kw_only=True)
class CountNoise:
    """How counts were released: all of it public.

    Attributes:
        sigma: float64 ``[m]``: standard deviation of the noise on each item's total.
        limit: K: a user with n > K items counted √(K/n) for each.
    """

    sigma: Floats
    limit: float

    @classmethod
    def of(cls, plan: FederationPlan, owners: NDArray[np.bool_]) -> CountNoise | None:
        """Of a run of ``plan`` whose platforms share the items as in ``owners`` (bool ``[m, P]``); None without privacy."""
        if not plan.private:
            return None
        released = RunPlan.of(plan).release_plan()
        # Masked sums carry every platform's share on every item; else noise comes from those alone that have it.
        shares = np.full(len(owners), owners.shape[1]) if released.counts.masked else np.maximum(owners.sum(axis=1), 1)
        sigma = released.counts.actual_sigma(1) * np.sqrt(shares.astype(np.float64))
        return cls(sigma=sigma, limit=released.parameters.max_count_contribution)

    def contributed(self, matrix: UserItemMatrix) -> Floats:
        """float64 ``[m]``: what the users of ``matrix`` added to each item's count, before noise."""
        weights = np.minimum(1.0, np.sqrt(self.limit / np.maximum(matrix.row_lengths, 1)))
        sums = np.bincount(matrix.indices, weights[matrix.entry_users()], minlength=matrix.n_items)
        return np.asarray(sums, dtype=np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReleasedCounts:
    """Released counts of m items.

    Attributes:
        totals: float64 ``[m]``: as the aggregator told them, of all users.
        own: float64 ``[m]``: what own users put into them.
        users: float64 ``[m]``: users of other platforms who could have the item; 0 where nobody could.
        sigma: float64 ``[m]``: standard deviation of the noise.
        floor: what the aggregator cuts at.
    """

    totals: Floats
    own: Floats
    users: Floats
    sigma: Floats
    floor: float = 1.0

    def log_rates(self, features: Floats) -> Floats:
        """float64 ``[m]``: log of the posterior mean of c_i/N_i; very small where nobody else could have the item.

        Args:
            features: ``[m, k]``, public or of own data; without a constant.
        """
        seen = np.flatnonzero(self.users > 0)
        rates = np.full(len(self.totals), _LEAST)
        if len(seen):
            design = _standard(features[seen])
            expected = design @ self._fitted(design, seen)
            rates[seen] = self._posterior(expected, self._spread(expected, seen), seen)[1]
        return np.asarray(np.maximum(rates, _LEAST))

    def _fitted(self, design: Floats, seen: NDArray[np.intp]) -> Floats:
        """θ: weighted least squares of the totals, with a ridge on all but the constant."""
        excess, users = self.totals[seen] - self.own[seen], self.users[seen]
        start = np.zeros(design.shape[1])
        start[0] = np.log(max(float(excess.sum()), 1.0) / users.sum())
        typical = np.maximum(users * np.exp(start[0]), 0.5)
        # A count varies among like items by about its size, and by its noise.
        variance = np.square(self.sigma[seen]) + np.square(typical) + typical
        ridge = np.full(design.shape[1], _RIDGE)
        ridge[0] = 0.0

        def loss(weights: Floats) -> tuple[float, Floats]:
            counts = users * np.exp(np.clip(design @ weights, -25.0, 5.0))
            residuals = (counts - excess) / variance
            value = 0.5 * float(residuals @ (counts - excess)) + 0.5 * float(ridge @ np.square(weights))
            return value, design.T @ (residuals * counts) + ridge * weights

        return np.asarray(scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x)

    def _spread(self, expected: Floats, seen: NDArray[np.intp]) -> float:
        """τ of the largest marginal likelihood."""
        evidence = [float(self._posterior(expected, spread, seen)[0].sum()) for spread in _SPREADS]
        return float(_SPREADS[int(np.argmax(evidence))])

    def _posterior(self, expected: Floats, spread: float, seen: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Log evidence and log posterior mean rate of each item, on a grid of ε."""
        prior = -0.5 * np.square(_GRID)
        log_rate = expected[:, None] + spread * _GRID
        mean = self.own[seen, None] + self.users[seen, None] * np.exp(np.minimum(log_rate, 5.0))
        sigma, totals = self.sigma[seen, None], self.totals[seen, None]
        density = -0.5 * np.square((totals - mean) / sigma) - np.log(sigma)
        likely = np.where(totals > self.floor, density, log_ndtr((self.floor - mean) / sigma))
        joint = prior + likely
        evidence = logsumexp(joint, axis=1)
        return evidence - logsumexp(prior), logsumexp(joint + log_rate, axis=1) - evidence


def _standard(features: Floats) -> Floats:
    """With a constant before columns of mean 0 and deviation 1; constant columns are left out."""
    deviation = features.std(axis=0)
    kept = deviation > 1e-9
    standard = (features[:, kept] - features[:, kept].mean(axis=0)) / deviation[kept]
    return np.column_stack([np.ones(len(features)), standard])

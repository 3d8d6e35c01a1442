"""The user-level mechanism of the factorisation: clip, weigh, quantise, sum, add noise. Nothing leaves without it.

Neighbouring data sets differ by one user's whole history on one platform, added or removed. For every array that
:class:`UserLevelMechanism` releases, a user's contribution is a function of that user's history, released values and
public parameters alone, so the L2 sensitivity is the largest norm of one contribution:

- counts: x_i = min(1, √(K/n_u)) on the n_u items and 1 on one more coordinate that counts users:
  Σ_i x_i² + 1 = n_u·min(1, K/n_u) + 1 ≤ K + 1.
- item vectors: row i is w_ui·u with ‖u‖ ≤ Γ and Σ_i w_ui² = B. All rows of one user together:
  Σ_i w_ui²‖u‖² = B‖u‖² ≤ B·Γ², so √B·Γ jointly, however many items the user has.
- user Gram matrix: ‖u uᵀ‖_F = ‖u‖² ≤ Γ². Its upper triangle is sent with off-diagonal entries times √2, which keeps the
  Frobenius norm; independent noise on it is the symmetrised (N + Nᵀ)/2 of the full matrix.
- item Gram matrices: Σ_i w_ui²‖u uᵀ‖_F² ≤ B·Γ⁴, so √B·Γ².

Arithmetic: each contribution is quantised *toward zero* to whole grid steps in 64-bit floats, after a shrink by
1 − 2⁻³⁰, far above their error, so no norm grows; the sums are exact in integers; the noise is an exact discrete
Gaussian (:mod:`common.privacy.sampler`), added in integers. So neither the gaps of floating-point noise (Mironov 2012)
nor the rounding of floating-point sums, which depends on the order of users (Casacuberta et al. 2022), can break the
bound, and nothing is clipped after noise. Privacy of the discrete noise:
:attr:`common.privacy.plan.GaussianNoise.grid_step`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.contributions.user_sums import UserSums
from common.errors import PrivacyError
from common.privacy.contribution import PrivatizedContribution, Release, ReleasedArray
from common.privacy.minting import mint
from common.privacy.plan import LOG2_SHARE_STEPS, GaussianNoise, ReleasePlan
from common.privacy.sampler import NoiseSource, SystemNoise, discrete_gaussian


class PlainMechanism:
    """``mode: none``: passes arrays through unchanged, marked as not private and as spending without bound."""

    def releases(self, kind: str) -> tuple[Release, ...]:
        """Return what the ledger charges for a contribution: unbounded spending."""
        return (Release(kind=kind, mechanism="none", noise_multiplier=0.0),)

    def release(self, kind: str, server_round: int, arrays: Mapping[str, ReleasedArray]) -> PrivatizedContribution:
        """Wrap exact ``arrays``, which are taken over; the ledger marks the data as spent without bound."""
        return mint(
            kind=kind,
            server_round=server_round,
            private=False,
            arrays=dict(arrays),
            grid_steps={},
            masked=frozenset(),
            releases=self.releases(kind),
        )


class UserLevelMechanism(UserSums):
    """Releases counts and statistics of one platform's users under a :class:`ReleasePlan`.

    Guarantees:
        Everything released over the plan's rounds together is (ε, δ)-DP for every user of this platform, provided that
        of arrays in ``masked`` only the sum with the shares of at least ``shares`` honest platforms is seen.
        Pickled, it is its :class:`UserSums` alone: where users are summed elsewhere, noise is still added here.

    Args:
        plan: public; the same on all platforms of a secure sum.
        noise: the system's generator unless a test injects another.
    """

    def __init__(self, plan: ReleasePlan, noise: NoiseSource | None = None) -> None:
        super().__init__(plan)
        self._noise = SystemNoise() if noise is None else noise

    def __reduce__(self) -> tuple[type[UserSums], tuple[ReleasePlan]]:
        return UserSums, (self._plan,)

    def counts(self, indptr: NDArray[np.int64], indices: NDArray[np.int32], *, n_items: int) -> PrivatizedContribution:
        """Release :meth:`count_sums`; every item gets noise, had or not.

        Returns:
            Array ``counts``, int64 ``[m + 1]``.

        Raises:
            PrivacyError: the rows are not valid.
        """
        return self.release_counts(self.count_sums(indptr, indices, n_items=n_items))

    def release_counts(self, sums: Mapping[str, NDArray[np.int64]]) -> PrivatizedContribution:
        """Release ``sums``: those of :meth:`count_sums` over all users, or added up over parts of them."""
        noise = self._plan.counts
        arrays = {"counts": self._add_noise(_whole(sums["counts"]), noise)}
        release = Release(kind="counts", mechanism="gaussian", noise_multiplier=noise.noise_multiplier)
        return self._contribution("counts", 0, arrays, {"counts": noise}, (release,))

    def statistics(
        self,
        server_round: int,
        indptr: NDArray[np.int64],
        indices: NDArray[np.int32],
        user_factors: NDArray[np.float32],
        item_weights: NDArray[np.float64],
    ) -> PrivatizedContribution:
        """Release :meth:`statistics_sums`, whose arrays and errors it has."""
        sums = self.statistics_sums(server_round, indptr, indices, user_factors, item_weights)
        return self.release_statistics(server_round, sums)

    def release_statistics(self, server_round: int, sums: Mapping[str, NDArray[np.int64]]) -> PrivatizedContribution:
        """Release ``sums``: those of :meth:`statistics_sums` over all users, or added up over parts of them.

        Raises:
            PrivacyError: a round beyond the plan.
        """
        noise = self.round_noise(server_round)
        noises = {"item_vectors": noise.item_vectors, "user_gram": noise.user_gram}
        if noise.item_grams is not None:
            noises["item_grams"] = noise.item_grams
        arrays = {name: self._add_noise(_whole(sums[name]), noises[name]) for name in noises}
        return self._contribution("statistics", server_round, arrays, noises, noise.releases())

    def _add_noise(self, sums: NDArray[np.int64], noise: GaussianNoise) -> NDArray[np.int64]:
        """``sums`` plus this platform's share: a discrete Gaussian of σ = 2^16 grid steps on *every* entry."""
        share = discrete_gaussian(sums.size, LOG2_SHARE_STEPS, self._noise)
        return sums + share.reshape(sums.shape)

    def _contribution(
        self,
        kind: str,
        server_round: int,
        arrays: Mapping[str, ReleasedArray],
        noises: Mapping[str, GaussianNoise],
        releases: tuple[Release, ...],
    ) -> PrivatizedContribution:
        return mint(
            kind=kind,
            server_round=server_round,
            private=True,
            arrays=arrays,
            grid_steps={name: noise.grid_step for name, noise in noises.items()},
            masked=frozenset(name for name, noise in noises.items() if noise.masked),
            releases=releases,
        )


def _whole(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Raises: PrivacyError where sums are no whole numbers, which alone are exact in any order."""
    if sums.dtype != np.int64:
        raise PrivacyError(f"sums: must be int64 grid steps, not {sums.dtype}")
    return sums

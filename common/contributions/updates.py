"""The user-level mechanism of the deep models: sample users, clip each one's whole gradient, quantise, sum, add noise.

Neighbouring data sets differ by one user's whole history on one platform, added or removed. In a round every user takes
part with probability q, independently (Poisson sampling; Mironov, Talwar & Zhang 2019). A user who takes part adds one
vector: the gradient of the user's own loss at the broadcast weights, over *all* shared variables together, encoder
weights and item rows alike, scaled to an L2 norm of at most C (McMahan et al. 2018; Abadi et al. 2016). It is a function
of that user's data, the broadcast weights and public randomness alone, so the sum has L2 sensitivity C, and one round is
a Poisson-subsampled Gaussian with noise multiplier z = σ/C.

Arithmetic is that of :mod:`common.contributions.factors`: quantised toward zero user by user, summed exactly in integers,
an exact discrete Gaussian on every entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.contributions.tower_variables import SharedVariable
from common.errors import PrivacyError
from common.privacy.contribution import PrivatizedContribution, Release
from common.privacy.minting import mint
from common.privacy.plan import LOG2_SHARE_STEPS, GaussianNoise
from common.privacy.quantise import SHRINK, toward_zero
from common.privacy.sampler import NoiseSource, SystemNoise, bernoulli, discrete_gaussian

UPDATE = "update"


@dataclass(frozen=True, kw_only=True)
class UpdatePlan:
    """Every release of a deep model in a run, fixed before the first.

    Attributes:
        epsilon, delta: what the releases together may cost; each platform checks it with its accountant.
        noise: of one round's sum.
        sampling_rate: q.
        rounds: T_d; no further round is possible.
    """

    epsilon: float
    delta: float
    noise: GaussianNoise
    sampling_rate: float
    rounds: int

    @classmethod
    def of(
        cls,
        *,
        epsilon: float,
        delta: float,
        clip_norm: float,
        noise_multiplier: float,
        sampling_rate: float,
        rounds: int,
        shares: int,
        masked: bool,
    ) -> UpdatePlan:
        """The plan of a sum whose noise is divided over ``shares`` platforms."""
        noise = GaussianNoise(sensitivity=clip_norm, noise_multiplier=noise_multiplier, shares=shares, masked=masked)
        return cls(epsilon=epsilon, delta=delta, noise=noise, sampling_rate=sampling_rate, rounds=rounds)

    def release(self) -> Release:
        """Return what one round costs."""
        return Release(
            kind=UPDATE,
            mechanism="subsampled-gaussian",
            noise_multiplier=self.noise.noise_multiplier,
            sampling_rate=self.sampling_rate,
        )

    def releases(self) -> tuple[Release, ...]:
        """All rounds: what a ledger must find room for before the first."""
        return (self.release(),) * self.rounds


@dataclass(frozen=True, eq=False)
class UserGradients:
    """Gradients of some users' own losses, one user a row, at the same weights.

    Attributes:
        dense: float32 ``[b, e]``: all variables that are not rows, end to end in order of declaration.
        positions: int32 ``[b, r]``: rows of the vocabulary that the user touches, each once; −1 fills up.
        rows: float32 ``[b, r, d]``: their gradients, zero where ``positions`` is −1.
    """

    dense: NDArray[np.float32]
    positions: NDArray[np.int32]
    rows: NDArray[np.float32]


Gradients = Callable[[NDArray[np.int64]], Iterable[UserGradients]]


@dataclass(frozen=True)
class UpdateLayout:
    """Where each variable is in the one long vector that is summed: rows of the vocabulary first, then the rest.

    Attributes:
        variables: as declared; at most one of them has rows.
        n_items: m.
    """

    variables: tuple[SharedVariable, ...]
    n_items: int

    def __post_init__(self) -> None:
        if sum(variable.rows for variable in self.variables) > 1:
            raise PrivacyError("a deep model under privacy has at most one variable with a row per item")

    @property
    def row(self) -> int:
        """D of the variable with rows; 0 without one."""
        return next((variable.shape[0] for variable in self.variables if variable.rows), 0)

    @property
    def dense_size(self) -> int:
        """e: values of all variables without rows."""
        return sum(int(np.prod(variable.shape)) for variable in self.variables if not variable.rows)

    @property
    def size(self) -> int:
        """m·d + e."""
        return self.n_items * self.row + self.dense_size

    def split(self, vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The variables by name, from one long vector."""
        parts, start = {}, self.n_items * self.row
        for variable in self.variables:
            shape = variable.full_shape(self.n_items)
            if variable.rows:
                parts[variable.name] = vector[: self.n_items * self.row].reshape(shape)
            else:
                size = int(np.prod(shape))
                parts[variable.name] = vector[start : start + size].reshape(shape)
                start += size
        return parts


class UpdateMechanism:
    """Releases one platform's sums of clipped gradients under an :class:`UpdatePlan`.

    Guarantees:
        One call is a Poisson-subsampled Gaussian with sensitivity ``clip_norm`` and noise multiplier z for every user of
        this platform, provided that of masked sums only that with the shares of ``shares`` honest platforms is seen.

    Args:
        plan: public; the same on all platforms.
        noise: the system's generator unless a test injects another.
    """

    def __init__(self, plan: UpdatePlan, noise: NoiseSource | None = None) -> None:
        self.plan = plan
        self._noise = SystemNoise() if noise is None else noise

    def update(
        self, server_round: int, *, n_users: int, layout: UpdateLayout, gradients: Gradients
    ) -> PrivatizedContribution:
        """Sample users, sum their clipped gradients, add noise.

        Args:
            server_round: of the request that this answers.
            n_users: users of this platform that may be drawn.
            layout: of the sum.
            gradients: the gradients of the users it is given (int64 ``[k]``), a chunk at a time. A row must depend on its
                user's data, the broadcast weights and public randomness alone.

        Returns:
            Array ``update``, int64 ``[layout.size]``.

        Raises:
            PrivacyError: gradients of the wrong form, or a user's row twice. NaN counts as no contribution.
        """
        drawn = np.flatnonzero(bernoulli(n_users, self.plan.sampling_rate, self._noise))
        sums = np.zeros(layout.size, dtype=np.int64)
        seen = 0
        for part in gradients(drawn):
            seen += len(part.dense)
            self._add(sums, part, layout)
        if seen != len(drawn):
            raise PrivacyError(
                f"gradients of {seen} users for {len(drawn)} that were drawn; this is a bug, please report it"
            )
        return self._contribution(server_round, sums)

    def noise_alone(self, server_round: int, layout: UpdateLayout) -> PrivatizedContribution:
        """A platform's share of the noise, without any user."""
        return self._contribution(server_round, np.zeros(layout.size, dtype=np.int64))

    def _contribution(self, server_round: int, sums: NDArray[np.int64]) -> PrivatizedContribution:
        share = discrete_gaussian(sums.size, LOG2_SHARE_STEPS, self._noise)
        return mint(
            kind="update",
            server_round=server_round,
            private=True,
            arrays={UPDATE: sums + share},
            grid_steps={UPDATE: self.plan.noise.grid_step},
            masked=frozenset([UPDATE]) if self.plan.noise.masked else frozenset(),
            releases=(self.plan.release(),),
        )

    def _add(self, sums: NDArray[np.int64], part: UserGradients, layout: UpdateLayout) -> None:
        _check_form(part, layout)
        steps_of_dense, steps_of_rows = self._quantised(part)
        row_values = layout.n_items * layout.row
        sums[row_values:] += steps_of_dense.sum(axis=0)
        touched = part.positions >= 0
        if touched.any():
            np.add.at(
                sums[:row_values].reshape(layout.n_items, layout.row), part.positions[touched], steps_of_rows[touched]
            )

    def _quantised(self, part: UserGradients) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each user's gradient, scaled to a norm of at most C, in whole grid steps toward zero."""
        dense, rows = part.dense.astype(np.float64), part.rows.astype(np.float64)
        squares = np.einsum("be,be->b", dense, dense) + np.einsum("brd,brd->b", rows, rows)
        # A gradient that broke down says nothing; that it did must not show, so the user simply adds zero.
        sound = np.isfinite(squares)
        norms = np.sqrt(np.where(sound, squares, 1.0))
        clip = self.plan.noise.sensitivity * SHRINK
        scale = np.where(sound, clip / np.maximum(norms, clip), 0.0)
        scale = scale / self.plan.noise.grid_step
        dense[~sound], rows[~sound] = 0.0, 0.0
        return toward_zero(dense * scale[:, None]), toward_zero(rows * scale[:, None, None])


def _check_form(part: UserGradients, layout: UpdateLayout) -> None:
    users = len(part.dense)
    if part.dense.shape != (users, layout.dense_size) or part.positions.shape[0] != users:
        raise PrivacyError(f"dense gradients: expected {users} × {layout.dense_size}, got {part.dense.shape}")
    if part.rows.shape != (*part.positions.shape, layout.row):
        raise PrivacyError(f"row gradients: expected {(*part.positions.shape, layout.row)}, got {part.rows.shape}")
    if part.positions.size == 0:
        return
    if part.positions.min() < -1 or part.positions.max() >= layout.n_items:
        raise PrivacyError("row gradients: a position lies outside the vocabulary")
    ordered = np.sort(part.positions, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        # Two rows of one item would add up in the sum and not in the norm.
        raise PrivacyError("row gradients: a user has an item twice; add its gradients up first")
    if np.any(part.rows[part.positions < 0]):
        raise PrivacyError("row gradients: padding must be zero")


def decoded(vector: NDArray[np.int64], plan: UpdatePlan, layout: UpdateLayout) -> Mapping[str, NDArray[np.float64]]:
    """The noisy sum of gradients by variable, float64; post-processing."""
    return layout.split(vector.astype(np.float64) * plan.noise.grid_step)

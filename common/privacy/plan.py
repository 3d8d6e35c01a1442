"""From a target ε to the noise of every release of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from common.config.privacy import MechanismParameters, PrivacyConfig
from common.errors import PrivacyError
from common.privacy.contribution import Release
from common.privacy.gdp import compose, mu_from_epsilon

LOG2_SHARE_STEPS = 16
"""A noise share's σ is 2^16 steps of its grid: rounding to the grid then costs under 1 % of a user's typical entry."""

_SMOOTHING_VARIANCE = 4.0
_ITEM_GRAM_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Noise of one released array.

    Attributes:
        sensitivity: L2, of the array under adding or removing one user.
        noise_multiplier: z = σ / sensitivity of what the recipient sees.
        shares: over how many honest platforms at least the noise is divided; 1 where each adds all of it.
        masked: whether the array leaves its platform only masked, for a secure sum.
    """

    sensitivity: float
    noise_multiplier: float
    shares: int
    masked: bool

    @property
    def sigma(self) -> float:
        """Standard deviation promised to the recipient, in the array's own unit."""
        return self.noise_multiplier * self.sensitivity

    @property
    def grid_step(self) -> float:
        """Worth of one integer step, such that ``shares`` discrete Gaussians of σ = 2^16 steps keep the promise.

        Why 4 squared steps are given up: an exact discrete Gaussian of variance s² is, up to a factor within
        1 ± 5·10⁻³⁴ on every probability, the continuous Gaussian of variance s² − 4 rounded at random to the integers
        with P(k) ∝ exp(−(k − x)²/8) (the smoothing lemma of Micciancio & Regev 2007, Lemma 4.4; convolution as in
        Peikert 2010, Theorem 3.1). Rounding is post-processing, so the closed form of μ-GDP holds for discrete noise
        too. A sum of P independent shares is a discrete Gaussian of the summed variance up to 10·P·exp(−π²·2³²)
        (Kairouz, Liu & Steinke 2021, Theorem 11).
        """
        steps = math.sqrt(self.shares * 4.0**LOG2_SHARE_STEPS - _SMOOTHING_VARIANCE)
        return self.sigma / steps * (1 + 2.0**-40)

    def actual_sigma(self, platforms: int) -> float:
        """Standard deviation present in a sum of ``platforms`` shares; quality is reported at this."""
        return self.grid_step * 2.0**LOG2_SHARE_STEPS * math.sqrt(platforms)

    def sum_bits(self, users: int, platforms: int) -> int:
        """Bits, sign included, of a sum over ``users`` users and ``platforms`` shares; noise up to 16 σ fits."""
        steps = users * self.sensitivity / self.grid_step + 16 * 2.0**LOG2_SHARE_STEPS * math.sqrt(platforms)
        return math.ceil(math.log2(steps)) + 1


@dataclass(frozen=True, kw_only=True)
class RoundNoise:
    """Noise of one server round; ``item_grams`` is None unless each item's Gram matrix is released."""

    item_vectors: GaussianNoise
    user_gram: GaussianNoise
    item_grams: GaussianNoise | None

    def releases(self) -> tuple[Release, ...]:
        named = {"item_vectors": self.item_vectors, "user_gram": self.user_gram, "item_grams": self.item_grams}
        return tuple(
            Release(kind=kind, mechanism="gaussian", noise_multiplier=noise.noise_multiplier)
            for kind, noise in named.items()
            if noise is not None
        )


@dataclass(frozen=True, kw_only=True)
class ReleasePlan:
    """Every release that one platform makes in a run, fixed before the first.

    Guarantees:
        The composition of ``releases()`` is at most ``mu``-GDP, and ``mu``-GDP implies (``epsilon``, ``delta``)-DP. Where
        other Gaussian releases of the run take a share of the budget, ``mu`` is what these leave.
    """

    epsilon: float
    delta: float
    mu: float
    parameters: MechanismParameters
    user_bound: int
    counts: GaussianNoise
    rounds: tuple[RoundNoise, ...]

    def releases(self) -> tuple[Release, ...]:
        """All of them in order: what a ledger must find room for before the first."""
        counts = Release(kind="counts", mechanism="gaussian", noise_multiplier=self.counts.noise_multiplier)
        return (counts, *(release for noise in self.rounds for release in noise.releases()))


def calibrate(
    config: PrivacyConfig, *, n_users_bound: int, rounds: int, platforms: int, share: float = 1.0
) -> ReleasePlan:
    """Divide a run's budget among its releases.

    With μ from (ε, δ), a release with share s of the budget gets the noise multiplier z = 1/(μ√s); shares sum to 1, so
    Σ 1/z² = μ².

    Args:
        config: ``mode`` must be ``user``.
        n_users_bound: public upper bound on the users of one platform; sets δ unless the config does.
        rounds: T, the number of server rounds; no further round is possible.
        platforms: P.
        share: of that μ² which these releases may take, and which takes its place above; others of the run take the rest.

    Raises:
        PrivacyError: δ above 1/``n_users_bound``, no honest noise share, a schedule of the wrong length, mode none.
    """
    if config.mode != "user":
        raise PrivacyError("privacy.mode: none has no plan; set it to user")
    if rounds < 1 or platforms < 1 or n_users_bound < 2:
        raise PrivacyError("a plan needs rounds >= 1, platforms >= 1 and n_users_bound >= 2")
    delta = 1 / (10 * n_users_bound) if config.delta is None else config.delta
    if delta > 1 / n_users_bound:
        raise PrivacyError(f"privacy.delta: {delta:g} is above 1/n = {1 / n_users_bound:g}; lower it")
    parameters = config.resolved()
    mu = mu_from_epsilon(config.epsilon, delta) * math.sqrt(share)
    summed = _Summed(shares=noise_shares(config, platforms), masked=config.noise == "secure_sum")
    counts = GaussianNoise(
        sensitivity=math.sqrt(parameters.max_count_contribution + 1),
        noise_multiplier=_multiplier(mu, parameters.counts_share),
        **summed,
    )
    plan = ReleasePlan(
        epsilon=config.epsilon,
        delta=delta,
        mu=mu,
        parameters=parameters,
        user_bound=n_users_bound,
        counts=counts,
        rounds=tuple(
            _round_noise(config, parameters, mu, part, summed)
            for part in _round_parts(config.round_schedule, rounds, parameters.round_growth)
        ),
    )
    if compose(release.noise_multiplier for release in plan.releases()) > mu:
        raise PrivacyError("the plan's releases exceed its budget; this is a bug, please report it")
    return plan


class _Summed(TypedDict):
    shares: int
    masked: bool


def _round_noise(
    config: PrivacyConfig, parameters: MechanismParameters, mu: float, part: float, summed: _Summed
) -> RoundNoise:
    statistics = 1 - parameters.counts_share - parameters.gram_share
    item_gram = _ITEM_GRAM_SHARE if config.release == "item_gram" else 0.0
    root_total, clip = math.sqrt(parameters.weight_total), parameters.clip_norm
    return RoundNoise(
        item_vectors=GaussianNoise(
            sensitivity=root_total * clip,
            noise_multiplier=_multiplier(mu, part * statistics * (1 - item_gram)),
            **summed,
        ),
        user_gram=GaussianNoise(
            sensitivity=clip**2,
            noise_multiplier=_multiplier(mu, part * parameters.gram_share),
            shares=1,
            masked=False,
        ),
        item_grams=GaussianNoise(
            sensitivity=root_total * clip**2,
            noise_multiplier=_multiplier(mu, part * statistics * item_gram),
            **summed,
        )
        if item_gram
        else None,
    )


def noise_shares(config: PrivacyConfig, platforms: int) -> int:
    """Over how many honest platforms, at least, one noise is divided; 1 where each adds all of it.

    Raises:
        PrivacyError: nobody is left whose noise protects the sum.
    """
    if config.noise == "per_platform":
        return 1
    honest = platforms - config.colluders - config.dropouts
    if honest < 1:
        raise PrivacyError(
            f"privacy: {platforms} platforms with colluders = {config.colluders} and dropouts = {config.dropouts} "
            "leave nobody whose noise protects the sum; use noise: per_platform or admit more platforms"
        )
    return honest


def _round_parts(schedule: tuple[float, ...] | None, rounds: int, growth: float) -> tuple[float, ...]:
    # Divided by the largest exponent first, so that no power overflows.
    last = rounds - 1 if growth > 1 else 0
    weights = tuple(growth ** (k - last) for k in range(rounds)) if schedule is None else schedule
    if len(weights) != rounds:
        raise PrivacyError(f"privacy.round_schedule: {len(weights)} entries for {rounds} rounds; give one for each")
    return tuple(weight / math.fsum(weights) for weight in weights)


def _multiplier(mu: float, share: float) -> float:
    # A last-digit surplus keeps the composition below μ after rounding.
    return (1 + 1e-12) / (mu * math.sqrt(share))

"""Faults that an audit must catch, put in from outside: production code has no switch for them.

A fault replaces a function of the code that ships while :func:`injected` holds, in this process alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, get_args
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from client.contributions.factors import PrivateContributor
from client.data.dataset import UserItemMatrix
from client.deploy import loading
from client.privacy.outbox import Outbox
from client.privacy.protocol_state import ProtocolState
from client.training.engine import LocalEngine
from common.contributions import cooccurrence, updates
from common.contributions.cooccurrence import CooccurrenceMechanism
from common.contributions.factors import UserLevelMechanism
from common.contributions.updates import UpdateMechanism, UserGradients
from common.privacy.contribution import Release
from common.privacy.quantise import toward_zero
from common.wire.exchange import AgentRequest
from simulations.audit.audited.platforms import NOISY_MODULES, PLATFORMS
from simulations.audit.audited.unclean import load_uncleaned

Fault = Literal[
    "halved-sensitivity",
    "no-clipping",
    "sigma-over-p",
    "reused-noise",
    "skip-ledger",
    "shared-split",
    "unpaid-finish",
    "feedback-unclean",
    "untouched-rows-without-noise",
    "wrong-weights",
    "oversampling",
    "company",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

Noise = Callable[[int, int, Any], NDArray[np.int64]]
Patches = list[tuple[Any, str, Any]]
"""What is replaced: a module or class, the name of its attribute, and what takes its place."""


@contextmanager
def injected(fault: Fault | None) -> Iterator[None]:
    """While it holds, this process runs with ``fault``; None changes nothing.

    Raises:
        TypeError: what takes a function's place does not take all of its parameters, as the function has changed since.
    """
    with ExitStack() as stack:
        for place, name, fake in [] if fault is None else _FAULTS[fault]():
            check_takes_place(fault, getattr(place, name), fake)
            stack.enter_context(patch.object(place, name, fake))
        yield


def check_takes_place(fault: Fault | None, original: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Refuse ``fake`` where it does not take all parameters of ``original``.

    Raises:
        TypeError: says which.
    """
    parameters = inspect.signature(original).parameters.values()
    by_name = {one.name: None for one in parameters if one.kind is one.KEYWORD_ONLY}
    try:
        inspect.signature(fake).bind(*[None] * (len(parameters) - len(by_name)), **by_name)
    except TypeError as error:
        raise TypeError(f"fault {fault}: what takes the place of {original.__qualname__}: {error}") from error


def _noise_patches(faulty: Callable[[Noise], Noise]) -> Patches:
    return [(module, "discrete_gaussian", faulty(vars(module)["discrete_gaussian"])) for module in NOISY_MODULES]


def _scaled(factor: float) -> Callable[[], Patches]:
    def faulty(noise: Noise) -> Noise:
        return lambda size, log2_sigma, source: np.rint(noise(size, log2_sigma, source) * factor).astype(np.int64)

    return lambda: _noise_patches(faulty)


def _reused() -> Patches:
    """Each mechanism draws noise once for each size, and adds it again the next time; then it draws anew."""
    kept: dict[tuple[int, int], tuple[Any, NDArray[np.int64]]] = {}

    def faulty(noise: Noise) -> Noise:
        def reused(size: int, log2_sigma: int, source: Any) -> NDArray[np.int64]:
            key = id(source), size
            if key in kept:
                return kept.pop(key)[1]
            share = noise(size, log2_sigma, source)
            # The source is kept beside it, so that no other can get its id.
            kept[key] = source, share
            return share

        return reused

    return _noise_patches(faulty)


def _no_clipping() -> Patches:
    """Users count at any norm."""

    def loose(self: UpdateMechanism, part: UserGradients) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        step = self.plan.noise.grid_step
        return toward_zero(part.dense.astype(np.float64) / step), toward_zero(part.rows.astype(np.float64) / step)

    return [
        (UserLevelMechanism, "_clip", lambda self, factors: factors),
        (CooccurrenceMechanism, "_scales", lambda self, lengths: np.ones(len(lengths))),
        (UpdateMechanism, "_quantised", loose),
    ]


def _uncharged(
    outbox: Outbox, request: AgentRequest, releases: Sequence[Release], vocabulary: bytes | None = None
) -> SimpleNamespace:
    return SimpleNamespace(run_id=request.run_id, releases=releases)


def _skipped_ledger() -> Patches:
    """Contributions go past ledger and guard."""
    return [
        (Outbox, "charge", _uncharged),
        (Outbox, "replay", lambda self, receipt: None),
        (Outbox, "send", lambda self, contribution, kind, sizes, receipt: dict(contribution.arrays)),
    ]


def _shared_split() -> Patches:
    """One generator draws for all users in turn what is held back of each."""

    def withheld(
        matrix: UserItemMatrix, user_ids: Any, *, key: str, users_share: float, share: float, latest: bool = False
    ) -> Any:
        rng = np.random.default_rng(0)
        chosen = rng.random(matrix.n_users) < users_share
        return chosen[matrix.entry_users()] & (rng.random(matrix.nnz) < share)

    return [(loading, "withheld_by_user", withheld)]


def _untouched_rows() -> Patches:
    """Entries that no user touches leave as they are: zero."""
    sums_of: list[NDArray[np.int64]] = []
    add, contribution = UserLevelMechanism._add_noise, UpdateMechanism._contribution
    products = cooccurrence.packed_products

    def faulty(noise: Noise) -> Noise:
        def masked(size: int, log2_sigma: int, source: Any) -> NDArray[np.int64]:
            share = noise(size, log2_sigma, source)
            if sums_of and sums_of[-1].size == size:
                return np.where(sums_of[-1].ravel() == 0, 0, share)
            return share

        return masked

    def of_factors(self: UserLevelMechanism, sums: NDArray[np.int64], noise: Any) -> NDArray[np.int64]:
        sums_of[:] = [sums]
        return add(self, sums, noise)

    def of_updates(self: UpdateMechanism, server_round: int, sums: NDArray[np.int64]) -> Any:
        sums_of[:] = [sums]
        return contribution(self, server_round, sums)

    def of_pairs(*arguments: Any) -> Any:
        sums = products(*arguments)
        sums_of[:] = [sums.astype(np.int64)]
        return sums

    return [
        *_noise_patches(faulty),
        (UserLevelMechanism, "_add_noise", of_factors),
        (UpdateMechanism, "_contribution", of_updates),
        (cooccurrence, "packed_products", of_pairs),
    ]


def _wrong_weights() -> Patches:
    """Weights and pruning from the platform's own counts in place of the released ones."""
    statistics = PrivateContributor.statistics

    def of_own_counts(self: PrivateContributor, request: Any, membership: Any) -> Any:
        own = np.ones(len(membership.owners))
        assert isinstance(self._engine, LocalEngine)
        own[membership.shared_positions] += self._engine.users.bounded.item_counts()
        return statistics(self, replace(request, arrays={**request.arrays, "item_counts": own}), membership)

    return [(PrivateContributor, "statistics", of_own_counts)]


def _oversampling() -> Patches:
    """Users take part in the deep model's rounds more often than was paid for."""
    drawn = vars(updates)["bernoulli"]
    return [(updates, "bernoulli", lambda count, rate, source: drawn(count, 1.01 * rate, source))]


def _company() -> Patches:
    """A statistic over everybody who takes part, as batch normalisation has, is taken off each user's gradient."""
    quantised = UpdateMechanism._quantised

    def centred(self: UpdateMechanism, part: UserGradients) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        dense, rows = quantised(self, part)
        return dense - dense.mean(axis=0).astype(dense.dtype) // 2, rows

    return [(UpdateMechanism, "_quantised", centred)]


_FAULTS: Mapping[Fault, Callable[[], Patches]] = {
    # Noise for half of what a user can change.
    "halved-sensitivity": _scaled(0.5),
    # Shares of σ/P where σ/√(P − t) was promised.
    "sigma-over-p": _scaled(math.sqrt(len(PLATFORMS) - 1) / len(PLATFORMS)),
    "no-clipping": _no_clipping,
    "reused-noise": _reused,
    "skip-ledger": _skipped_ledger,
    "shared-split": _shared_split,
    # A finish is answered whatever was paid for, and as often as it is asked.
    "unpaid-finish": lambda: [(ProtocolState, "_check_finish", lambda self, request, run: None)],
    # Recorded feedback goes past cleaning.
    "feedback-unclean": lambda: [(loading, "load_platform_data", load_uncleaned)],
    "untouched-rows-without-noise": _untouched_rows,
    "wrong-weights": _wrong_weights,
    "oversampling": _oversampling,
    "company": _company,
}

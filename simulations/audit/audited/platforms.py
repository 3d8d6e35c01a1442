"""The audited platform: an agent made from files by the code that a deployed platform runs, and the audit's ways into it.

All that the audit replaces in an agent is named here: where its noise comes from, and nothing that touches data.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
from numpy.typing import NDArray

from client.agent import PlatformAgent
from client.contributions.contributor import Contributor
from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.data.training import TrainingData
from client.deploy import loading
from client.personalization.store import PlatformStore
from client.privacy.outbox import Outbox
from client.privacy.secure_sum.member import SecureMember
from common.catalogue import FederationSecret
from common.config.federation import FederationPlan
from common.config.platform import PersonalizationConfig
from common.contributions import cooccurrence, factors, updates
from common.deploy.roles import PlatformConfig
from common.privacy.lifetime import budget_policy
from common.privacy.secure_sum import PlatformIdentity
from simulations.audit.audited.files import NAMESPACE
from simulations.engine.datasets import undescribed_items

TARGET, COMPANION, COLLUDER = "target", "companion", "colluder"
PLATFORMS = (COLLUDER, COMPANION, TARGET)
"""In order of name. The colluder tells the aggregator its share of the noise; the companion is honest and has no users."""
FOREIGN = 2
"""Items of each partner."""
SECRET = FederationSecret(hashlib.sha256(b"crossfed audit").digest())
SHARE_STEPS = 2.0**16
"""σ of one platform's share of any noise, in grid steps."""
NOISY_MODULES = (factors, cooccurrence, updates)
"""The modules that add noise: all mechanisms."""
_LIFETIME, _LIFETIME_DELTA = 1e3, 0.2
_MEMORY = Path("/dev/shm")  # noqa: S108 -- a folder of its own is made there, for its owner alone
_QUICK = PersonalizationConfig(tuning_candidates=1, anchored=False, blend_weights=(1.0,), content=False)


class ReplayedNoise:
    """Words that repeat with the seed, so that the noise of two worlds is the same and cancels in their difference.

    The first words after :meth:`restart` are zeros where ``everybody`` is set: they decide whom a sampling mechanism draws.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.restart("", everybody=False)

    def restart(self, label: str, *, everybody: bool) -> None:
        """Begin the words of ``label`` again."""
        digest = hashlib.blake2b(f"{self._seed} {label}".encode(), digest_size=8).digest()
        self._generator = np.random.default_rng(int.from_bytes(digest, "big"))
        self._everybody = everybody

    def words(self, count: int) -> NDArray[np.uint64]:
        if self._everybody:
            self._everybody = False
            return np.zeros(count, dtype=np.uint64)
        return self._generator.integers(0, 2**64, size=count, dtype=np.uint64)


@dataclass(eq=False)
class Draws:
    """The production source of noise, with the sampling of users known, or decided, by the audit.

    Attributes:
        source: where all other words come from.
        words_of_users: uint64 ``[n]``, the words to sample users by next; None: the source's.
        seen: the words that users were last sampled by.
    """

    source: Any
    words_of_users: NDArray[np.uint64] | None = None
    seen: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    _first: bool = False

    def restart(self, words_of_users: NDArray[np.uint64] | None = None) -> None:
        """The next words sample users."""
        self.words_of_users, self._first = words_of_users, True

    def words(self, count: int) -> NDArray[np.uint64]:
        if not self._first:
            words: NDArray[np.uint64] = self.source.words(count)
            return words
        self._first = False
        self.seen = self.source.words(count) if self.words_of_users is None else self.words_of_users
        return self.seen


@dataclass(frozen=True, eq=False)
class Audited:
    """An agent and what of it the audit looks at.

    Attributes:
        agent: as it ships.
        data: what it was given.
    """

    agent: PlatformAgent
    data: TrainingData

    @property
    def outbox(self) -> Outbox:
        outbox: Outbox = self.agent.__dict__["_outbox"]
        return outbox

    @property
    def contributors(self) -> Mapping[str, Contributor]:
        """Of every kind, by the names of their messages."""
        contributors: Mapping[str, Contributor] = self.agent.__dict__["contributors"]
        return contributors

    @property
    def own_noise(self) -> Any:
        """Where its mechanisms take their random words from."""
        return next(vars(mechanism)["_noise"] for mechanism in self._mechanisms() if "_noise" in vars(mechanism))

    def take_noise_from(self, source: Any) -> None:
        """Have every mechanism of the agent take its random words from ``source``."""
        for mechanism in self._mechanisms():
            vars(mechanism)["_noise" if "_noise" in vars(mechanism) else "source"] = source

    def _mechanisms(self) -> list[Any]:
        parts = [part for contributor in self.contributors.values() for part in vars(contributor).values()]
        return [vars(part)["_mechanism"] for part in parts if "_mechanism" in getattr(part, "__dict__", {})]


@contextmanager
def audit_folder() -> Iterator[Path]:
    """A folder for as long as it holds, in memory where there is such a place: ledgers wait for every write."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="crossfed-audit-", dir=place) as folder:
        yield Path(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Agents of people whose rows are dropped on purpose, and who are asked what they refuse, say nothing of it."""
    log = logging.getLogger("client")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads that wait for one another cost these tiny systems five times their work."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(threads)


@contextmanager
def without_noise(*, everybody: bool = False) -> Iterator[None]:
    """Mechanisms add zeros: what they release are the bounded, quantised sums.

    Args:
        everybody: whether all users take part in every round of the deep model, and not a sample.
    """

    def nothing(size: int, log2_sigma: int, source: Any) -> NDArray[np.int64]:
        return np.zeros(size, dtype=np.int64)

    def everyone(count: int, rate: float, source: Any) -> NDArray[np.bool_]:
        return np.ones(count, dtype=np.bool_)

    patches: list[Any] = [patch.object(module, "discrete_gaussian", nothing) for module in NOISY_MODULES]
    if everybody:
        patches.append(patch.object(updates, "bernoulli", everyone))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()


def audited_platform(folder: Path, plan: FederationPlan, identities: dict[str, PlatformIdentity]) -> Audited:
    """Read the platform whose files are in ``folder`` as its agent does at its start."""
    config = PlatformConfig.model_validate(
        {
            "name": TARGET,
            "plan": plan.model_dump(mode="json"),
            "aggregator": "localhost:9443",
            "data": {
                "interactions": {"path": str(folder / "interactions.csv")},
                "items": {"path": str(folder / "items.csv"), "namespace": NAMESPACE},
                "cleaning": {"implicit_weights": "value"},
            },
            "budget": _LIFETIME,
            **{part: str(folder / part) for part in ("state", "keys", "pins", "ca")},
        }
    )
    data = loading.load_training_data(config)
    return Audited(_agent(TARGET, folder / "state", plan, data, identities), data)


def partner(name: str, folder: Path, plan: FederationPlan, identities: dict[str, PlatformIdentity]) -> Audited:
    """A platform with items of its own, one user who has none of them, and its share of the noise."""
    empty = UserItemMatrix.from_entries(
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), n_users=1, n_items=FOREIGN
    )
    data = TrainingData(
        user_ids=("nobody",),
        items=undescribed_items(partner_keys(name)),
        train=empty,
        validation=EvaluationSlice(np.zeros(0, dtype=np.int64), empty, empty),
        shared=np.ones(FOREIGN, dtype=bool),
    )
    return Audited(_agent(name, folder, plan, data, identities), data)


def partner_keys(name: str) -> tuple[str, ...]:
    """Keys of a partner's items."""
    return tuple(f"{name}:{item}" for item in range(FOREIGN))


def make_identities(folder: Path) -> dict[str, PlatformIdentity]:
    """Key pairs of all platforms: public facts, the same in every world."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return {name: PlatformIdentity.create(folder / f"{name}.pem") for name in PLATFORMS}


def _agent(
    name: str, home: Path, plan: FederationPlan, data: TrainingData, identities: dict[str, PlatformIdentity]
) -> PlatformAgent:
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    fingerprints = {other: identity.fingerprint for other, identity in identities.items()}
    # Room for many runs: it is what each of them pays that is audited.
    policy = replace(budget_policy(plan, _LIFETIME), delta=_LIFETIME_DELTA)
    member = SecureMember(name, identities[name], fingerprints, plan, home) if plan.secure_sum else None
    return PlatformAgent(
        name,
        plan,
        SECRET,
        data,
        outbox=Outbox(home, policy, plan, home / "store"),
        store=PlatformStore(home / "store"),
        personalization=_QUICK,
        secure_member=member,
    )

"""Measures what a passport reveals: items of a history guessed from its contents, by kind, by number of numbers, and with ε.

The attacker has histories and contents of most users of the issuing platform, which is more than any receiving platform has. He
learns a ridge regression from contents to items on these users, with λ chosen on a fifth of them, and guesses ten items of
each of the others. Popularity's guess, which needs no passport, stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.cleaning import load_platform_data
from client.data.dataset import ItemTable, UserItemMatrix
from client.passport.basis import ProfileBasis
from client.passport.bridge import recall_at
from client.passport.contents import Basis
from client.passport.noise import noised
from client.passport.spaces import AttributeSpace, TextSpace
from client.personalization.described import words_of
from client.scoring.fold_in import FoldIn
from client.text.encoder import TextEncoder, UniversalSentenceEncoder
from client.text.vectors import encode_texts
from common.contributions.run_plan import read_plan
from common.errors import ConfigError
from simulations.audit.membership import audit_data
from simulations.engine.datasets import untested_platform
from simulations.engine.federate import simulation_secret
from simulations.evaluation.measure import lookup
from simulations.evaluation.pooled import PlatformMatrix, train_pooled

GUESSES = 10
DIMENSIONS = (16, 32, 64, 256)
FACTORS = (16, 64)
EPSILONS = (128.0, 32.0, 8.0)
_RIDGES = (300.0, 30.0, 3.0, 0.3, 0.03)
_ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class Guessed:
    """One kind of content under attack.

    Attributes:
        kind: ``factor``, ``tastes``, ``texts`` or ``profile``.
        numbers: d, or how many attributes.
        epsilon: of every passport; None: no noise.
        precision: share of the ten guesses that are in the history.
        recall: share of the history that is among the guesses.
    """

    kind: str
    numbers: int
    epsilon: float | None
    precision: float
    recall: float


@dataclass(frozen=True, kw_only=True)
class PassportReport:
    """The attack; it measures, and flags nothing.

    Attributes:
        attacked: people whose histories were guessed.
        known: people whom the attacker learned from.
        popularity: the guess without any passport.
        guessed: by content.
    """

    attacked: int
    known: int
    popularity: Guessed
    guessed: tuple[Guessed, ...]


def passport_test(
    *,
    seed: int = 0,
    dimensions: tuple[int, ...] = DIMENSIONS,
    factors: tuple[int, ...] = FACTORS,
    epsilons: tuple[float, ...] = EPSILONS,
    rounds: int = _ROUNDS,
    encoder: TextEncoder | None = None,
) -> PassportReport:
    """Attack passports of users of the data in the package, a fifth of them.

    Args:
        seed: of who is attacked.
        dimensions: of profiles.
        factors: dimensions of factors.
        epsilons: of passports with noise.
        rounds: of the training that factors come from.
        encoder: of ``texts``; None: they are not attacked.
    """
    data = load_platform_data(audit_data(), platform="audit")
    rows = np.random.default_rng(seed).permutation(data.interactions.n_users)
    attack = Attack(data.interactions, rows[: len(rows) // 5], rows[len(rows) // 5 :])
    plain = {"tastes": _tastes(data.items, data.interactions)}
    if encoder is not None:
        plain["texts"] = _texts(data.items, data.interactions, encoder)
    contents = [
        *(("factor", _factors(data.items, data.interactions, d, seed, rounds), None) for d in factors),
        *((kind, numbers, None) for kind, numbers in plain.items()),
        *_profiles(data.items, data.interactions, dimensions, epsilons),
    ]
    return PassportReport(
        attacked=len(attack.attacked),
        known=len(attack.known),
        popularity=attack.by_popularity(),
        guessed=tuple(attack.by(kind, numbers, epsilon) for kind, numbers, epsilon in contents),
    )


class Attack:
    """Guesses items of histories from contents.

    Args:
        histories: n × m: of the issuing platform.
        attacked: rows that are guessed.
        known: rows that the attacker knows.
    """

    def __init__(self, histories: UserItemMatrix, attacked: NDArray[np.integer], known: NDArray[np.integer]) -> None:
        self.attacked, self.known = attacked, known
        self._truth, self._tried = histories.select_users(attacked), histories.select_users(known[: len(known) // 5])
        self._items = histories.incidence(np.float32)
        self._share = (histories.select_users(known).item_counts() / len(known)).astype(np.float32)

    def by_popularity(self) -> Guessed:
        """Without a passport."""
        return self._guessed("popularity", 0, None, np.tile(self._share, (len(self.attacked), 1)))

    def by(self, kind: str, numbers: NDArray[np.float32], epsilon: float | None) -> Guessed:
        """From contents: float32 ``[n, d]``, a row for each of the histories' users."""
        learners, tried = self.known[len(self.known) // 5 :], self.known[: len(self.known) // 5]
        found = [precision_of(self._scores(numbers, learners, tried, ridge), self._tried).mean() for ridge in _RIDGES]
        best = _RIDGES[int(np.argmax(found))]
        scores = self._scores(numbers, self.known, self.attacked, best)
        return self._guessed(kind, numbers.shape[1], epsilon, scores)

    def _scores(
        self,
        numbers: NDArray[np.float32],
        learners: NDArray[np.integer],
        people: NDArray[np.integer],
        ridge: float,
    ) -> NDArray[np.float32]:
        centre = numbers[learners].mean(axis=0)
        x = (numbers[learners] - centre).astype(np.float64)
        scale = np.sqrt((x**2).sum(axis=1).mean())
        x = x / scale
        moments = (self._items[learners].T @ x).T
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), moments)
        guesses = (numbers[people] - centre) / scale @ weights
        return np.asarray(self._share + guesses, dtype=np.float32)

    def _guessed(self, kind: str, numbers: int, epsilon: float | None, scores: NDArray[np.float32]) -> Guessed:
        precision = precision_of(scores, self._truth)
        lengths = self._truth.row_lengths
        recall = precision * GUESSES / lengths[lengths > 0]
        return Guessed(
            kind=kind,
            numbers=numbers,
            epsilon=epsilon,
            precision=round(float(precision.mean()), 4),
            recall=round(float(recall.mean()), 4),
        )


def precision_of(scores: NDArray[np.float32], truth: UserItemMatrix) -> NDArray[np.float64]:
    """float64 ``[k]``: share of the ten best that are right, of each user with a history."""
    lengths = np.full(truth.n_users, GUESSES)
    right = recall_at(scores, truth.indptr, truth.indices, GUESSES, lengths=lengths)
    return right[truth.row_lengths > 0]


def noised_all(profiles: NDArray[np.float32], epsilon: float) -> NDArray[np.float32]:
    """float32 ``[n, d]``: every row with noise of its own."""
    flat = noised(np.zeros(profiles.size, dtype=np.float32), epsilon)
    return profiles + flat.reshape(profiles.shape)


def _profiles(
    items: ItemTable, histories: UserItemMatrix, dimensions: tuple[int, ...], epsilons: tuple[float, ...]
) -> Iterator[tuple[str, NDArray[np.float32], float | None]]:
    """Kind, numbers float32 ``[n, d]`` and ε of what passports of these users hold."""
    basis = ProfileBasis.fit(histories, items.keys, "audit/1", dimension=max(dimensions))
    profiles = basis.profiles(histories)
    for epsilon in (None, *epsilons):
        noisy = profiles if epsilon is None else noised_all(profiles, epsilon)
        for dimension in dimensions if epsilon is None else (max(dimensions),):
            yield "profile", noisy[:, :dimension], epsilon


def _tastes(items: ItemTable, histories: UserItemMatrix) -> NDArray[np.float32]:
    space = AttributeSpace(items.descriptions)
    found = np.zeros((histories.n_users, len(space.names)), dtype=np.float32)
    place = {name: column for column, name in enumerate(space.names)}
    for row in range(histories.n_users):
        tastes = space.tastes(histories.row(row))
        for name, weight in () if tastes is None else tastes.weights:
            found[row, place[name]] = weight
    return found


def installed_encoder() -> TextEncoder | None:
    """One that comes as a package, where it is installed."""
    try:
        return UniversalSentenceEncoder()
    except ConfigError:
        return None


def _texts(items: ItemTable, histories: UserItemMatrix, encoder: TextEncoder) -> NDArray[np.float32]:
    words = words_of(items.titles, items.descriptions.further)
    space = TextSpace(Basis(encoder.name, bytes.fromhex(encoder.digest)), encode_texts(words, encoder).vectors)
    found = np.zeros((histories.n_users, encoder.dimension), dtype=np.float32)
    for row in range(histories.n_users):
        texts = space.texts(histories.row(row))
        if texts is not None:
            found[row] = texts.values
    return found


def _factors(
    items: ItemTable, histories: UserItemMatrix, dimension: int, seed: int, rounds: int
) -> NDArray[np.float32]:
    """Folded in as a passport's factor is, on factors trained without privacy: the attack's best case."""
    plan = read_plan(
        {
            "federation": "passport-audit",
            "rounds": rounds,
            "model": {"dimension": dimension, "regularization": 8.0, "unobserved_weight": 0.4},
            "privacy": {"mode": "none"},
        }
    )
    secret = simulation_secret(seed)
    platform = untested_platform("audit", histories, items, "the data in the package")
    state = train_pooled({platform.name: PlatformMatrix.of(platform.training)}, plan, secret)
    rows = lookup(items.keys, state.vocabulary, secret)
    return FoldIn(state.item_parameters[rows], plan.serving).users(histories)

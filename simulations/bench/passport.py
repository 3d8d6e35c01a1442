"""Passports between two platforms with users in common and no item: what they bring, what they reveal, what ε costs.

Cold users are judged: their history on the receiving platform is hidden altogether, and nothing is chosen on them. From the
repository's root, with ``douban/`` (``book.parquet``, ``music.parquet``: columns ``user``, ``item``) in FOLDER:

    CROSSFED_DATA=FOLDER python -m simulations.bench.passport [bridge|attack|epsilon [NUMBERS OF A PROFILE]]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.passport.basis import ProfileBasis
from client.passport.bridge import FittedBridge, fit_bridge, recall_at
from common.errors import ConfigError
from simulations.audit.passport import Attack, noised_all

DRAWS: Final[Mapping[int, int]] = {5224: 1, 522: 3, 50: 8}
"""How often so many holders are drawn: of few, one draw would be luck."""
EPSILONS: Final = (None, 128.0, 64.0, 32.0, 16.0)
NUMBERS: Final = 256
COLD: Final = 1305
"""How many people have no history on the receiving platform."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two platforms' histories of the same users, row by row.

    Attributes:
        name: from where to where.
        profiles: float32 ``[n, d]``: on the issuing platform.
        there: n × m: the issuing platform.
        here: n × m': the receiving platform.
        cold, known: rows: of people without a history here, and of the others.
    """

    name: str
    profiles: NDArray[np.float32]
    there: UserItemMatrix
    here: UserItemMatrix
    cold: NDArray[np.intp]
    known: NDArray[np.intp]

    def fitted(self, holders: NDArray[np.intp], profiles: NDArray[np.float32]) -> FittedBridge:
        """As the receiving platform learns it."""
        everybody = self.here.select_users(self.known)
        rng = np.random.default_rng(len(holders))
        return fit_bridge(profiles[holders], self.here.select_users(holders), everybody, rng)

    def ratio(self, fitted: FittedBridge, profiles: NDArray[np.float32]) -> float:
        """Recall@20 of the cold users over that of popularity."""
        truth = self.here.select_users(self.cold)
        share = self.here.select_users(self.known).item_counts().astype(np.float32)
        judged = truth.row_lengths > 0
        popular = recall_at(np.tile(share, (len(self.cold), 1)), truth.indptr, truth.indices, 20)[judged].mean()
        if fitted.bridge is None:
            return 1.0
        scores = fitted.bridge.scores(profiles[self.cold])
        return float(recall_at(scores, truth.indptr, truth.indices, 20)[judged].mean() / popular)


def pairs(folder: Path, *, cold: int = COLD, seed: int = 0, numbers: int = NUMBERS) -> Iterator[Pair]:
    """Both ways between records and books."""
    names = {"records": "music", "books": "book"}
    matrices = {name: _read(folder / "douban" / f"{file}.parquet") for name, file in names.items()}
    rows = np.random.default_rng(seed).permutation(matrices["books"].n_users)
    for there, here in (("records", "books"), ("books", "records")):
        histories = matrices[there]
        basis = ProfileBasis.fit(histories, [f"{there}:{item}" for item in range(histories.n_items)], f"{there}/1")
        profiles = basis.profiles(histories)[:, :numbers]
        yield Pair(f"{there} to {here}", profiles, histories, matrices[here], rows[:cold], rows[cold:])


def bench_bridge(
    folder: Path, *, cold: int = COLD, draws: Mapping[int, int] = DRAWS, numbers: int = NUMBERS
) -> list[dict[str, Any]]:
    """Recall@20 of cold users over popularity by number of holders, and what was chosen on holders."""
    found = []
    for pair in pairs(folder, cold=cold, numbers=numbers):
        for count, times in draws.items():
            for draw in range(times):
                began = time.perf_counter()
                fitted = pair.fitted(pair.known[draw * count : (draw + 1) * count], pair.profiles)
                found.append(
                    {
                        "pair": pair.name,
                        "holders": fitted.holders,
                        "draw": draw,
                        "over popularity": round(pair.ratio(fitted, pair.profiles), 4),
                        "setting": None if fitted.bridge is None or not fitted.setting else asdict(fitted.setting),
                        "gain on holders": asdict(fitted.gain),
                        "seconds": round(time.perf_counter() - began, 1),
                    }
                )
                _say(found[-1])
    return found


def bench_epsilon(
    folder: Path,
    *,
    cold: int = COLD,
    holders: int = max(DRAWS),
    epsilons: Sequence[float | None] = EPSILONS,
    numbers: int = NUMBERS,
) -> list[dict[str, Any]]:
    """The price of ε in every passport, of holders and of cold users."""
    found = []
    for pair in pairs(folder, cold=cold, numbers=numbers):
        for epsilon in epsilons:
            profiles = pair.profiles if epsilon is None else noised_all(pair.profiles, epsilon)
            fitted = pair.fitted(pair.known[:holders], profiles)
            ratio = round(pair.ratio(fitted, profiles), 4)
            found.append({"pair": pair.name, "epsilon": epsilon, "over popularity": ratio})
            _say(found[-1])
    return found


def bench_attack(
    folder: Path, *, cold: int = COLD, epsilons: Sequence[float | None] = EPSILONS, numbers: int = NUMBERS
) -> list[dict[str, Any]]:
    """Guess ten items of each cold user's history from the profile; precision, beside popularity's guess.

    The attacker knows the profiles and histories of all others: ridge regression from profile to items, which is more than
    any receiving platform has.
    """
    found = []
    for pair in pairs(folder, cold=cold, numbers=numbers):
        attack = Attack(pair.there, pair.cold, pair.known)
        popular = attack.by_popularity()
        for epsilon in epsilons:
            profiles = pair.profiles if epsilon is None else noised_all(pair.profiles, epsilon)
            for d in (16, 64, numbers):
                guessed = attack.by("profile", profiles[:, :d], epsilon)
                found.append({"pair": pair.name, **asdict(guessed), "popularity": popular.precision})
                _say(found[-1])
    return found


def _read(path: Path) -> UserItemMatrix:
    table = pl.read_parquet(path).unique(maintain_order=True).sort("user", maintain_order=True)
    users, items = table["user"].to_numpy(), table["item"].to_numpy().astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users))]).astype(np.int64)
    ones, times = np.ones(len(items), dtype=np.float32), np.arange(len(items), dtype=np.int64)
    return UserItemMatrix(indptr, items, ones, times, int(items.max()) + 1)


def _say(line: dict[str, Any]) -> None:
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


Bench = Callable[..., list[dict[str, Any]]]
_BENCHES: Mapping[str, Bench] = {
    "bridge": bench_bridge,
    "attack": bench_attack,
    "epsilon": bench_epsilon,
}

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "bridge"
    if name not in _BENCHES:
        raise ConfigError(f"{name}: there are {', '.join(_BENCHES)}")
    numbers = int(sys.argv[2]) if len(sys.argv) > 2 else NUMBERS
    found = _BENCHES[name](Path(os.environ["CROSSFED_DATA"]), numbers=numbers)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")

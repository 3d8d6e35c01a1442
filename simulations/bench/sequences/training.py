"""Trains one setting in this process: local steps on every platform, and their average between the rounds.

The steps are the product's; the average is what the aggregator computes of such updates (a test compares the two), without
Flower's messages around it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice, leave_last_out
from client.scoring.evaluation import evaluate
from common.config.towers import TowerConfig
from common.contributions.tower_variables import ITEM_ROWS, initial_values, tower_variables
from common.contributions.update_kind import EXAMPLES, ROW_POSITIONS, ROW_WEIGHTS
from simulations.bench.sequences.settings import Setting

METRICS = ("hr@10", "ndcg@10")
Values = Mapping[str, NDArray[np.float32]]
Tell = Callable[[dict[str, Any]], None]


class Training:
    """One model's platforms, and the shared variables between rounds.

    Args:
        train: what is trained on, of all users.
        setting: of the model.
        seed: of first values, users' platforms and all draws.
    """

    def __init__(self, train: UserItemMatrix, setting: Setting, seed: int) -> None:
        from client.towers.features import ItemFeatures
        from client.towers.local_training import LocalTrainer
        from client.towers.two_tower import TwoTower

        self.config = setting.config
        self.rows = np.arange(train.n_items, dtype=np.int32)
        self.values: Values = initial_values(tower_variables(self.config), train.n_items, seed)
        members = np.array_split(np.random.default_rng(seed).permutation(train.n_users), setting.platforms)
        self._platforms = []
        for number, users in enumerate(members):
            part = train.select_users(np.sort(users))
            model = TwoTower(
                self.config, ItemFeatures(train.n_items, ()), n_shared=train.n_items, n_users=part.n_users, seed=seed
            )
            rng = np.random.default_rng([seed, 2, number])
            self._platforms.append((model, LocalTrainer(model, part, self.rows, self.config.training, rng)))

    def round(self, rate: float) -> float:
        """One round at a learning rate; its mean loss."""
        from client.towers.local_training import trained_arrays

        updates, losses = [], np.zeros(2)
        for model, trainer in self._platforms:
            model.load(self.values)
            result = trainer.train(rate)
            losses += result.examples * result.loss, result.examples
            updates.append(trained_arrays(model, result, self.rows))
        self.values = averaged(self.values, updates)
        return float(losses[0] / losses[1])

    def scorer(self) -> Any:
        """Scores with the shared variables as they are."""
        from client.towers.scorer import TowerScorer

        model = self._platforms[0][0]
        model.load(self.values)
        return TowerScorer(model, self.rows)


def averaged(before: Values, updates: Sequence[Mapping[str, Any]]) -> Values:
    """Shared variables after a round: dense ones by users, each item's row by how much it was trained.

    Args:
        before: the round's.
        updates: arrays as :func:`client.towers.local_training.trained_arrays` gives them, of platforms that share all items.
    """
    if len(updates) == 1 and len(updates[0][ROW_POSITIONS]) == len(before[ITEM_ROWS]):
        return {name: updates[0][name] for name in before}
    weights = np.array([float(update[EXAMPLES][0]) for update in updates])
    after = {
        name: np.average([update[name] for update in updates], axis=0, weights=weights).astype(np.float32)
        for name in before
        if name != ITEM_ROWS
    }
    total, weight = np.zeros(before[ITEM_ROWS].shape), np.zeros(len(before[ITEM_ROWS]))
    for update in updates:
        places = update[ROW_POSITIONS]
        total[places] += update[ROW_WEIGHTS][:, None].astype(np.float64) * update[ITEM_ROWS]
        weight[places] += update[ROW_WEIGHTS]
    rows = before[ITEM_ROWS].copy()
    rows[weight > 0] = total[weight > 0] / weight[weight > 0, None]
    return {name: rows if name == ITEM_ROWS else after[name] for name in before}


class Clock:
    """How far a training has come, by its rounds or by its time, whichever is further.

    Args:
        rounds: after which it is over.
        until: so is it then; of ``time.time``.
    """

    def __init__(self, rounds: int, until: float) -> None:
        self._rounds, self._until = rounds, until
        self.done, self.progress, self.started = 0, 0.0, time.time()
        self.first = self.started

    def tick(self) -> None:
        """A round is over."""
        now = time.time()
        self.done += 1
        if self.done == 1:
            # The first round compiles.
            self.first = now
        timed = 1.0 if now >= self._until else (now - self.first) / (self._until - self.first)
        self.progress = max(self.done / self._rounds, timed)

    @property
    def seconds(self) -> float:
        """Since the end of the first round."""
        return time.time() - self.first


def search(matrix: UserItemMatrix, setting: Setting, *, seed: int, until: float, tell: Tell, looks: int = 12) -> None:
    """Train without the two last items of anybody, and judge on the last but one as rounds go by.

    Rounds end with the time; the schedule of the learning rate comes to its end with them.
    """
    split = leave_last_out(matrix, rng=np.random.default_rng(seed))
    training = Training(split.train, setting, seed)
    clock, shown = Clock(setting.config.training.rounds, until), 0
    while clock.progress < 1.0:
        loss = training.round(rate_at(setting.config, clock.progress))
        clock.tick()
        if int(clock.progress * looks) > shown or clock.done == 1 or clock.progress >= 1.0:
            shown = int(clock.progress * looks)
            figures = measured(training.scorer(), split.validation)
            compiling = clock.first - clock.started
            tell({"round": clock.done, "first": compiling, "seconds": clock.seconds, "loss": loss, **figures})


def final(
    matrix: UserItemMatrix, setting: Setting, *, seed: int, rounds: int, stop: int, until: float, tell: Tell
) -> None:
    """Train with the validation items too, as many rounds as were best there, and measure the last items once.

    Args:
        matrix: all histories.
        setting: chosen on validation.
        seed: as in :func:`search`.
        rounds: that the schedule of the learning rate spans.
        stop: the round that was best.
        until: when the rounds end in any case; what was done is told.
        tell: gets the figures.
    """
    split = leave_last_out(matrix, rng=np.random.default_rng(seed))
    training = Training(split.test.history, setting, seed)
    clock, loss = Clock(rounds, until), 0.0
    while clock.progress < stop / rounds:
        loss = training.round(rate_at(setting.config, clock.progress))
        clock.tick()
    figures = {"round": clock.done, "first": clock.first - clock.started, "seconds": clock.seconds, "loss": loss}
    tell(figures | {"test": measured(training.scorer(), split.test)})


def rate_at(config: TowerConfig, progress: float) -> float:
    """The learning rate when ``progress`` (0 … 1) of the rounds are over."""
    from client.towers.local_training import scheduled_rate

    training = config.training
    return scheduled_rate(training, 1 + round(progress * (training.rounds - 1)))


def measured(scorer: Any, held_out: EvaluationSlice) -> dict[str, float]:
    """HR@10 and NDCG@10 in the full ranking."""
    values = evaluate(scorer, held_out, metrics=METRICS, depth=10).values
    return {name: float(found.mean()) for name, found in values.items()}


def append_to(path: Path) -> Tell:
    """Writes each line of figures to ``path`` as it comes."""

    def tell(line: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    return tell

"""Local training of a two-tower model between two server rounds, ``mode: none``: a few passes over the platform's users.

Negatives are items of the platform's own catalogue: absence is not dislike. Adam's slots are the platform's own and stay
from round to round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.towers.backends.steps import make_step
from client.towers.histories import Windows, batch_targets, training_windows
from client.towers.losses import choice_losses, squared_losses
from client.towers.two_tower import TwoTower
from common.config.towers import TowerTraining
from common.contributions.tower_variables import ITEM_ROWS
from common.contributions.update_kind import EXAMPLES, LOSS, ROW_POSITIONS, ROW_WEIGHTS
from common.errors import TrainingError
from common.privacy.contribution import ReleasedArray

_NEVER_DECAYED = ["bias", "gamma", "beta"]
"""Parts of the names of variables that weight decay leaves alone."""


@dataclass(frozen=True, eq=False)
class LocalResult:
    """Holds what local training came to.

    Attributes:
        loss: mean over the targets of the last pass.
        examples: users that have targets, the weight of this platform's encoders.
        row_weights: float32 ``[items]``: how many of the trained targets and negatives each item's row had part in.
    """

    loss: float
    examples: int
    row_weights: NDArray[np.float32]


class LocalTrainer:
    """Trains one platform's model; keeps the optimiser from round to round.

    Args:
        model: trained in place.
        matrix: training interactions, n × m_own.
        rows: int32 ``[m_own]``: the model's row of each own item.
        training: of the plan.
        rng: draws windows, batches, negatives.
        variables: to train; all of the model's unless given. The others stay as they are.
        beta_2: of Adam.
    """

    def __init__(
        self,
        model: TwoTower,
        matrix: UserItemMatrix,
        rows: NDArray[np.int32],
        training: TowerTraining,
        rng: np.random.Generator,
        *,
        variables: Sequence[keras.Variable] | None = None,
        beta_2: float = 0.98,
    ) -> None:
        self._model, self._matrix, self._rows, self._training = model, matrix, rows, training
        self._rng = rng
        self._catalogue = ops.convert_to_tensor(rows)
        place = np.full(model.n_items, -1, dtype=np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        self._place = ops.convert_to_tensor(place)
        self._variables = list(model.trainable_variables if variables is None else variables)
        self._mean = float(matrix.values.mean()) if matrix.nnz and training.loss == "squared" else 0.0
        # Clipped by norm: one unlucky batch must not undo a round.
        self._optimizer = keras.optimizers.Adam(
            training.learning_rate, beta_2=beta_2, global_clipnorm=5.0, weight_decay=training.weight_decay or None
        )
        self._optimizer.exclude_from_weight_decay(var_names=_NEVER_DECAYED)
        self._optimizer.build(self._variables)
        with keras.device(model.device):
            self._step = make_step(self._objective, self._variables, self._optimizer, self._others())

    def train(self, learning_rate: float | None = None, epochs: float | None = None) -> LocalResult:
        """Train for ``local_epochs`` passes.

        Raises:
            TrainingError: the loss is not a number, or a variable's value; model and optimiser are as before.
        """
        # With the state of dropout, so that the next round is as if this one had never been.
        kept = self._kept()
        before = {name: np.asarray(variable).copy() for name, variable in kept.items()}
        if learning_rate is not None:
            self._optimizer.learning_rate = learning_rate
        anchors = [np.asarray(variable).copy() for variable in self._model.shared.values()] if self._held else []
        touched = np.zeros(self._model.n_items, dtype=np.float32)
        left = self._training.local_epochs if epochs is None else epochs
        loss, examples = 0.0, 0
        while left > 0:
            windows = training_windows(self._matrix, self._model.config.sequence.length, self._rows, self._rng)
            examples = len(windows)
            order = self._rng.permutation(examples)[: max(1, math.ceil(min(left, 1.0) * examples))]
            loss = self._pass(windows, order, touched, anchors)
            left -= 1.0
            if not (math.isfinite(loss) and self._sound()):
                # The optimiser's slots too: one that is not a number spoils every round to come.
                for name, variable in kept.items():
                    variable.assign(before[name])
                raise TrainingError(
                    "the deep model's loss is not a number; nothing of this round was kept. Lower "
                    "towers.training.learning_rate"
                )
        return LocalResult(loss, examples, touched)

    def train_private(self, epochs: float = 5.0) -> LocalResult:
        """Train what is private (embeddings, profile weights, adapter, own rows); what is shared stays as it is."""
        shared = {id(variable) for variable in self._model.shared.values()}
        private = [variable for variable in self._model.trainable_variables if id(variable) not in shared]
        trainer = LocalTrainer(
            self._model, self._matrix, self._rows, self._training, self._rng, variables=private, beta_2=0.999
        )
        return trainer.train(epochs=epochs)

    def progress(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that a later round depends on besides its broadcast: random numbers as JSON, and arrays by name."""
        return {"rng": self._rng.bit_generator.state}, {
            name: np.asarray(variable) for name, variable in self._kept().items()
        }

    def restore(self, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what :meth:`progress` gave.

        Raises:
            KeyError, ValueError: it is of another model.
        """
        for name, variable in self._kept().items():
            variable.assign(arrays[name])
        self._rng.bit_generator.state = facts["rng"]

    @property
    def _held(self) -> bool:
        return self._training.proximal > 0

    def _others(self) -> list[keras.Variable]:
        trained = {id(variable) for variable in self._variables}
        return [variable for variable in self._model.variables if id(variable) not in trained]

    def _kept(self) -> dict[str, Any]:
        """The optimiser's slots, the state of dropout, and every variable, by place."""
        whole = [*self._variables, *self._optimizer.variables, *self._model.non_trainable_variables]
        return {f"{place}": variable for place, variable in enumerate(whole)}

    def _sound(self) -> bool:
        # The last step's loss is taken before its update.
        return all(bool(np.isfinite(np.asarray(variable)).all()) for variable in self._variables)

    def _pass(
        self,
        windows: Windows,
        order: NDArray[np.int64],
        touched: NDArray[np.float32],
        anchors: list[NDArray[np.float32]],
    ) -> float:
        told: list[tuple[Any, int]] = []
        size = self._training.batch_users
        for start in range(0, len(order), size):
            batch = windows.rows(order[start : start + size])
            negatives = self._negatives()
            targets = batch_targets(batch, size if self._step.fixed_shapes else None, self._training.weigh)
            with keras.device(self._model.device):
                loss = self._step(*targets.arrays(), negatives, self._hidden(), anchors)
            told.append((loss, targets.count))
            for part in (batch.items, batch.targets):
                touched += np.bincount(part[part >= 0], minlength=len(touched)).astype(np.float32)
            touched[negatives if len(negatives) else self._rows] += 1.0 / len(self._rows)
        self._step.finish()
        weight = sum(count for _, count in told)
        return sum(float(loss) * count for loss, count in told) / weight if weight else 0.0

    def _negatives(self) -> NDArray[np.int32]:
        count = min(self._training.negatives, len(self._rows))
        return self._rng.choice(self._rows, size=count, replace=False).astype(np.int32)

    def _hidden(self) -> NDArray[np.bool_]:
        rate = self._model.config.id_dropout
        if rate == 0:
            return np.zeros(0, dtype=np.bool_)
        return self._rng.random(self._model.n_items) < rate

    def _objective(
        self,
        users: Any,
        items: Any,
        lengths: Any,
        places: Any,
        targets: Any,
        values: Any,
        weights: Any,
        total: Any,
        counted: Any,
        negatives: Any,
        hidden: Any,
        anchors: Any,
    ) -> tuple[Any, Any]:
        """The value that a step makes smaller, and the mean loss of its targets; arguments as in :class:`BatchTargets`."""
        vectors = self._model.item_vectors(hidden if self._model.config.id_dropout else None, training=True)
        out = self._model.prefix_vectors(users, items, lengths, vectors, training=True)
        known = ops.take(ops.reshape(out, (-1, self._model.config.dimension)), places, axis=0)
        losses = self._losses(known, targets, values, vectors, negatives)
        mean = ops.sum(losses * counted) / ops.maximum(ops.sum(counted), 1.0)
        return ops.sum(losses * weights) / total + self._proximal(anchors), mean

    def _losses(self, out: Any, targets: Any, values: Any, vectors: Any, negatives: Any) -> Any:
        training, chosen = self._training, ops.take(vectors, targets, axis=0)
        if training.loss == "squared":
            return squared_losses(out / training.temperature, chosen, values - self._mean)
        return choice_losses(
            training,
            out,
            targets=chosen,
            labels=ops.take(self._place, targets, axis=0),
            candidates=ops.take(vectors, self._catalogue if training.negatives == 0 else negatives, axis=0),
            n_items=len(self._rows),
        )

    def _proximal(self, anchors: Sequence[Any]) -> Any:
        """μ/2·‖w − w_server‖² of FedProx (Li et al. 2020, eq. 2)."""
        if not self._held:
            return 0.0
        pairs = zip(self._model.shared.values(), anchors, strict=True)
        squares = [ops.sum(ops.square(ops.convert_to_tensor(v) - a)) for v, a in pairs]
        return self._training.proximal / 2 * sum(squares[1:], squares[0])


def scheduled_rate(training: TowerTraining, tower_round: int) -> float:
    """The learning rate of a server round (1 … T): constant, a cosine to a tenth, warmed up over a tenth of them, or both.

    >>> [round(scheduled_rate(TowerTraining(rounds=3, schedule="cosine"), t), 6) for t in (1, 2, 3)]
    [0.001, 0.00055, 0.0001]
    """
    rate, rounds = training.learning_rate, training.rounds
    if training.schedule in ("warmup", "warmup_cosine"):
        rate *= min(1.0, tower_round / max(1, rounds // 10))
    if training.schedule in ("cosine", "warmup_cosine"):
        progress = (tower_round - 1) / max(rounds - 1, 1)
        rate *= 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
    return rate


def idle_result(model: TwoTower) -> LocalResult:
    """Return what a platform that trained nothing has to say."""
    return LocalResult(0.0, 0, np.zeros(model.n_items, dtype=np.float32))


def trained_arrays(model: TwoTower, result: LocalResult, own_shared: NDArray[np.int32]) -> Mapping[str, ReleasedArray]:
    """Shared variables as they may leave: dense ones whole, of item rows those of own shared items that were trained.

    Args:
        model: after training.
        result: of it.
        own_shared: int32 ``[m_p]``: vocabulary positions of the items that the platform shares.

    Returns:
        By name as in the contract; ``row_positions`` are places in ``own_shared``.
    """
    values = model.values()
    weights = result.row_weights[own_shared]
    trained = np.flatnonzero(weights > 0).astype(np.int64)
    arrays: dict[str, Any] = {
        EXAMPLES: np.array([float(result.examples)]),
        LOSS: np.array([result.loss]),
    }
    for name, value in values.items():
        if name == ITEM_ROWS:
            arrays[name] = value[own_shared[trained]]
            arrays[ROW_POSITIONS] = trained
            arrays[ROW_WEIGHTS] = weights[trained]
        else:
            arrays[name] = value
    return arrays

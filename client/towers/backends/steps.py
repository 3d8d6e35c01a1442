"""A training step: gradients of an objective and the optimiser's move, on whatever Keras computes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras

Objective = Callable[..., tuple[Any, Any]]
"""From arrays to what is made smaller, and what is told of the step."""


class Step(Protocol):
    """One step after another on the same variables."""

    fixed_shapes: bool
    """Whether each new shape of the arguments costs a compilation."""

    def __call__(self, *arguments: Any) -> Any:
        """Take one step; give what the objective tells, which may still be on its way."""

    def finish(self) -> None:
        """Let the variables have the values that the steps came to."""


def make_step(
    objective: Objective,
    variables: Sequence[keras.Variable],
    optimizer: keras.optimizers.Optimizer,
    others: Sequence[keras.Variable],
) -> Step:
    """The step of the library that Keras computes with.

    Args:
        objective: reads the variables.
        variables: to train; ``optimizer`` was built for them.
        optimizer: moves them.
        others: which the objective reads or changes besides: frozen ones, the state of dropout.
    """
    match keras.backend.backend():
        case "tensorflow":
            return _TensorFlowStep(objective, variables, optimizer)
        case "jax":
            return _JaxStep(objective, variables, optimizer, others)
    return _TorchStep(objective, variables, optimizer)


class _TensorFlowStep:
    """Traced once; variables change in place."""

    fixed_shapes = False

    def __init__(self, objective: Objective, variables: Sequence[keras.Variable], optimizer: Any) -> None:
        import tensorflow as tf

        def step(*arguments: Any) -> Any:
            with tf.GradientTape() as tape:
                value, told = objective(*arguments)
            gradients = tape.gradient(value, list(variables))
            _move(optimizer, gradients, variables)
            return told

        self._run = tf.function(step, reduce_retracing=True)

    def __call__(self, *arguments: Any) -> Any:
        return self._run(*arguments)

    def finish(self) -> None:
        """Leave everything as it is: it is there already."""


class _TorchStep:
    """Runs as it is written; variables change in place."""

    fixed_shapes = False

    def __init__(self, objective: Objective, variables: Sequence[keras.Variable], optimizer: Any) -> None:
        self._objective, self._variables, self._optimizer = objective, list(variables), optimizer

    def __call__(self, *arguments: Any) -> Any:
        import torch

        value, told = self._objective(*keras.tree.map_structure(keras.ops.convert_to_tensor, arguments))
        gradients = torch.autograd.grad(value, [one.value for one in self._variables], allow_unused=True)
        with torch.no_grad():
            _move(self._optimizer, gradients, self._variables)
        return told.detach()

    def finish(self) -> None:
        """Leave everything as it is: it is there already."""


class _JaxStep:
    """A pure function from values to values; the variables have the new ones when the steps are finished."""

    fixed_shapes = True

    def __init__(
        self,
        objective: Objective,
        variables: Sequence[keras.Variable],
        optimizer: Any,
        others: Sequence[keras.Variable],
    ) -> None:
        import jax

        self._groups = (list(variables), list(others), list(optimizer.variables))
        self._values: list[list[Any]] | None = None

        def valued(trained: list[Any], rest: list[Any], *arguments: Any) -> tuple[Any, tuple[Any, list[Any]]]:
            known = [*zip(variables, trained, strict=True), *zip(others, rest, strict=True)]
            with keras.StatelessScope(state_mapping=known) as scope:
                value, told = objective(*arguments)
            after = [scope.get_current_value(one) for one in others]
            return value, (told, [old if new is None else new for old, new in zip(rest, after, strict=True)])

        def step(values: list[list[Any]], *arguments: Any) -> tuple[list[list[Any]], Any]:
            trained, rest, slots = values
            (_, (told, rest)), gradients = jax.value_and_grad(valued, has_aux=True)(trained, rest, *arguments)
            trained, slots = optimizer.stateless_apply(slots, gradients, trained)
            return [trained, rest, slots], told

        self._run = jax.jit(step)

    def __call__(self, *arguments: Any) -> Any:
        if self._values is None:
            self._values = [[one.value for one in group] for group in self._groups]
        self._values, told = self._run(self._values, *arguments)
        return told

    def finish(self) -> None:
        if self._values is None:
            return
        for group, values in zip(self._groups, self._values, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        self._values = None


def _move(optimizer: Any, gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
    """Variables that the objective does not depend on stay."""
    found = [(one, variable) for one, variable in zip(gradients, variables, strict=True) if one is not None]
    optimizer.apply(*zip(*found, strict=True))

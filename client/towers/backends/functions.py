"""Devices, compiled functions and gradients of inputs, on whatever Keras computes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from client.training.kernels.devices import choose_device, visible_gpus
from common.errors import ConfigError

Function = Callable[..., Any]
Signature = Sequence[tuple[tuple[int, ...], str]]
"""Shape and dtype of each argument."""


def chosen_device(requested: str) -> str:
    """The device as :func:`keras.device` takes it: ``cpu``, ``cpu:0``, ``gpu:0``, ``gpu:1``.

    Args:
        requested: ``auto``, ``cpu``, ``gpu`` or ``gpu:1``, as in the configuration.

    Raises:
        ConfigError: a GPU was asked for that is not there.
    """
    name = choose_device(requested, _gpus()).strip("/").lower()
    # PyTorch has one CPU, and Keras takes what is moved to its number 0 for another array than it made.
    return "cpu" if name == "cpu:0" and keras.backend.backend() == "torch" else name


def _gpus() -> list[str]:
    match keras.backend.backend():
        case "jax":
            import jax

            return [str(device) for device in jax.devices() if device.platform == "gpu"]
        case "torch":
            import torch

            return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        case "tensorflow":
            return visible_gpus()
    raise ConfigError(f"KERAS_BACKEND={keras.backend.backend()}: take tensorflow, jax or torch")


def compiles_each_shape() -> bool:
    """Whether a new shape of an argument costs a compilation: then arguments are filled up to few shapes."""
    return bool(keras.backend.backend() == "jax")


def compiled(function: Function, variables: Sequence[keras.Variable], signature: Signature | None = None) -> Function:
    """``function``, compiled where the library compiles; it may read ``variables``, whose later values count.

    Args:
        function: of arrays; changes nothing.
        variables: all that it reads.
        signature: the one that all calls have, where they have one: TensorFlow then never traces again.
    """
    match keras.backend.backend():
        case "tensorflow":
            return _with_tensorflow(function, signature)
        case "jax":
            return _with_jax(function, list(variables))
    import torch

    quiet: Function = torch.no_grad()(function)
    return quiet


def _with_tensorflow(function: Function, signature: Signature | None) -> Function:
    import tensorflow as tf

    if signature is None:
        traced: Function = tf.function(function, reduce_retracing=True)
    else:
        traced = tf.function(function, input_signature=[tf.TensorSpec(shape, dtype) for shape, dtype in signature])
    return traced


def _with_jax(function: Function, variables: list[keras.Variable]) -> Function:
    import jax

    @jax.jit  # type: ignore[untyped-decorator, unused-ignore]
    def stateless(values: list[Any], *arguments: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*arguments)

    return lambda *arguments: stateless([variable.value for variable in variables], *arguments)


def input_gradients(function: Function, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """∂ Σ function(inputs) / ∂ inputs, of each input's shape; 0 where it does not depend on one.

    Args:
        function: from a list of arrays to one array; differentiable.
        inputs: float32.
    """

    def total(arrays: Sequence[Any]) -> Any:
        return ops.sum(function(arrays))

    match keras.backend.backend():
        case "tensorflow":
            return _by_tensorflow(total, inputs)
        case "jax":
            import jax

            return [np.asarray(one) for one in jax.grad(total)([ops.convert_to_tensor(one) for one in inputs])]
    import torch

    leaves = [ops.convert_to_tensor(one).requires_grad_() for one in inputs]
    found = torch.autograd.grad(total(leaves), leaves, allow_unused=True, materialize_grads=True)
    return [ops.convert_to_numpy(one) for one in found]


def _by_tensorflow(total: Function, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    import tensorflow as tf

    arrays = [tf.constant(one) for one in inputs]
    with tf.GradientTape() as tape:
        for one in arrays:
            tape.watch(one)
        value = total(arrays)
    gradients = tape.gradient(value, arrays, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [np.asarray(tf.convert_to_tensor(one)) for one in gradients]

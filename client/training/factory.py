"""From a configuration to a trainer on the right backend. TensorFlow is imported only when it is what will run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from client.training.als import ExplicitTrainer, ImplicitTrainer

if TYPE_CHECKING:
    from client.training.kernels.systems import Kernels
    from client.training.trainer import Trainer
    from common.config.model import FactorizationConfig


def gpu_may_be_present() -> bool:
    """Whether the operating system shows an NVIDIA or AMD compute device; costs no import of TensorFlow."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def choose_backend(config: FactorizationConfig, *, gpu: bool | None = None) -> Literal["tensorflow", "numba"]:
    """Settle ``backend: auto``: TensorFlow for a GPU, the numba kernel for a CPU.

    Args:
        config: ``backend`` and ``device`` are read; ``device: cpu`` means that no GPU is wanted.
        gpu: whether there may be a GPU; None looks.
    """
    if config.backend != "auto":
        return config.backend
    if config.device == "cpu":
        return "numba"
    if config.device != "auto":
        return "tensorflow"
    return "tensorflow" if (gpu_may_be_present() if gpu is None else gpu) else "numba"


def make_kernels(config: FactorizationConfig) -> Kernels:
    """The backend that the configuration asks for, imported here and not before."""
    if choose_backend(config) == "numba":
        return _numba_kernels()
    from client.training.kernels.tensorflow_kernels import TensorFlowKernels

    kernels = TensorFlowKernels(config.device)
    if config.backend == "auto" and kernels.device == "/CPU:0":  # a GPU that TensorFlow cannot use
        return _numba_kernels()
    return kernels


def _numba_kernels() -> Kernels:
    from client.training.kernels.numba_kernels import NumbaKernels

    return NumbaKernels()


def make_trainer(config: FactorizationConfig, *, global_mean: float = 0.0, kernels: Kernels | None = None) -> Trainer:
    """The trainer for ``config.feedback``.

    Args:
        config: the hyperparameters.
        global_mean: μ of explicit feedback; see :func:`client.training.trainer.rating_sum_and_count`.
        kernels: a backend to use instead of the configured one.
    """
    chosen = make_kernels(config) if kernels is None else kernels
    if config.feedback == "implicit":
        return ImplicitTrainer(config, chosen)
    return ExplicitTrainer(config, chosen, global_mean)

"""From a configuration to a trainer on the right backend. TensorFlow is imported only when it is what will run."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from client.training.als import ExplicitTrainer, ImplicitTrainer
from client.training.kernels.self_check import check_kernels
from common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from client.training.kernels.systems import Kernels
    from client.training.trainer import Trainer
    from common.config.model import FactorizationConfig

_log = getLogger(__name__)


def gpu_may_be_present() -> bool:
    """Whether the operating system shows an NVIDIA or AMD compute device; costs no import of TensorFlow."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def choose_backend(config: FactorizationConfig, *, gpu: bool | None = None) -> Literal["tensorflow", "numba", "cuda"]:
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
    backend = choose_backend(config)
    if backend == "numba":
        return _numba_kernels()
    if backend == "cuda":
        return _cuda_kernels(config.device)
    from client.training.kernels.tensorflow_kernels import TensorFlowKernels

    kernels = TensorFlowKernels(config.device)
    if config.backend == "auto" and kernels.device == "/CPU:0":  # a GPU that TensorFlow cannot use
        return _numba_kernels()
    return kernels


def make_row_kernels(
    config: FactorizationConfig, *, gpu: bool | None = None, cuda: Callable[[str], Kernels] | None = None
) -> Kernels:
    """A backend that solves each row by itself, for what is noised: CUDA where it works, else the CPU's cores.

    TensorFlow pads a batch to its longest row, so that how one user's solution is rounded could depend on who else is there.

    Args:
        config: ``backend: numba`` and ``device: cpu`` keep to the CPU; with ``cuda`` a GPU has to be there.
        gpu: whether there may be a GPU; None looks.
        cuda: makes the CUDA backend of a device, which has tried itself; raises ConfigError where it cannot be used.

    Raises:
        ConfigError: CUDA is asked for and cannot be used.
    """
    make_cuda = cuda or _cuda_kernels
    if config.backend == "cuda":
        return make_cuda(config.device)
    wanted = config.backend != "numba" and config.device != "cpu"
    if wanted and (gpu_may_be_present() if gpu is None else gpu):
        try:
            return make_cuda(config.device)
        except ConfigError as error:
            _log.warning("users are solved on the CPU: %s", error)
    return _numba_kernels()


def _numba_kernels() -> Kernels:
    from client.training.kernels.numba_kernels import NumbaKernels

    return NumbaKernels()


def _cuda_kernels(device: str) -> Kernels:
    try:
        from client.training.kernels.cuda_kernels import CudaKernels
    except (ImportError, AttributeError) as error:  # a NumPy that numba's CUDA package is not made for, say
        raise ConfigError(
            f"model.backend: numba's CUDA package cannot be imported ({error}); install crossfed[cuda] with its constraints"
        ) from None

    kernels = CudaKernels(device)
    check_kernels(kernels)
    return kernels


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

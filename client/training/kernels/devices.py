"""Which device is computed on: what the configuration asks for, of what this machine has."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import ConfigError


def choose_device(requested: str, gpus: Sequence[str]) -> str:
    """The TensorFlow device for ``model.device``: ``auto``, ``cpu``, ``gpu`` or ``gpu:1``.

    Args:
        requested: the configured word; ``auto`` takes the first GPU where there is one.
        gpus: the names of the GPUs that TensorFlow sees.

    Raises:
        ConfigError: a GPU was asked for that is not there.
    """
    if requested == "cpu" or (requested == "auto" and not gpus):
        return "/CPU:0"
    number = int(requested.partition(":")[2] or 0)
    if number >= len(gpus):
        raise ConfigError(f"model.device is {requested!r}, but {len(gpus)} GPU(s) can be seen; set it to auto or cpu")
    return f"/GPU:{number}"


def visible_gpus() -> list[str]:
    """The GPUs that TensorFlow sees, each set to allocate memory as needed instead of all at once."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the device is in use already and keeps the setting it has
            break
    return [gpu.name for gpu in gpus]

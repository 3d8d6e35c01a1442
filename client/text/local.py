"""Text encoders that a platform has itself: a SavedModel by path, or Python code by name.

Both are named in the platform's own configuration. Nothing that comes over the wire can choose what is loaded.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.text.encoder import TextEncoder, digest_of_files
from common.config.text import TextModelConfig
from common.errors import ConfigError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class SavedModelEncoder:
    """A TensorFlow SavedModel that is called with a batch of strings.

    Args:
        folder: of the SavedModel.
        name: as the plan names it.
    """

    longest = 2000

    def __init__(self, folder: Path, name: str) -> None:
        if not (folder / "saved_model.pb").is_file():
            raise ConfigError(f"{folder}: is no folder of a TensorFlow SavedModel (no saved_model.pb)")
        names = [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and _is_weight(path)
        ]
        self.name = name
        self.digest = digest_of_files(folder, names)
        self._folder = folder
        self._call = _callable_of(folder)
        self.dimension = int(self.encode(["a"]).shape[1])

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        import tensorflow as tf

        try:
            answer = self._call(tf.constant(texts))
        except Exception as error:
            raise ConfigError(f"{self._folder}: takes no batch of strings ({type(error).__name__})") from error
        if isinstance(answer, dict):
            answer = next(iter(answer.values())) if len(answer) == 1 else answer
        vectors = np.asarray(answer, dtype=np.float32) if not isinstance(answer, dict) else np.zeros(0, np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ConfigError(f"{self._folder}: gives no vector for each string")
        return vectors


def local_encoder(config: TextModelConfig, name: str) -> TextEncoder:
    """The encoder that a platform's own configuration names.

    Raises:
        ConfigError: it is not there, or is no text encoder.
    """
    if config.saved_model is not None:
        return SavedModelEncoder(config.saved_model, name)
    if config.function is None:
        raise ConfigError("text: give saved_model or function")
    return _made_by(config.function, name)


def _made_by(entry: str, name: str) -> TextEncoder:
    module, _, function = entry.partition(":")
    try:
        encoder: TextEncoder = getattr(import_module(module), function)()
    except Exception as error:
        raise ConfigError(f"text.function: {entry} makes no encoder ({type(error).__name__}: {error})") from error
    wrong = [field for field in ("name", "digest", "dimension", "longest", "encode") if not hasattr(encoder, field)]
    if wrong:
        raise ConfigError(f"text.function: what {entry} makes has no {', '.join(wrong)}; see client.text.encoder")
    if not _DIGEST.fullmatch(str(encoder.digest)):
        raise ConfigError(f"text.function: the digest of what {entry} makes is no SHA-256 in hexadecimal digits")
    if encoder.name != name:
        raise ConfigError(f"text.function: {entry} makes an encoder named {encoder.name!r}; the plan wants {name!r}")
    return encoder


def _is_weight(path: Path) -> bool:
    # Keras writes a fingerprint that changes with every export of the same weights.
    return path.name != "fingerprint.pb"


def _callable_of(folder: Path) -> Any:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:
        raise ConfigError(f"{folder}: cannot be loaded by TensorFlow ({type(error).__name__})") from error
    serve = getattr(loaded, "serve", None)
    if callable(loaded):
        return loaded
    if callable(serve):
        call = serve
    elif "serving_default" in loaded.signatures:
        call = loaded.signatures["serving_default"]
        name = next(iter(call.structured_input_signature[1]))
        return lambda texts, kept=loaded: call(**{name: texts})
    else:
        raise ConfigError(f"{folder}: has nothing to call")
    return lambda texts, kept=loaded: call(texts)

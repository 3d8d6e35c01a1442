"""A platform's first answer, checked before anything is built on it."""

from __future__ import annotations

from collections.abc import Iterable

from common.catalogue import Vocabulary, unpack_blobs
from common.config.federation import FederationPlan
from common.contributions.protocol import open_sizes, plan_sizes, reply_contract, spec_of
from common.errors import CatalogueError, ContractError, FederationError
from common.wire.exchange import AgentReply, AgentRequest
from server.federation.exchange import PlatformExchange

FINGERPRINT = "secret_fingerprint"


def check_join(reply: AgentReply, plan: FederationPlan) -> None:
    """Refuse a ``join`` answer that the union of catalogues or the cards' relay could not use.

    Raises:
        ContractError: its arrays are not those that the contract declares, or it has no fingerprint of its secret.
        CatalogueError: it repeats an item, or its cards do not fit its items.
    """
    sizes = open_sizes(reply.arrays)
    sizes |= plan_sizes(plan, catalogue=sizes.get("vocabulary", 0))
    spec_of(reply_contract(plan), "join").check(dict(reply.arrays), sizes)
    if not isinstance(reply.config.get(FINGERPRINT), str):
        raise ContractError(f"the answer lacks {FINGERPRINT}")
    digests, offsets = reply.arrays["digests"], reply.arrays["card_offsets"]
    Vocabulary.empty().extended({reply.platform: digests})
    if len(unpack_blobs(reply.arrays["cards"], offsets)) != len(digests):
        raise ContractError(f"{len(offsets) - 1} item cards for {len(digests)} items")


def ask_to_join(
    exchange: PlatformExchange, question: AgentRequest, connected: Iterable[int], plan: FederationPlan
) -> dict[str, AgentReply]:
    """Ask ``connected`` nodes to join; those whose answer passes are the exchange's from now on.

    Returns:
        The answers by platform name, in order of name.

    Raises:
        FederationError: two platforms have one name.
    """
    nodes: dict[str, int] = {}
    replies: dict[str, AgentReply] = {}
    for node, reply in exchange.ask(question, connected):
        try:
            check_join(reply, plan)
        except (ContractError, CatalogueError) as error:
            exchange.reject(reply, error)
            continue
        if reply.platform in nodes:
            raise FederationError(f"two platforms are named {reply.platform!r}; every platform needs its own name")
        nodes[reply.platform], replies[reply.platform] = node, reply
    exchange.nodes = {nodes[name]: name for name in sorted(nodes)}
    return {name: replies[name] for name in sorted(nodes)}

"""Asking the platforms: one request to many of them, and their answers as they come, in order of platform name.

Answers are handed on one at a time, so that the aggregator never holds more than the few that came out of order: 1,000
platforms × 18 MB collected would be 18 GB.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from logging import getLogger
from typing import Final, Protocol

from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.errors import ContractError, CrossfedError, PlatformError
from common.wire.exchange import OK, AgentReply, AgentRequest, Arrays, nbytes
from common.wire.messages import array_record, kind_of, reply_of, request_content
from server.federation.state import RoundRecord

_log = getLogger(__name__)

NOT_ADMITTED: Final = "not-admitted"
"""Code of an answer from a node whose key belongs to no admitted platform."""
OTHER_NAME: Final = "other-name"
"""Code of an answer under another name than that which the node's key was admitted with."""
NO_CODE: Final = "no-code"
"""In the place of what a platform sent for a code and what is none."""
_CODE: Final = re.compile(r"[a-z][a-z-]{0,31}")
# A deployed grid is a network call away; the in-process one answers at the first pull and never waits.
_POLL_SECONDS: Final = 0.2
_PUSH_TRIES: Final = 3
_NEXT: Final = 16
_MESSAGE_TYPES: Final[Mapping[str, str]] = {
    "join": MessageType.QUERY,
    "vocabulary": MessageType.QUERY,
    "secure_sum": MessageType.QUERY,
    "finish": MessageType.EVALUATE,
}


class Observer(Protocol):
    """Watches a run: the simulator's progress display, the server's log."""

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        """A platform answered, or failed with ``code``."""

    def on_round(self, record: RoundRecord) -> None:
        """A round is complete."""


class SilentObserver:
    """Watches nothing."""

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        """Ignore it."""

    def on_round(self, record: RoundRecord) -> None:
        """Ignore it."""


class Clock(Protocol):
    """Tells the time and lets it pass; the module ``time`` is one."""

    def time(self) -> float:
        """Return seconds since 1970."""

    def monotonic(self) -> float:
        """Return seconds since any fixed moment."""

    def sleep(self, seconds: float, /) -> None:
        """Come back after ``seconds``."""


class PlatformExchange:
    """Sends requests through a Flower grid and yields the answers.

    Args:
        grid: Flower's.
        observer: told of every answer.
        deadline: seconds that the platforms have for one answer.
        names: name by Flower node id, of the platforms whose node keys were admitted; an answer under another name, or
            from another node, is left out. None: nobody was admitted by key (the simulator), and nodes name themselves.
        clock: by which deadlines pass; the system's.
    """

    def __init__(
        self,
        grid: Grid,
        observer: Observer,
        *,
        deadline: float,
        names: Mapping[int, str] | None = None,
        clock: Clock = time,
    ) -> None:
        self.grid = grid
        self._clock = clock
        self._admitted = names
        self.nodes: dict[int, str] = {}
        """Platform name by Flower node id, in order of name; empty until the platforms have joined."""
        self.failed: dict[str, str] = {}
        """Error code by platform, of the last request."""
        self.bytes_up = 0
        self.bytes_down = 0
        self._observer = observer
        self._questions: dict[str, Message] = {}
        self._deadline = deadline

    def reset_counters(self) -> None:
        """Count bytes from here."""
        self.bytes_up = self.bytes_down = 0

    def wait_for_nodes(
        self, wanted: int, *, deadline: float, tell: Callable[[list[str], int], None] = lambda connected, wanted: None
    ) -> list[int]:
        """The connected nodes, once there are ``wanted`` or ``deadline`` seconds have passed.

        Flower's own waiting for a minimum of nodes has no deadline. ``tell`` is told the platforms' names, and how many are
        wanted, whenever one has come or gone.
        """
        give_up = self._clock.monotonic() + deadline
        told: list[int] | None = None
        while True:
            nodes = sorted(self.grid.get_node_ids())
            if nodes != told:
                told = nodes
                tell(sorted((self._admitted or {}).get(node, f"node {node}") for node in nodes), wanted)
            if len(nodes) >= wanted or self._clock.monotonic() >= give_up:
                return nodes
            self._clock.sleep(_POLL_SECONDS)

    def ask(self, request: AgentRequest, nodes: Iterable[int] | None = None) -> Iterator[tuple[int, AgentReply]]:
        """Send ``request`` to ``nodes`` (all platforms of the run) and yield (node, answer) as answers come.

        Failures are not yielded: they are in :attr:`failed` with their code, by platform name.
        """
        return self.read(request.kind, self.send(self.messages(request, nodes)))

    def ask_each(
        self, requests: Mapping[int, AgentRequest], common: Arrays | None = None
    ) -> Iterator[tuple[int, AgentReply]]:
        """Send each node a request of its own, all of one kind, ``common`` arrays besides; yield as :meth:`ask` does."""
        kind = next(iter(requests.values())).kind if requests else ""
        return self.read(kind, self.send(self.messages_each(requests, common)))

    def messages(self, request: AgentRequest, nodes: Iterable[int] | None = None) -> list[Message]:
        """The Flower messages of :meth:`ask`. Their arrays are serialised once, whatever the number of platforms."""
        chosen = list(self.nodes if nodes is None else nodes)
        self.bytes_down += nbytes(request.arrays) * len(chosen)
        return self._addressed(request, array_record(request.arrays), chosen)

    def messages_each(self, requests: Mapping[int, AgentRequest], common: Arrays | None = None) -> list[Message]:
        """The Flower messages of :meth:`ask_each`. What they have in common is serialised once, and in memory once."""
        shared = common or {}
        record = array_record(shared)
        self.bytes_down += sum(nbytes(shared) + nbytes(request.arrays) for request in requests.values())
        return [
            message
            for node, request in requests.items()
            for message in self._addressed(request, ArrayRecord({**record, **array_record(request.arrays)}), [node])
        ]

    def _addressed(self, request: AgentRequest, arrays: ArrayRecord, chosen: Iterable[int]) -> list[Message]:
        content = request_content(request, arrays)
        return [
            Message(
                content=content,
                dst_node_id=node,
                message_type=_MESSAGE_TYPES.get(request.kind, MessageType.TRAIN),
                group_id=str(request.server_round),
                ttl=self._deadline,
            )
            for node in chosen
        ]

    def send(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Push ``messages``; yield the answers in the same order, each as soon as it and those before it are there."""
        self._questions = {}
        self.failed = {}
        for message in messages:
            # One at a time: a message that the grid does not take has no id, and its platform counts as unreachable.
            message_id = self._push(message)
            if message_id is None:
                self._fail(message, "unreachable")
            else:
                self._questions[message_id] = message
        waiting = OrderedDict.fromkeys(self._questions)
        arrived: dict[str, Message] = {}
        for message_id, question in list(self._questions.items()):
            while message_id in waiting and not self._expired(question):
                self._pull(waiting, arrived)
            if message_id in arrived:
                yield arrived.pop(message_id)
            else:
                waiting.pop(message_id, None)
                self._fail(question, "deadline")

    def read(self, kind: str, answers: Iterable[Message]) -> Iterator[tuple[int, AgentReply]]:
        """Yield (node, reply) for every answer that is one; note the others in :attr:`failed`."""
        for answer in answers:
            # A dead node's error comes from Flower itself, so only the id that it replies to tells whose it is.
            question = self._questions[answer.metadata.reply_to_message_id]
            try:
                reply = self._check(kind, question, answer)
            except (ContractError, PlatformError) as error:
                self._fail(question, str(error) if isinstance(error, PlatformError) else error.code)
                continue
            self.bytes_up += reply.nbytes
            self._observer.on_reply(reply.server_round, kind, reply.platform, OK, reply.nbytes)
            yield question.metadata.dst_node_id, reply

    def reject(self, reply: AgentReply, error: CrossfedError) -> None:
        """Leave out an answer that turned out not to keep the contract."""
        _log.warning("round %d: %s of %s left out: %s", reply.server_round, reply.kind, reply.platform, error)
        self.failed[reply.platform] = error.code
        self._observer.on_reply(reply.server_round, reply.kind, reply.platform, error.code, 0)

    def failures(self) -> str:
        """Who did not answer the last request and with which code, as the end of a sentence; empty if all answered."""
        if not self.failed:
            return ""
        said = ", ".join(f"{name} {code!r}" for name, code in sorted(self.failed.items()))
        where = "each platform's own log (state/logs/platform.log) says what was wrong"
        return f". Not with an answer, but with a code: {said}; {where}"

    def _push(self, message: Message) -> str | None:
        """The id under which the grid took ``message``; None where it did not."""
        for _ in range(_PUSH_TRIES):
            try:
                ids = list(self.grid.push_messages([message]))
            except ObjectPushError:
                # A SuperLink that ended in the middle refuses what it had stored already. The same message again: it is
                # asked for what is missing. Another one would wait at its node behind this one, which never comes whole.
                continue
            return ids[0] if ids else None
        return None

    def _pull(self, waiting: OrderedDict[str, None], arrived: dict[str, Message]) -> None:
        """Fetch what has come; wait a little when nothing has.

        The next few in the order of sending are asked for first: to name all that wait for each answer would cost the square
        of the number of platforms. All are asked for where none of these has come, as an answer that nobody fetches expires.
        """
        answers = list(self.grid.pull_messages(list(islice(waiting, _NEXT))))
        if not answers and len(waiting) > _NEXT:
            answers = list(self.grid.pull_messages(list(waiting)))
        for answer in answers:
            arrived[answer.metadata.reply_to_message_id] = answer
            waiting.pop(answer.metadata.reply_to_message_id, None)
        if not answers:
            self._clock.sleep(_POLL_SECONDS)

    def _expired(self, question: Message) -> bool:
        return self._clock.time() > question.metadata.created_at + self._deadline

    def _name(self, question: Message) -> str:
        node = question.metadata.dst_node_id
        return self.nodes.get(node) or (self._admitted or {}).get(node, f"node {node}")

    def _fail(self, question: Message, code: str) -> None:
        name, server_round = self._name(question), int(question.metadata.group_id)
        _log.warning("round %d: %s is left out: %s", server_round, name, code)
        self.failed[name] = code
        self._observer.on_reply(server_round, kind_of(question), name, code, 0)

    def _check(self, kind: str, question: Message, answer: Message) -> AgentReply:
        if answer.has_error():
            raise PlatformError(f"node-{answer.error.code}")
        reply = reply_of(answer)
        if self._admitted is not None and reply.code == OK:
            self._check_name(question.metadata.dst_node_id, reply.platform, self._admitted)
        if reply.code != OK:
            # A platform's word, which goes to logs, status files and metrics.
            raise PlatformError(reply.code if _CODE.fullmatch(reply.code) else NO_CODE)
        expected = (
            kind,
            int(question.metadata.group_id),
            self.nodes.get(question.metadata.dst_node_id, reply.platform),
        )
        if (reply.kind, reply.server_round, reply.platform) != expected:
            raise ContractError(f"the answer is not that of {expected[2]} to {kind} of round {expected[1]}")
        return reply

    @staticmethod
    def _check_name(node: int, name: str, admitted: Mapping[int, str]) -> None:
        """Raises: PlatformError for a node that goes under a name its key was not admitted with."""
        if node not in admitted:
            raise PlatformError(NOT_ADMITTED)
        if admitted[node] != name:
            raise PlatformError(OTHER_NAME)

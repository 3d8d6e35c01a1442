"""The federation as a Flower strategy: ``start`` is the protocol, a call a step.

    enrol        round 0: platforms join, the aggregator unites their digests and tells everyone the vocabulary
    count        how many users have each item, once
    gather       which items go together, once; solved for every platform's weights; where the plan has a linear road
    train round  item parameters out; each platform's statistics back and into a sum as they arrive; solve
    train towers the deep model's variables out, platforms' updates back, combined; where the plan has a deep model
    save         the round is durable before the next begins
    finish       final parameters out; each platform builds its own model and says only that it did

A platform that fails (an error, a deadline, an answer outside the contract) is named and left out of that round; a round
below the quorum ends the run with an error, its last checkpoint intact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from logging import getLogger

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.catalogue import check_same_secret, pack_blobs
from common.config.federation import FederationPlan
from common.errors import FederationError
from common.wire.exchange import AgentReply, AgentRequest, Arrays, Json, Kind
from common.wire.messages import array_record
from server.aggregation.cooccurrence import aggregate_linear, linear_answer
from server.aggregation.private_factors import make_aggregation
from server.aggregation.towers import aggregate_towers
from server.cards import CardRelay
from server.features import feature_matrix
from server.federation.checkpoint import CheckpointStore
from server.federation.collect import make_collector
from server.federation.exchange import Observer, PlatformExchange, SilentObserver
from server.federation.handshake import greet
from server.federation.state import RoundRecord, fresh_state, with_vocabulary
from server.stopping import factors_settled, towers_settled

_log = getLogger(__name__)


class FederatedFactorization(Strategy):
    """Matrix factorisation over platforms that send sums of statistics and nothing of any user.

    Args:
        plan: the public parameters, which every platform compares with its own.
        checkpoints: where each round's state goes; a state found there is resumed.
        run_id: of a new run; a resumed one keeps its own.
        observer: told of every answer and every round.
        deadline: seconds that platforms have for one answer.
        join_deadline: seconds to wait for all platforms of the plan to connect; then those that are there begin.
        names: admitted name by Flower node id, as :class:`PlatformExchange` takes it.
        on_waiting: told who is connected while the run waits for platforms, as :meth:`PlatformExchange.wait_for_nodes` does.
    """

    def __init__(
        self,
        plan: FederationPlan,
        checkpoints: CheckpointStore,
        *,
        run_id: str,
        observer: Observer | None = None,
        deadline: float = 3600.0,
        join_deadline: float = 300.0,
        names: Mapping[int, str] | None = None,
        on_waiting: Callable[[list[str], int], None] = lambda connected, wanted: None,
    ) -> None:
        self.plan = plan
        self._on_waiting = on_waiting
        self.state = fresh_state(run_id, plan.row)
        self._cards = CardRelay()
        self._checkpoints = checkpoints
        self._observer = observer or SilentObserver()
        self._deadline = deadline
        self._join_deadline = join_deadline
        self._names = names
        self._collector = make_collector(plan, checkpoints.folder)
        self._aggregation = make_aggregation(plan)
        self._exchange: PlatformExchange
        self._round_started = 0.0

    def summary(self) -> None:
        """Log what is about to run."""
        _log.info(
            "federation %s: at most %d rounds of %s", self.plan.federation, self.plan.server_rounds, self.plan.training
        )

    def start(  # type: ignore[override]  # the shared parameters come from the vocabulary, not from the caller
        self, grid: Grid
    ) -> Result:
        """Run the federation to its end, from its last checkpoint if there is one.

        Raises:
            FederationError: too few platforms joined or answered; the last checkpoint stays.
            SecretMismatchError: platforms hold different federation secrets.
        """
        self.train(grid)
        self.finish(grid)
        result = Result()
        result.arrays = array_record(self._shared_parameters())
        return result

    def train(self, grid: Grid) -> None:
        """All but the finish: the shared parameters, and no platform's own model. Raises as :meth:`start`."""
        self.summary()
        self._exchange = PlatformExchange(grid, self._observer, deadline=self._deadline, names=self._names)
        resumed = self._checkpoints.latest(self.plan)
        if resumed is None:
            # Before anybody is asked: platforms set a budget aside for this run, under its id.
            self._checkpoints.save(self.state, self.plan)
        self.state = resumed or self.state
        self.enrol()
        if not self.state.user_counts or self._newcomers():
            self.count()
            # Platforms that have answered a round unmask no earlier sum: counts are never asked for again.
            self._checkpoints.save(self.state, self.plan)
        if self.plan.linear is not None and self.state.linear is None:
            self.gather_linear()
            self._checkpoints.save(self.state, self.plan)
        while not factors_settled(self.plan, self.state):
            self.train_round(grid)
            self._checkpoints.save(self.state, self.plan)
        while not towers_settled(self.plan, self.state):
            self.train_towers()
            self._checkpoints.save(self.state, self.plan)

    def enrol(self) -> None:
        """Round 0: learn who is there and what each shares; unite the digests; tell everyone the vocabulary."""
        joined = self._join()
        check_same_secret({name: str(reply.config["secret_fingerprint"]) for name, reply in joined.items()})
        catalogues = {name: reply.arrays["digests"] for name, reply in joined.items()}
        self.state = with_vocabulary(self.state, self.state.vocabulary.extended(catalogues), self.plan)
        self._cards.collect(joined.values())
        vocabulary = self.state.vocabulary
        if self.plan.linear is not None:
            self.plan.linear.check_size(len(vocabulary), private=self.plan.private)
        names: list[Json] = list(vocabulary.owners)
        arrays: Arrays = {"digests": vocabulary.digests, "owners": vocabulary.ownership().astype(np.uint8)}
        requests = {
            node: self._request("vocabulary", 0, {"platforms": names}, self._cards_for(name))
            for node, name in self._exchange.nodes.items()
        }
        answers = self._exchange.ask_each(requests, arrays)
        self._require_quorum(len(list(answers)), "took the vocabulary")
        self._aggregation.describe(feature_matrix(joined.values(), vocabulary))
        identities = {name: reply.arrays["identity"].tobytes() for name, reply in joined.items()}
        self._collector.enrol(self._exchange, self.state, identities)

    def _cards_for(self, platform: str) -> Arrays:
        cards, card_offsets = pack_blobs(self._cards.in_order_of(self.state.vocabulary, platform))
        return {"cards": cards, "card_offsets": card_offsets}

    def count(self) -> None:
        """Sum the platforms' item counts: once a run, and again when a platform has joined it later."""
        request = self._request(self._collector.counts_kind, 0)
        answers = self._exchange.ask(request)
        parts = self._collector.contributions(self._exchange, self.state, request, answers)
        # Items are chosen by counts, so that what was gathered before other platforms joined is out of date.
        self.state = replace(self._aggregation.count(self.state, parts), linear=None)
        self._require_quorum(len(self._exchange.nodes) - len(self._exchange.failed), "sent their counts")

    def gather_linear(self) -> None:
        """The platforms' item-item statistics, and from them each one's weights for the items that it lacks."""
        started = time.monotonic()
        self._exchange.reset_counters()
        request = self._request(self._collector.linear_kind, 0, {}, {"item_counts": self.state.item_counts})
        answers = self._exchange.ask(request)
        parts = self._collector.contributions(self._exchange, self.state, request, answers)
        weights, platforms = aggregate_linear(self.plan, self.state, parts)
        self._require_quorum(len(platforms), "sent their item-item statistics")
        record = self._record(0, started, platforms, objective=None, phase="linear")
        self.state = replace(self.state, linear=weights, history=(*self.state.history, record))
        self._observer.on_round(record)

    def _newcomers(self) -> bool:
        # Under privacy the plan fixes who takes part, and a second count would be a second release.
        return not (self.plan.private or self.state.user_counts.keys() >= set(self._exchange.nodes.values()))

    def train_round(self, grid: Grid) -> None:
        """One server round: parameters out, statistics into the sum as they arrive, solve."""
        self._round_started = time.monotonic()
        self._exchange.reset_counters()
        server_round = self.state.server_round + 1
        questions = self.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid)
        self.aggregate_train(server_round, self._exchange.send(questions))

    def train_towers(self) -> None:
        """One round of the deep model: shared variables out, platforms' updates back, combined."""
        started = time.monotonic()
        self._exchange.reset_counters()
        tower_round, kind = self.state.tower_round + 1, self._collector.update_kind
        server_round = self.plan.server_rounds + tower_round
        request = self._request(kind, server_round, {"tower_round": tower_round}, self.state.towers)
        answers = self._exchange.ask(request)
        parts = self._collector.contributions(self._exchange, self.state, request, answers)
        step = aggregate_towers(self.plan, self.state, parts)
        self._require_quorum(len(step.platforms), f"contributed to round {tower_round} of the deep model")
        record = self._record(server_round, started, step.platforms, objective=step.loss, phase="towers")
        self.state = replace(step.state, tower_round=tower_round, history=(*self.state.history, record))
        self._observer.on_round(record)

    def finish(self, grid: Grid) -> None:
        """Send the final parameters; every platform builds, judges and stores its own model."""
        server_round = self.state.server_round
        questions = self.configure_evaluate(server_round, ArrayRecord(), ConfigRecord(), grid)
        self.aggregate_evaluate(server_round, self._exchange.send(questions))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of a round: the item parameters of :attr:`state`, to every platform of the run."""
        return self._exchange.messages(self._statistics_request(server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold each platform's statistics into the sum, solve for the new item parameters, record the round."""
        request = self._statistics_request(server_round)
        answers = self._exchange.read(request.kind, replies)
        parts = self._collector.contributions(self._exchange, self.state, request, answers)
        solved = self._aggregation.solve(self.state, parts)
        self._require_quorum(len(solved.platforms), f"contributed to round {server_round}")
        record = self._record(
            server_round, self._round_started, solved.platforms, objective=solved.objective, recall=solved.recall
        )
        self.state = replace(
            self.state,
            server_round=server_round,
            item_parameters=solved.item_parameters,
            history=(*self.state.history, record),
        )
        self._observer.on_round(record)
        return array_record(self._shared_parameters()), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The closing messages: the final item parameters and their popularity; to each platform its linear weights."""
        final, linear = {**self._shared_parameters(), **self.state.towers}, self.state.linear
        requests = {
            node: self._request("finish", server_round, {}, {} if linear is None else linear_answer(linear[name]))
            for node, name in self._exchange.nodes.items()
        }
        return self._exchange.messages_each(requests, final)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Count who has built its model. Their measurements stay at home."""
        done = len(list(self._exchange.read("finish", replies)))
        self._require_quorum(done, "finished")
        return MetricRecord({"platforms": done})

    def _join(self) -> dict[str, AgentReply]:
        """Ask every connected node who it is; the answers by platform name, in order of name."""
        wanted = self.plan.platforms or self.plan.min_platforms
        connected = self._exchange.wait_for_nodes(wanted, deadline=self._join_deadline, tell=self._on_waiting)
        question = self._request("join", 0, {"plan": self.plan.model_dump(mode="json")})
        replies = greet(self._exchange, question, connected, self.plan)
        self._require_quorum(len(replies), "joined")
        return replies

    def _record(
        self,
        server_round: int,
        started: float,
        platforms: tuple[str, ...],
        *,
        objective: float | None,
        recall: float | None = None,
        phase: str = "factors",
    ) -> RoundRecord:
        return RoundRecord(
            round=server_round,
            seconds=time.monotonic() - started,
            bytes_up=self._exchange.bytes_up,
            bytes_down=self._exchange.bytes_down,
            objective=objective,
            recall=recall,
            platforms=platforms,
            failed=self._exchange.failed,
            phase=phase,
        )

    def _request(
        self, kind: Kind, server_round: int, config: dict[str, Json] | None = None, arrays: Arrays | None = None
    ) -> AgentRequest:
        return AgentRequest(
            kind=kind,
            run_id=self.state.run_id,
            server_round=server_round,
            config={"value_mean": self.state.value_mean} | (config or {}),
            arrays=arrays or {},
        )

    def _statistics_request(self, server_round: int) -> AgentRequest:
        return self._request(self._collector.statistics_kind, server_round, {}, self._shared_parameters())

    def _shared_parameters(self) -> Arrays:
        return {"item_parameters": self.state.item_parameters, "item_counts": self.state.item_counts}

    def _require_quorum(self, present: int, did: str) -> None:
        if present < self.plan.min_platforms:
            raise FederationError(
                f"{present} platforms {did}; the quorum (min_platforms) is {self.plan.min_platforms}"
                f"{self._exchange.failures()}"
            )

"""A federation's run at the aggregator: ``start`` is the protocol, a call a step.

    enrol     round 0: platforms join, the aggregator unites their digests and tells everyone the vocabulary
    phases    every kind of contribution that the plan has, in order; each round of a phase
                  asks       one request to every platform
                  collects   their contributions one by one, or one sum that hides its parts
                  solves     the aggregator's next state
                  records    who contributed and what it came to; durable before the next round begins
    finish    final parameters out; each platform acknowledges them, and builds its own model

A platform that fails (an error, a deadline, an answer outside the contract) is named and left out of that round, or of the
run where a private contribution failed after its charge; a round
below the quorum ends the run with an error, its last checkpoint intact.

Flower carries the messages. Its strategies do not fit: they send all nodes one set of arrays and know two kinds of round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from logging import getLogger

from flwr.serverapp import Grid

from common.catalogue import check_same_secret
from common.config.federation import FederationPlan
from common.contributions.broadcast import card_arrays, vocabulary_arrays
from common.errors import FederationError
from common.wire.exchange import AgentReply, AgentRequest, Arrays, Json
from server.aggregation.phase import Phase, Question, Step, phases_of
from server.cards import CardRelay
from server.features import feature_matrix
from server.federation.checkpoint import CheckpointStore
from server.federation.collect import make_collector
from server.federation.exchange import Observer, PlatformExchange, SilentObserver
from server.federation.handshake import ask_to_join
from server.federation.state import RoundRecord, fresh_state, with_vocabulary

_log = getLogger(__name__)


class FederatedFactorization:
    """A run over platforms that send sums over users (under ``mode: none`` exact; a deep model's weights, too).

    Args:
        plan: the public parameters, which every platform compares with its own.
        checkpoints: where each round's state goes; a state found there is resumed.
        run_id: of a new run; a resumed one keeps its own.
        observer: told of every answer and every round.
        deadline: seconds that platforms have for one answer.
        join_deadline: seconds to wait for all platforms of the plan to connect; then those that are there begin.
        names: admitted name by Flower node id, as :class:`PlatformExchange` takes it.
        on_waiting: told who is connected while the run waits for platforms, as :meth:`PlatformExchange.wait_for_nodes` does.
        phases: the aggregator's halves of the plan's kinds, in order; unless given, those that the kinds name.
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
        phases: Sequence[Phase] | None = None,
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
        self._phases = phases_of(plan) if phases is None else tuple(phases)
        self._exchange: PlatformExchange

    def start(self, grid: Grid) -> None:
        """Run the federation to its end, from its last checkpoint if there is one.

        Raises:
            FederationError: too few platforms joined or answered; the last checkpoint stays.
            SecretMismatchError: platforms hold different federation secrets.
        """
        self.train(grid)
        self.finish()

    def train(self, grid: Grid) -> None:
        """All but the finish: the shared parameters, and no platform's own model. Raises as :meth:`start`."""
        plan = self.plan
        _log.info("federation %s: at most %d rounds of %s", plan.federation, plan.server_rounds, plan.training)
        self._exchange = PlatformExchange(grid, self._observer, deadline=self._deadline, names=self._names)
        resumed = self._checkpoints.latest(self.plan)
        if resumed is None:
            # Before anybody is asked: platforms set a budget aside for this run, under its id.
            self._checkpoints.save(self.state, self.plan)
        self.state = resumed or self.state
        self.enrol()
        for phase in self._phases:
            while phase.due(self.state, self._exchange.nodes.values()):
                before = self.state
                self.train_round(phase)
                # Platforms that have answered a round unmask no earlier sum: it is never asked for again.
                if phase.worth_keeping(before, self.state):
                    self._checkpoints.save(self.state, self.plan)
                if len(phase.kind.rounds(self.plan)) == 1 and not phase.repeats:
                    break

    def enrol(self) -> None:
        """Round 0: learn who is there and what each shares; unite the digests; tell everyone the vocabulary."""
        joined = self._join()
        check_same_secret({name: str(reply.config["secret_fingerprint"]) for name, reply in joined.items()})
        catalogues = {name: reply.arrays["digests"] for name, reply in joined.items()}
        self.state = with_vocabulary(self.state, self.state.vocabulary.extended(catalogues), self.plan)
        self._cards.collect(joined.values())
        vocabulary = self.state.vocabulary
        for phase in self._phases:
            phase.check_vocabulary(len(vocabulary))
        told: dict[str, Json] = {"platforms": list(vocabulary.owners)}
        requests = {
            node: self._request("vocabulary", 0, told, card_arrays(self._cards.in_order_of(vocabulary, name)))
            for node, name in self._exchange.nodes.items()
        }
        answers = self._exchange.ask_each(requests, vocabulary_arrays(vocabulary))
        self._require_quorum(len(list(answers)), "took the vocabulary")
        features = feature_matrix(joined.values(), vocabulary)
        for phase in self._phases:
            phase.describe(features)
        identities = {name: reply.arrays["identity"].tobytes() for name, reply in joined.items()}
        self._collector.enrol(self._exchange, self.state, identities)

    def train_round(self, phase: Phase) -> None:
        """One round of a phase: ask, collect, solve, record."""
        started = time.monotonic()
        self._exchange.reset_counters()
        question = phase.question(self.state)
        request = self._request(
            phase.kind.wire_name(self.plan), question.server_round, question.config, question.arrays
        )
        answers = self._exchange.ask(request)
        contributions = self._collector.contributions(self._exchange, self.state, request, answers)
        step = phase.solve(self.state, contributions)
        self._require_quorum(len(step.platforms), phase.did(question))
        self.state = step.state
        if phase.record is not None:
            self._record(phase.record, question, step, time.monotonic() - started)

    def finish(self) -> None:
        """Send the final parameters; platforms say that they have them, and keep what they make of them."""
        final = {name: array for phase in self._phases for name, array in phase.final(self.state).items()}
        told: dict[str, Json] = {"user_counts": list(self.state.users_by_platform()), **self.state.stated_model()}
        requests = {
            node: self._request("finish", self.state.server_round, told, self._final_for(name))
            for node, name in self._exchange.nodes.items()
        }
        self._require_quorum(len(list(self._exchange.ask_each(requests, final))), "finished")

    def _final_for(self, platform: str) -> Arrays:
        parts = [phase.final_for(self.state, platform) for phase in self._phases]
        return {name: array for part in parts for name, array in part.items()}

    def _join(self) -> dict[str, AgentReply]:
        """Ask every connected node who it is; the answers by platform name, in order of name."""
        wanted = self.plan.platforms or self.plan.min_platforms
        connected = self._exchange.wait_for_nodes(wanted, deadline=self._join_deadline, tell=self._on_waiting)
        question = self._request("join", 0, {"plan": self.plan.model_dump(mode="json")})
        replies = ask_to_join(self._exchange, question, connected, self.plan)
        self._require_quorum(len(replies), "joined")
        return replies

    def _record(self, name: str, question: Question, step: Step, seconds: float) -> None:
        """Add the round to the run's history, and show it to the observer."""
        record = RoundRecord(
            round=question.server_round if question.number is None else question.number,
            seconds=seconds,
            bytes_up=self._exchange.bytes_up,
            bytes_down=self._exchange.bytes_down,
            objective=step.objective,
            recall=step.recall,
            platforms=step.platforms,
            failed=self._exchange.failed,
            phase=name,
        )
        self.state = replace(self.state, history=(*self.state.history, record))
        self._observer.on_round(record)

    def _request(
        self, kind: str, server_round: int, config: Mapping[str, Json] | None = None, arrays: Arrays | None = None
    ) -> AgentRequest:
        return AgentRequest(
            kind=kind,
            run_id=self.state.run_id,
            server_round=server_round,
            config={"value_mean": self.state.value_mean, **(config or {})},
            arrays=arrays or {},
        )

    def _require_quorum(self, present: int, did: str) -> None:
        if present < self.plan.min_platforms:
            raise FederationError(
                f"{present} platforms {did}; the quorum (min_platforms) is {self.plan.min_platforms}"
                f"{self._exchange.failures()}"
            )

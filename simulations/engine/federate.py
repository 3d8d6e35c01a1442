"""One federation on one machine: agents with their folders, a backend, the strategy, and what came out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.agent import PlatformAgent
from client.app import make_courier
from client.personalization.described import TextVectors
from client.personalization.store import PlatformStore
from client.privacy.declared_users import check_declared_users
from client.privacy.outbox import Outbox
from client.privacy.secure_sum.member import SecureMember
from client.text.cache import VectorCache, user_cache
from client.text.registry import load_encoder
from client.text.vectors import text_vectors
from common.catalogue import FederationSecret
from common.config.federation import FederationPlan
from common.errors import PrivacyError, TrainingError
from common.privacy.lifetime import budget_policy
from common.privacy.secure_sum import PlatformIdentity
from common.wire.exchange import AgentConnection, Json
from server.aggregation.phase import Phase
from server.federation.checkpoint import CheckpointStore
from server.federation.exchange import Observer
from server.federation.state import FederationState
from server.strategy import FederatedFactorization
from simulations.engine.datasets import SimulatedPlatform
from simulations.engine.grid import InlineGrid
from simulations.scenarios.scenario import Scenario

Backend = Literal["inline", "ray"]
CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in the aggregator's."""

BACKENDS: tuple[Backend, ...] = ("inline", "ray")


@dataclass(frozen=True, eq=False, kw_only=True)
class FederationOutcome:
    """Holds what is left after a federation.

    Attributes:
        state: the aggregator's.
        agents: in order of name.
        seconds: wall-clock, whole run.
        platform_seconds: of it, inside the platforms.
    """

    state: FederationState
    agents: list[PlatformAgent]
    seconds: float
    platform_seconds: float


def simulation_secret(seed: int) -> FederationSecret:
    """A secret that repeats with the seed: a simulation has nobody to keep it from."""
    return FederationSecret(hashlib.sha256(f"crossfed simulation {seed}".encode()).digest())


def make_agents(
    platforms: Sequence[SimulatedPlatform], scenario: Scenario, folder: Path, weights: Mapping[str, Mapping[str, float]]
) -> list[PlatformAgent]:
    """One agent a platform, each with a private folder under ``folder``.

    Args:
        platforms: their data.
        scenario: plan, personalisation and seed.
        folder: of all platforms.
        weights: by platform name, settings of personalisation that were tuned for it.

    Raises:
        PrivacyError: names the platform that cannot take part.
    """
    secret = simulation_secret(scenario.seed)
    secure = scenario.plan.secure_sum
    identities = {platform.name: _identity(folder / platform.name) for platform in platforms} if secure else {}
    fingerprints = {name: identity.fingerprint for name, identity in identities.items()}
    agents, texts = [], scenario_texts(scenario)
    for platform in platforms:
        home = folder / platform.name
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        own: dict[str, float] = {"seed": scenario.seed, **weights.get(platform.name, {})}
        try:
            if platform.training.shared.any():
                # A researcher has nobody to hide a number of users from.
                check_declared_users(platform.training.train.n_users, scenario.plan)
            agent = PlatformAgent(
                platform.name,
                scenario.plan,
                secret,
                platform.training,
                outbox=Outbox(home, budget_policy(scenario.plan), scenario.plan, home / "store"),
                store=PlatformStore(home / "store"),
                secure_member=SecureMember(platform.name, identities[platform.name], fingerprints, scenario.plan, home)
                if secure
                else None,
                personalization=scenario.personalization.model_copy(update=own),
                texts=texts,
            )
        except PrivacyError as error:
            # A platform's own log need not say which platform it is.
            raise PrivacyError(f"platform {platform.name}: {error}") from error
        agents.append(agent)
    return agents


def build_models(
    connections: Sequence[AgentConnection], *, ahead: int = 0, on_stage: Callable[[str], None] = lambda text: None
) -> float:
    """Build every platform's own model, which in a deployment happens behind its answer; returns seconds.

    Args:
        connections: those of them that are agents, and whose run has finished.
        ahead: how many build beside the one whose turn it is.
        on_stage: told how many are done.

    Raises:
        CrossfedError: a platform's model could not be built; the message says whose.
    """
    started = time.perf_counter()
    agents = [agent for agent in connections if isinstance(agent, PlatformAgent)]
    built = []
    with ThreadPoolExecutor(ahead + 1) as pool:
        for outcome in pool.map(lambda agent: agent.wait_built(), agents):
            built.append(outcome)
            on_stage(f"own models and what ranks others' items: {len(built)} of {len(agents)} platforms")
    for agent, outcome in zip(agents, built, strict=True):
        if outcome.state == "failed":
            raise TrainingError(
                f"platform {agent.name}: its own model could not be built: {outcome.error}"
            ) from agent.build_error
    return time.perf_counter() - started


def scenario_texts(scenario: Scenario) -> TextVectors | None:
    """Return the maker of vectors from titles at every platform; vectors are kept from run to run in the user's cache."""
    plan = scenario.plan.text
    return None if plan is None else text_vectors(load_encoder(plan, scenario.text), VectorCache(user_cache()))


def _identity(home: Path) -> PlatformIdentity:
    """The platform's key pair: made at the first start, the same for a run that is resumed."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / "identity.pem"
    return PlatformIdentity.load(path) if path.exists() else PlatformIdentity.create(path)


def inline_grid(agents: Sequence[AgentConnection], *, ahead: int = 0) -> InlineGrid:
    """A grid whose nodes 1 … P are the agents, each behind the courier that is deployed; ``ahead`` as of the grid."""
    by_node = dict(enumerate(agents, start=1))
    courier = make_courier(lambda context: nullcontext(by_node[context.node_id]))
    return InlineGrid(courier, {node: {} for node in by_node}, ahead=ahead)


def platforms_ahead(scenario: Scenario) -> int:
    """How many platforms work beside the one whose answer is awaited.

    A few: while one computes, the others wait for their disks, as ledger and journal are on disk before anything leaves.
    None where platforms train Keras models: its random state belongs to the process, and two trainings at a time would not
    repeat.
    """
    return 0 if scenario.plan.towers is not None or scenario.personalization.ranker.enabled else 3


def run_federation(
    agents: Sequence[PlatformAgent],
    plan: FederationPlan,
    folder: Path,
    *,
    backend: Backend = "inline",
    observer: Observer | None = None,
    run_id: str = "simulation",
    keep_checkpoints: int = 3,
    ahead: int = 0,
    origin: Mapping[str, Json] | None = None,
    phases: Sequence[Phase] | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> FederationOutcome:
    """Run the strategy over the agents to the end; resumes where ``folder`` holds a checkpoint of the same plan.

    Args:
        agents: one a platform.
        plan: as the agents have it.
        folder: the aggregator's; checkpoints go there.
        backend: ``inline``, or ``ray`` for Flower's own simulation engine.
        observer: told of progress.
        run_id: of a new run.
        keep_checkpoints: how many rounds stay on disk.
        ahead: how many platforms of the inline backend work beside the one whose answer is awaited
            (:func:`platforms_ahead`).
        origin: what the run is started with, for its checkpoints.
        phases: as the strategy takes them.
        on_stage: told of what happens after the last round.

    Raises:
        FederationError: too few platforms answered.
        TrainingError: a platform's own model could not be built.
    """
    checkpoints = CheckpointStore(folder / CHECKPOINTS, keep=keep_checkpoints, origin=origin)
    strategy = FederatedFactorization(plan, checkpoints, run_id=run_id, observer=observer, phases=phases)
    started = time.perf_counter()
    if backend == "ray":
        from simulations.engine.ray_backend import run_on_ray

        platform_seconds = run_on_ray(strategy, agents)
    else:
        with inline_grid(agents, ahead=ahead) as grid:
            strategy.start(grid)
        platform_seconds = grid.platform_seconds
    on_stage("platforms build their own models and choose what ranks others' items")
    platform_seconds += build_models(agents, ahead=ahead, on_stage=on_stage)
    return FederationOutcome(
        state=strategy.state,
        agents=list(agents),
        seconds=time.perf_counter() - started,
        platform_seconds=platform_seconds,
    )

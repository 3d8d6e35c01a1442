"""Measures what privacy costs: the same platforms' shared models without noise and at several ε, measured alike."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from client.contributions.membership import described_vocabulary
from client.personalization.cross_choice import CrossChoice
from client.personalization.other_catalogues import OtherCatalogues
from client.personalization.own_models import platform_rng
from client.personalization.personalize import placed_by_content
from client.scoring.blend import Blend
from client.scoring.factors import FactorModel, shared_on_own
from client.scoring.fold_in import Recency
from client.scoring.scorer import PopularityScorer, Scorer
from common.catalogue import FederationSecret
from common.config.federation import FederationPlan
from common.config.privacy import PrivacyConfig
from common.errors import SecureSumError
from common.privacy.secure_sum.roster import check_terms
from server.aggregation.leave_out import parameters_without
from server.federation.checkpoint import CheckpointStore
from server.federation.state import FederationState
from server.strategy import FederatedFactorization
from simulations.engine.datasets import SimulatedPlatform
from simulations.engine.federate import inline_grid, make_agents, scenario_texts
from simulations.evaluation.ease import scorer_of
from simulations.evaluation.measure import Block, CrossPlatformTask, Evaluator, positions_of, shared_model
from simulations.evaluation.other_catalogues import other_catalogues_of
from simulations.scenarios.noise import plan_with_noise
from simulations.scenarios.scenario import Scenario

NONE: Mapping[str, Recency] = {}


@dataclass(frozen=True, eq=False, kw_only=True)
class PrivacyCost:
    """One ε.

    Attributes:
        epsilon: of the run, None for none.
        noise: ``secure_sum`` or ``per_platform``, as of the plan; None without noise.
        own: block M by platform, of the shared model on own test interactions.
        cross: by platform with hidden items: blocks ``popularity`` (released at the same ε), ``shared`` and ``final``.
    """

    epsilon: float | None
    noise: str | None
    own: dict[str, Block]
    cross: dict[str, dict[str, Block]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def private_plan(plan: FederationPlan, epsilon: float) -> FederationPlan:
    """The plan at ``epsilon``, with the defaults tuned for it, everything else of its privacy section kept.

    But for the lifetime budget: what is trained for its price is thrown away. And where the platforms are too few for a
    secure sum, each adds all of the noise.
    """
    changes: dict[str, Any] = {"mode": "user", "epsilon": epsilon, "budget": None}
    if plan.platforms is not None and not _sums_securely(plan.privacy, plan.platforms):
        changes["noise"] = "per_platform"
    privacy = PrivacyConfig.model_validate(plan.privacy.model_dump() | changes)
    towers = plan.towers
    if towers is not None and towers.place == "federation":
        # Noise that is stated is for another ε.
        unstated = towers.privacy.model_copy(update={"noise_multiplier": None})
        towers = towers.model_copy(update={"privacy": unstated})
    return plan_with_noise(plan.model_copy(update={"privacy": privacy, "towers": towers}))


def _sums_securely(privacy: PrivacyConfig, platforms: int) -> bool:
    try:
        check_terms(platforms, colluders=privacy.colluders, dropouts=privacy.dropouts)
    except SecureSumError:
        return False
    return True


def privacy_cost_at(
    scenario: Scenario,
    platforms: Sequence[SimulatedPlatform],
    secret: FederationSecret,
    epsilon: float,
    recencies: Mapping[str, Recency] = NONE,
) -> PrivacyCost:
    """Run the whole private federation once and measure its shared model."""
    plan = private_plan(scenario.plan, epsilon)
    state = train_shared(scenario.model_copy(update={"plan": plan}), platforms)
    return measure_point(scenario, platforms, secret, state, plan, recencies)


def measure_point(
    scenario: Scenario,
    platforms: Sequence[SimulatedPlatform],
    secret: FederationSecret,
    state: FederationState,
    plan: FederationPlan,
    recencies: Mapping[str, Recency] = NONE,
) -> PrivacyCost:
    """Measure a trained shared model on own and hidden items.

    Args:
        scenario: that was run.
        platforms: all.
        secret: theirs.
        state: after the last round.
        plan: that was trained by.
        recencies: by platform, how users are folded in where own items are ranked; the same with noise and without.
    """
    plan = state.plan_of(plan)
    evaluator, model = Evaluator(scenario), shared_model(state, plan)
    texts = scenario_texts(scenario)
    own: dict[str, Block] = {}
    cross: dict[str, dict[str, Block]] = {}
    for platform in platforms:
        folded = replace(model, recency=recencies.get(platform.name))
        scorer = shared_on_own(folded, positions_of(platform.training, state.vocabulary, secret))
        own[platform.name] = evaluator.block(evaluator.per_user(scorer, platform.test))
        if platform.hidden is not None:
            task = CrossPlatformTask.of(platform, platform.hidden, state, secret)
            view = other_catalogues_of(platform, platforms, state, secret, plan=plan, texts=texts)
            held = held_model(scenario, platform, view, model)
            blend = cross_choice(scenario, state, platform, view, held)
            final = task.blended(held, blend, view.demand(platform.training))
            cross[platform.name] = _cross(evaluator, task, model, final)
    privacy = plan.privacy if plan.private else None
    return PrivacyCost(
        epsilon=None if privacy is None else privacy.epsilon,
        noise=None if privacy is None else privacy.noise,
        own=own,
        cross=cross,
    )


def held_model(
    scenario: Scenario, platform: SimulatedPlatform, view: OtherCatalogues, model: FactorModel
) -> FactorModel:
    """The shared factors as the platform holds them: items without any are placed by their descriptions, as its agent does."""
    if not scenario.personalization.content:
        return model
    described = described_vocabulary(view.cards, platform.training, view.own_positions)
    return placed_by_content(model, described, view.texts)


def cross_choice(
    scenario: Scenario, state: FederationState, platform: SimulatedPlatform, view: OtherCatalogues, model: FactorModel
) -> Blend:
    """Return what the platform would rank the others' items by, of ``view`` and its :func:`held_model`; it has no deep one."""
    # As the platform's agent is configured.
    config = scenario.personalization.model_copy(update={"seed": scenario.seed})
    item_item = None if state.linear is None else scorer_of(state.linear[platform.name], len(state.vocabulary))
    told = parameters_without(state, platform.name)
    choice = CrossChoice(
        config=config,
        catalogues=view,
        shared=model,
        linear=item_item,
        without_own=None if told is None else model.with_rows(state.vocabulary.owners[platform.name], told),
    )
    blend, _ = choice.of(platform.training, platform_rng(config, platform.name, "cross"))
    return blend


def _cross(evaluator: Evaluator, task: CrossPlatformTask, model: FactorModel, final: Scorer) -> dict[str, Block]:
    held_out = task.slice_of(task.truth)
    scorers: dict[str, Scorer] = {
        "popularity": PopularityScorer(task.foreign_popularity),
        "shared": task.shared(model),
        "final": final,
    }
    return {name: evaluator.block(evaluator.per_user(one, held_out, task.candidates)) for name, one in scorers.items()}


def train_shared(scenario: Scenario, platforms: Sequence[SimulatedPlatform]) -> FederationState:
    """The shared side after the last round of the scenario's federation; platforms do not build their own models.

    Ledgers and checkpoints live in a temporary folder: this spends nobody's budget.
    """
    with tempfile.TemporaryDirectory(prefix="crossfed-") as folder:
        agents = make_agents(platforms, scenario, Path(folder) / "platforms", {})
        strategy = FederatedFactorization(scenario.plan, CheckpointStore(Path(folder) / "aggregator"), run_id="shared")
        strategy.train(inline_grid(agents))
    return strategy.state

"""A whole simulation: platforms from data, one federation, every measurement, and ``result.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from client.privacy.card import card_content, card_text
from client.scoring.fold_in import Recency
from common.catalogue import FederationSecret
from common.errors import ConfigError
from common.files import write_atomically
from server.federation.exchange import Observer, SilentObserver
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.engine.federate import (
    CHECKPOINTS,
    Backend,
    FederationOutcome,
    make_agents,
    platforms_ahead,
    run_federation,
    simulation_secret,
)
from simulations.evaluation.choice import choice_of
from simulations.evaluation.cross_weights import tune_weights
from simulations.evaluation.measure import Block, Evaluator
from simulations.evaluation.paired import Measured
from simulations.evaluation.passports import measure_passports
from simulations.evaluation.platforms import measure_platforms
from simulations.evaluation.privacy_cost import privacy_cost_at
from simulations.origin import check_resumable, origin_of
from simulations.output import Wait, own_folder, remove_run
from simulations.scenarios.scenario import Scenario
from simulations.stages import check_platforms, check_stages

AUDIT_FILE = "audit.json"
_CANARY_FIGURES = ("epsilon_claimed", "delta", "epsilon_hat", "epsilon_lower", "runs")


class RunObserver(Observer, Protocol):
    """Watches a whole simulation."""

    def on_stage(self, text: str) -> None:
        """A new stage begins."""


class SilentRunObserver(SilentObserver):
    """Watches nothing."""

    def on_stage(self, text: str) -> None:
        """Ignore it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SimulationResult:
    """Holds what ``result.json`` says, and the agents behind it."""

    content: dict[str, Any]
    outcome: FederationOutcome
    platforms: list[SimulatedPlatform]


def simulate(
    scenario: Scenario,
    folder: Path,
    *,
    backend: Backend = "inline",
    observer: RunObserver | None = None,
    resume: bool = False,
    audit: Path | None = None,
    wait: Wait | None = None,
) -> SimulationResult:
    """Run ``scenario`` and write ``result.json`` into ``folder``.

    Args:
        scenario: what to run.
        folder: made when it is not there; what an earlier run left in it is replaced, once this one has read its data.
        backend: ``inline`` or ``ray``.
        observer: told of progress.
        resume: go on from the last complete round of a run that was killed, with the identical result.
        audit: what ``crossfed-simulate audit`` wrote, for the privacy card; unless given, ``audit.json`` in ``folder`` if
            it is there.
        wait: told of another run in ``folder``, which is then waited for; None refuses at once.

    Raises:
        InUseError: another run works in ``folder``.
        CrossfedError: of the data, the configuration or the federation; the message says what to mend.
    """
    audited = load_audit(audit or folder / AUDIT_FILE) if audit or (folder / AUDIT_FILE).exists() else None
    check_stages(scenario)
    with own_folder(folder, wait=wait):
        return _simulate(scenario, folder, backend, observer or SilentRunObserver(), resume, audited)


def _simulate(
    scenario: Scenario,
    folder: Path,
    backend: Backend,
    observer: RunObserver,
    resume: bool,
    audited: Mapping[str, Any] | None,
) -> SimulationResult:
    started = time.perf_counter()
    observer.on_stage("reading and splitting the data")
    platforms = make_platforms(scenario)
    scenario = scenario.with_platforms(len(platforms))
    check_platforms(scenario, platforms)
    origin = origin_of(scenario, platforms)
    goes_on = resume and check_resumable(folder / "aggregator" / CHECKPOINTS, scenario.plan, origin)
    secret = simulation_secret(scenario.seed)
    weights = _weights(scenario, platforms, secret, observer)
    if not goes_on:
        remove_run(folder)
    observer.on_stage("federation")
    agents = make_agents(platforms, scenario, folder / "platforms", weights)
    outcome = run_federation(
        agents,
        scenario.plan,
        folder / "aggregator",
        backend=backend,
        observer=observer,
        ahead=platforms_ahead(scenario),
        origin=origin,
        on_stage=observer.on_stage,
    )
    observer.on_stage("measuring on test interactions")
    kept = Measured()
    measured, pooled = measure_platforms(_as_trained(scenario, outcome), platforms, outcome, secret, kept)
    kept.write(folder)
    passports = _passports(scenario, platforms, outcome, observer)
    card = card_content(scenario.plan, {agent.name: agent.spend() for agent in agents}, audited)
    write_atomically(folder / "privacy.md", card_text(scenario.plan, card).encode(), mode=0o644)
    content = _content(
        scenario, outcome, backend=backend, privacy=card, platforms=measured, pooled=pooled, passports=passports
    )
    content["seconds"]["total"] = time.perf_counter() - started
    _write(folder, content)
    # What is finished is on disk before it is trained again for the privacy cost.
    for cost in _privacy_costs(scenario, platforms, secret, measured, observer):
        content["price"].append(cost)
        content["seconds"]["total"] = time.perf_counter() - started
        _write(folder, content)
    return SimulationResult(content=content, outcome=outcome, platforms=platforms)


def _as_trained(scenario: Scenario, outcome: FederationOutcome) -> Scenario:
    """The scenario with the settings that the run has come to; with ``model: auto`` those of the race."""
    return scenario.model_copy(update={"plan": outcome.state.plan_of(scenario.plan)})


def _passports(
    scenario: Scenario, platforms: list[SimulatedPlatform], outcome: FederationOutcome, observer: RunObserver
) -> list[Block]:
    """Measure what passports bring, a block a pair of platforms; nothing where the scenario has none."""
    if scenario.passport is None:
        return []
    observer.on_stage("measuring what passports bring")
    models = {agent.name: agent.store.load() for agent in outcome.agents}
    return measure_passports(Evaluator(scenario), platforms, models)


def _content(
    scenario: Scenario,
    outcome: FederationOutcome,
    *,
    backend: Backend,
    privacy: Mapping[str, Any],
    platforms: Mapping[str, Block],
    pooled: Mapping[str, Block],
    passports: list[Block],
) -> dict[str, Any]:
    """All that ``result.json`` says, but for the privacy cost and the total of seconds, which are not over yet."""
    vocabulary = outcome.state.vocabulary
    return {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "backend": backend,
        "model": _as_trained(scenario, outcome).plan.training.model_dump(mode="json"),
        "choice": choice_of(scenario.plan, outcome.state),
        "split": scenario.split.model_dump(mode="json"),
        "protocol": scenario.protocol,
        "privacy": privacy,
        "vocabulary": {"items": len(vocabulary), "shared": vocabulary.shared_items()},
        "platforms": platforms,
        "pooled": pooled,
        "configuration": configuration_of(scenario),
        "price": [],
        "passports": passports,
        "rounds": [record.as_dict() for record in outcome.state.history],
        "seconds": {
            "total": 0.0,
            "platforms": outcome.platform_seconds,
            "aggregator": outcome.seconds - outcome.platform_seconds,
        },
    }


def _privacy_costs(
    scenario: Scenario,
    platforms: list[SimulatedPlatform],
    secret: FederationSecret,
    measured: Mapping[str, Mapping[str, Any]],
    observer: RunObserver,
) -> Iterator[dict[str, Any]]:
    """Train again at each ε of ``price_at``, where the run itself has no noise; users are folded in as ``measured`` were."""
    chosen = {name: block["recency"].get("shared") for name, block in measured.items()}
    recencies = {name: Recency(**one) for name, one in chosen.items() if one is not None}
    for epsilon in scenario.price_at if not scenario.plan.private else ():
        observer.on_stage(f"privacy cost: training again at ε = {epsilon:g}")
        yield privacy_cost_at(scenario, platforms, secret, epsilon, recencies).as_dict()


def _weights(
    scenario: Scenario, platforms: list[SimulatedPlatform], secret: FederationSecret, observer: RunObserver
) -> Mapping[str, Mapping[str, float]]:
    """Weights of cross-platform scores by platform, where the scenario has them chosen and there is something to choose by."""
    hidden = any(platform.hidden is not None for platform in platforms)
    if not scenario.cross.tune_beta or scenario.plan.private or not hidden:
        return {}
    observer.on_stage("choosing α and β on items hidden for the purpose")
    return tune_weights(platforms, scenario, secret)


def configuration_of(scenario: Scenario) -> dict[str, Any]:
    """All that decided the run, by key; of files the names alone, as folders tell of a machine."""
    content: dict[str, Any] = _file_names(scenario.model_dump(mode="json"))
    return content


def _file_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _file_names(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_file_names(part) for part in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_atomically(folder / "result.json", json.dumps(content, indent=1, allow_nan=False).encode(), mode=0o644)


def load_audit(path: Path) -> dict[str, Any]:
    """Return what the privacy card says of an audit: the canary test, and the flags of all tests.

    Raises:
        ConfigError: the file is no audit's, or that of an audit with a fault put in on purpose.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        found = {name: report["canary"][name] for name in _CANARY_FIGURES}
        found |= {
            "kinds": list(report["kinds"]),
            "flags": list(report["flags"]),
        }
        fault = report["fault"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: is not what crossfed-simulate audit writes; run it again with --output {path.parent}"
        ) from error
    if fault is not None:
        raise ConfigError(f"{path}: that audit had the fault {fault!r} put in; give one of the code as it ships")
    return found


def load_result(folder: Path) -> Mapping[str, Any]:
    """Read ``result.json`` back."""
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content

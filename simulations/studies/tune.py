"""``crossfed-simulate tune``: settings of the plan, chosen by what the shared model reaches on validation users.

A trial is a whole federation with the setting (:func:`simulations.evaluation.privacy_cost.train_shared`). What it is judged by
is the mean over platforms of the metric that their own verdicts use, on the validation slices that their agents have. Test
interactions and hidden items are not looked at. The search is Optuna's tree-structured Parzen estimator (Bergstra et al.
2011) with a seed of its own for each trial, so that a search that was killed and resumed ends like one that was not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from client.personalization.model_selection import RATING_METRIC, rating_accuracy
from client.scoring.evaluation import evaluate
from client.scoring.factors import shared_on_own
from common.config.loader import parse_model
from common.deploy.console import PlainTable
from common.errors import ConfigError, CrossfedError, PrivacyError
from common.files import make_folder, write_atomically
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.engine.federate import simulation_secret
from simulations.evaluation.measure import positions_of, shared_model
from simulations.evaluation.privacy_cost import train_shared
from simulations.scenarios.scenario import Scenario, SearchParameter

if TYPE_CHECKING:
    import optuna

_FINGERPRINT, _AS_IT_STANDS, _RESULT = "fingerprint", "as_it_stands", "result"

DEFAULT_SPACE: dict[str, SearchParameter] = {
    "plan.model.dimension": SearchParameter(low=8, high=64, log=True),
    "plan.model.regularization": SearchParameter(low=0.5, high=100.0, log=True),
    "plan.model.unobserved_weight": SearchParameter(low=0.05, high=2.0, log=True),
    "plan.rounds": SearchParameter(low=4, high=20),
}
"""For implicit feedback without privacy, around what tuned ALS needs on public data sets (Rendle et al. 2021, table 4)."""

_EXPLICIT_SPACE = {name: part for name, part in DEFAULT_SPACE.items() if name != "plan.model.unobserved_weight"}
_PRIVATE_SPACE: dict[str, SearchParameter] = {
    "plan.privacy.tuned_training": SearchParameter(choices=(False,)),
    "plan.model.dimension": SearchParameter(low=8, high=64, log=True),
    "plan.model.regularization": SearchParameter(low=0.01, high=10.0, log=True),
    "plan.model.unobserved_weight": SearchParameter(low=0.2, high=2.0, log=True),
    "plan.rounds": SearchParameter(low=1, high=5),
}

TRIED = "tried.json"
_NOT_JUDGED = ("plan.towers.", "plan.linear.")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One setting and what came of it.

    Attributes:
        number: of the trial from 0; −1 for the scenario as it stands.
        settings: value by dotted key.
        value: mean of the metric over platforms, higher is better; None where the trial failed.
        platforms: the metric by platform.
        seconds: wall-clock.
        error: why it failed, or None.
    """

    number: int
    settings: dict[str, Any]
    value: float | None
    platforms: dict[str, float]
    seconds: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A whole search.

    Attributes:
        table: what was tried, best first.
        baseline: the scenario as it stands.
        best: of the settings that were tried; None where all failed.
    """

    table: PlainTable
    baseline: Tried
    best: Tried | None


Cut = Callable[[Scenario], list[SimulatedPlatform]]
Measure = Callable[[Scenario, Sequence[SimulatedPlatform]], dict[str, float]]


def search_space(scenario: Scenario) -> Mapping[str, SearchParameter]:
    """The scenario's ``search`` section, or what ships for its kind of feedback and privacy."""
    if scenario.search:
        return scenario.search
    if scenario.plan.private:
        return _PRIVATE_SPACE
    return DEFAULT_SPACE if scenario.plan.model.feedback == "implicit" else _EXPLICIT_SPACE


def cost_of(scenario: Scenario, trials: int) -> str | None:
    """Return what ``trials`` cost on data that has to be protected, in words; None without privacy."""
    if not scenario.plan.private:
        return None
    epsilon, runs = scenario.plan.privacy.epsilon, trials + 1
    return (
        f"Each trial is a whole run at ε = {epsilon:g}. On real private data {trials} trials and the plan as it stands would "
        f"spend {runs} × {epsilon:g} = {runs * epsilon:g} of every user's ε (basic composition), and the validation figures "
        "that choose between them are read without noise, which no ε covers"
    )


def tune(
    scenario: Scenario,
    *,
    trials: int,
    folder: Path,
    accept_cost: bool = False,
    on_stage: Callable[[str], None] = lambda text: None,
    on_trial: Callable[[Tried], None] = lambda tried: None,
    cut: Cut = make_platforms,
    measure: Measure | None = None,
) -> Tuning:
    """Try settings until ``trials`` have been tried, those of earlier calls with this folder included.

    Args:
        scenario: platforms, split, plan and search space.
        trials: how many settings altogether, beside the scenario as it stands.
        folder: made when it is not there. ``tune.db`` (Optuna's SQLite storage) and ``tried.json`` go there.
        accept_cost: needed under privacy.
        on_stage: told what is being done.
        on_trial: told of every setting that has been tried.
        cut: cuts the data into platforms.
        measure: trains a scenario and says how good it is by platform; :func:`validation_metric` unless given.

    Raises:
        PrivacyError: the plan is private and the cost is not accepted; the message states it.
        ConfigError: a key of the space does not exist or a value does not fit; nobody has validation users; or the folder
            holds the tuning of something else.
        CrossfedError: the scenario as it stands cannot be trained.
    """
    cost = cost_of(scenario, trials)
    if cost and not accept_cost:
        raise PrivacyError(
            f"{cost}. Tune on public data, or without noise (--set plan.privacy.mode=none); or, where the data is public or "
            "the budget is meant for this, say --accept-cost"
        )
    space = search_space(scenario)
    _check_space(scenario, space)
    make_folder(folder)
    study = _study(folder / "tune.db", scenario, space)
    on_stage("reading and splitting the data")
    platforms, measure = cut(scenario), measure or validation_metric
    if _AS_IT_STANDS not in study.user_attrs:
        on_stage("the scenario as it stands")
        study.set_user_attr(_AS_IT_STANDS, asdict(_try(scenario, platforms, -1, {}, measure)))
    baseline = Tried(**study.user_attrs[_AS_IT_STANDS])
    on_trial(baseline)
    for number in range(_forget_unfinished(study), trials):
        on_stage(f"trial {number + 1} of {trials}")
        on_trial(_next(study, scenario, platforms, space, number, measure))
    tried = [Tried(**trial.user_attrs[_RESULT]) for trial in study.trials if _RESULT in trial.user_attrs]
    _write(folder / TRIED, scenario, space, cost, baseline, tried)
    return Tuning(table=_table(metric_of(scenario), baseline, tried, space), baseline=baseline, best=best_of(tried))


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """The one with the highest value, the first of equals; None where all failed."""
    good = [one for one in tried if one.value is not None]
    return max(good, key=lambda one: (one.value, -one.number), default=None)


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """``key=value`` each, as ``--set`` takes them."""
    # JSON is YAML: false stays false, and text that looks like a number stays text.
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]


def metric_of(scenario: Scenario) -> str:
    """Return what is maximised: as in the platforms' own verdicts."""
    return scenario.personalization.metric if scenario.plan.model.feedback == "implicit" else RATING_METRIC


def validation_metric(scenario: Scenario, platforms: Sequence[SimulatedPlatform]) -> dict[str, float]:
    """Train the federation of ``scenario`` and measure its shared model on validation users.

    Returns:
        The mean of :func:`metric_of` by platform, of platforms that have validation users with something held out.

    Raises:
        ConfigError: no platform has any.
        CrossfedError: of the federation.
    """
    if not any(platform.training.validation.truth.nnz for platform in platforms):
        raise ConfigError("split.validation_users: nobody is there to choose settings on; set it above 0")
    scenario = scenario.with_platforms(len(platforms))
    state = train_shared(scenario, platforms)
    model, metric, secret = shared_model(state, scenario.plan), metric_of(scenario), simulation_secret(scenario.seed)
    means = {}
    for platform in platforms:
        held_out = platform.training.validation
        if held_out.truth.nnz:
            scorer = shared_on_own(model, positions_of(platform.training, state.vocabulary, secret))
            explicit = metric == RATING_METRIC
            measured = rating_accuracy(scorer, held_out) if explicit else evaluate(scorer, held_out, metrics=(metric,))
            means[platform.name] = float(measured.values[metric].mean())
    return means


def _with_settings(scenario: Scenario, settings: Mapping[str, Any]) -> Scenario:
    """The scenario with overrides, checked like the file itself."""
    content = scenario.model_dump(mode="json", exclude_unset=True)
    return parse_model(content, Scenario, scenario.name, overrides=as_overrides(settings))


def _check_space(scenario: Scenario, space: Mapping[str, SearchParameter]) -> None:
    """Raises: ConfigError when some value of the space does not fit the plan, before anything is trained."""
    if beside := [key for key in space if key.startswith(_NOT_JUDGED)]:
        raise ConfigError(
            f"search: {beside[0]}: trials are judged by the shared factors, which it does not change; compare whole runs "
            f"instead (crossfed-simulate run --set {beside[0]}=VALUE)"
        )
    middle = {key: parameter.values()[0] for key, parameter in space.items()}
    for key, parameter in space.items():
        for value in parameter.values():
            plan = _with_settings(scenario, middle | {key: value}).plan
            ignored = key == "plan.rounds" or key.startswith("plan.model.")
            if ignored and plan.private and plan.privacy.tuned_training:
                raise ConfigError(
                    f"search: {key}: under privacy the shipped defaults for ε take its place; add "
                    "plan.privacy.tuned_training: {choices: [false]}"
                )


def _study(path: Path, scenario: Scenario, space: Mapping[str, SearchParameter]) -> optuna.Study:
    """The study in ``path``; a new one where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plain = scenario.model_dump(mode="json", exclude={"search", "description", "price_at", "steering"})
    shape = {key: parameter.model_dump(mode="json") for key, parameter in space.items()}
    fingerprint = json.dumps({"scenario": plain, "search": shape}, sort_keys=True)
    study = optuna.create_study(
        storage=f"sqlite:///{path.resolve()}", study_name="crossfed", direction="maximize", load_if_exists=True
    )
    if study.user_attrs.setdefault(_FINGERPRINT, fingerprint) != fingerprint:
        raise ConfigError(f"{path}: holds the tuning of another scenario or search space; give another --output")
    study.set_user_attr(_FINGERPRINT, fingerprint)
    return study


def _forget_unfinished(study: optuna.Study) -> int:
    """Mark trials that a killed process left running as failed; returns how many settings have been tried."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return sum(_RESULT in trial.user_attrs for trial in study.trials)


def _next(
    study: optuna.Study,
    scenario: Scenario,
    platforms: Sequence[SimulatedPlatform],
    space: Mapping[str, SearchParameter],
    number: int,
    measure: Measure,
) -> Tried:
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    study.sampler = TPESampler(seed=scenario.seed * 1_000_003 % 2**31 + number)
    trial = study.ask()
    settings = {key: _suggest(trial, key, parameter) for key, parameter in space.items()}
    tried = _try(_with_settings(scenario, settings), platforms, number, settings, measure)
    trial.set_user_attr(_RESULT, asdict(tried))
    if tried.value is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, tried.value)
    return tried


def _try(
    scenario: Scenario,
    platforms: Sequence[SimulatedPlatform],
    number: int,
    settings: dict[str, Any],
    measure: Measure,
) -> Tried:
    started, error = time.perf_counter(), None
    means: dict[str, float] = {}
    try:
        means = measure(scenario, platforms)
    except CrossfedError as problem:
        if number < 0:
            raise
        error = str(problem)
    return Tried(
        number=number,
        settings=settings,
        value=fmean(means.values()) if means else None,
        platforms=means,
        seconds=time.perf_counter() - started,
        error=error,
    )


def _suggest(trial: optuna.Trial, key: str, parameter: SearchParameter) -> Any:
    if parameter.choices is not None:
        return trial.suggest_categorical(key, parameter.choices)
    low, high = parameter.low, parameter.high
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=parameter.log)
    return trial.suggest_float(key, low, high, log=parameter.log)


def _write(
    path: Path,
    scenario: Scenario,
    space: Mapping[str, SearchParameter],
    cost: str | None,
    baseline: Tried,
    tried: Sequence[Tried],
) -> None:
    best = best_of(tried)
    content = {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "metric": metric_of(scenario),
        "measured_on": "validation users",
        "machine": {"cpus": os.cpu_count()},
        "search": {key: parameter.model_dump(mode="json", exclude_none=True) for key, parameter in space.items()},
        "cost": cost,
        _AS_IT_STANDS: asdict(baseline),
        "tried": [asdict(one) for one in tried],
        "best": None if best is None else asdict(best) | {"overrides": as_overrides(best.settings)},
    }
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode(), mode=0o644)


def _table(metric: str, baseline: Tried, tried: Sequence[Tried], space: Mapping[str, SearchParameter]) -> PlainTable:
    """Best first, failures last, the scenario as it stands among them."""
    table = PlainTable(title=f"{metric} on validation users, mean over platforms", lined=True)
    table.add_column("trial", justify="right")
    table.add_column(metric, justify="right")
    for key in space:
        table.add_column(key.removeprefix("plan."), justify="right")
    table.add_column("s", justify="right")
    ranked = sorted([baseline, *tried], key=lambda one: (one.value is None, -(one.value or 0.0), one.number))
    for one in ranked:
        shown = ["" if key not in one.settings else _short(one.settings[key]) for key in space]
        name = "as it stands" if one.number < 0 else str(one.number)
        table.add_row(name, "failed" if one.value is None else f"{one.value:.4f}", *shown, f"{one.seconds:.1f}")
    return table


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

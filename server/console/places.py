"""The pages of an aggregator's console. They show what status, history and health print, and start runs as ``run`` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.config.loader import load_yaml_model
from common.deploy.health import Listener
from common.deploy.roles import AggregatorConfig
from common.errors import ContractError
from common.web.console.app import Console, Place, Redirect, Shown, Visit
from server.deploy.admission import Admission, AdmissionBook
from server.deploy.aggregator import begin_run
from server.deploy.runs import FAILED, INTERRUPTED, PENDING, RUNNING, RunStatus, read_runs

PACKAGE: Final = "server.console"
_GOING_ON: Final = (PENDING, RUNNING)


@dataclass(frozen=True, kw_only=True)
class PlatformLine:
    """One platform as the overview shows it.

    Attributes:
        name: of the platform.
        fingerprint: of its registration; None where its card is damaged or it only answered.
        state: ``revoked``, ``damaged``, ``late``, ``missed``, ``answered`` or ``quiet``: ``late`` while others have answered
            what it has not, ``missed`` where the newest complete round went without it.
        answer: its last answer in the newest run, or None.
    """

    name: str
    fingerprint: str | None
    state: str
    answer: Mapping[str, Any] | None


def platform_lines(
    admitted: Mapping[str, Admission], damaged: Mapping[str, str], run: RunStatus | None
) -> list[PlatformLine]:
    """Every platform that was admitted or has answered in ``run``."""
    answers = {} if run is None else run.answers
    newest = max((answer["round"] for answer in answers.values()), default=0)
    failed = run.rounds[-1].get("failed", {}) if run is not None and run.rounds else {}
    lines = []
    for name in sorted({*admitted, *damaged, *answers}):
        answer = answers.get(name)
        if name in damaged:
            state = "damaged"
        elif name in admitted and admitted[name].revoked:
            state = "revoked"
        elif run is not None and run.state in _GOING_ON and (answer is None or answer["round"] < newest):
            state = "late"
        elif name in failed:
            state = "missed"
        else:
            state = "quiet" if answer is None else "answered"
        entry = admitted.get(name)
        lines.append(
            PlatformLine(
                name=name,
                fingerprint=None if entry is None else entry.registration.fingerprint,
                state=state,
                answer=answer,
            )
        )
    return lines


class AggregatorPages:
    """Makes each page from the aggregator's files.

    Args:
        config_path: of ``federation.yaml``; read anew for each page.
        begin: begins a run and gives its name.
    """

    def __init__(self, config_path: Path, begin: Callable[[AggregatorConfig], str] = begin_run) -> None:
        self._path = config_path
        self._begin = begin

    @property
    def config(self) -> AggregatorConfig:
        return load_yaml_model(self._path, AggregatorConfig)

    def overview(self, visit: Visit) -> Shown:
        """Health, the newest run, platforms; and a button that starts a run."""
        config = self.config
        runs, _ = read_runs(config.state)
        admitted, damaged = AdmissionBook(config.platforms).read()
        newest = runs[-1] if runs else None
        return Shown(
            template="aggregator.html",
            content={
                "health": [(each.what, each.answers()) for each in _listeners(config)],
                "run": newest,
                "going_on": newest is not None and newest.state in _GOING_ON,
                "planned": _planned(config),
                "lines": platform_lines(admitted, damaged, newest),
                "damaged": damaged,
            },
        )

    def start(self, visit: Visit) -> Redirect:
        """Begin a run, unless one is going on."""
        self._begin(self.config)
        return Redirect(path="/")

    def runs(self, visit: Visit) -> Shown:
        """All runs, the newest first; of the one that the address names its rounds."""
        runs, damaged = read_runs(self.config.state)
        name = visit.query.get("run", runs[-1].name if runs else "")
        chosen = next((run for run in runs if run.name == name), None)
        if chosen is None and "run" in visit.query:
            raise ContractError("run: there is none of that name")
        content = {"runs": runs[::-1], "chosen": chosen, "damaged": damaged, "bad": (FAILED, INTERRUPTED)}
        return Shown(template="runs.html", content=content)


def aggregator_console(
    config_path: Path,
    port: int,
    token: str | None = None,
    begin: Callable[[AggregatorConfig], str] = begin_run,
) -> Console:
    """The console of an aggregator.

    Args:
        config_path: of ``federation.yaml``.
        port: at which it is served.
        token: what whoever enters must know; a new one unless given.
        begin: begins a run and gives its name.
    """
    pages = AggregatorPages(config_path, begin)
    places = [
        Place(path="/", label="p_overview", view=pages.overview, action=pages.start),
        Place(path="/runs", label="p_runs", view=pages.runs),
    ]
    return Console(PACKAGE, pages.config.plan.federation, places, port=port, token=token)


def _listeners(config: AggregatorConfig) -> Sequence[Listener]:
    found = [Listener("SuperLink", ("127.0.0.1", config.superlink_port))]
    if config.proxy.enabled:
        found.append(Listener("proxy", (config.proxy.host, config.proxy.port)))
    return found


def _planned(config: AggregatorConfig) -> int:
    towers = config.plan.federated_towers
    deep = 0 if towers is None else towers.training.rounds
    return config.plan.server_rounds + deep

"""``crossfed-simulate demo``: an aggregator and three platforms as real processes, with everything that protects them.

TLS from a fresh authority, admitted node keys, pinned identities, a federation secret that the aggregator never has,
user-level differential privacy and secure summation. At the end everything is torn down.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from client.cli.ask import recommendation_table
from client.privacy.report import egress_dicts
from common.contributions.run_plan import read_plan
from common.deploy.console import PlainConsole
from common.errors import ConfigError, CrossfedError, FederationError
from server.deploy.aggregator import begin_run
from server.deploy.runs import FINISHED
from simulations.engine.datasets import make_platforms
from simulations.engine.deployment import LocalFederation, provision, write_files
from simulations.output import own_folder
from simulations.scenarios.scenario import Scenario, load_scenario

_EPSILON = 3.0
_SHOWN_ITEMS = 5
_FEWEST = 3
# Small enough to build three platforms' own models at once on two cores.
_SETTINGS = {"personalization": {"tuning_candidates": 2, "blend_weights": [1.0]}}


def run_demo(console: PlainConsole, folder: Path | None = None, scenario: str = "quickstart") -> None:
    """Run the demo with a scenario's data; its files go to ``folder``, which stays, or to a temporary one, which does not.

    Raises:
        CrossfedError: something did not work; the logs are shown.
    """
    if folder is not None:
        with own_folder(folder):
            _demonstrate(console, folder, scenario)
        return
    place = Path(tempfile.mkdtemp(prefix="crossfed-demo-"))
    try:
        _demonstrate(console, place, scenario)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _demonstrate(console: PlainConsole, place: Path, scenario: str) -> None:
    started = time.monotonic()
    federation = _provision(console, place, load_scenario(scenario))
    _run(console, federation)
    console.print(f"\n{time.monotonic() - started:.0f} s; all processes have ended", style="green")


def _provision(console: PlainConsole, place: Path, scenario: Scenario) -> LocalFederation:
    platforms = make_platforms(scenario)
    plan = read_plan(
        {
            "federation": "demo",
            "platforms": len(platforms),
            "min_platforms": len(platforms),
            "attributes": scenario.plan.attributes.kinds,
            "privacy": {"mode": "user", "epsilon": _EPSILON, "noise": "secure_sum", "user_bound": 2000},
        }
    )
    if len(platforms) < _FEWEST:
        raise ConfigError(
            f"--scenario {scenario.name}: a secure sum takes {_FEWEST} platforms, here are {len(platforms)}"
        )
    namespace = platforms[0].training.items.keys[0].partition(":")[0]
    files = {
        platform.name: write_files(place / "data" / platform.name, platform.training, namespace)
        for platform in platforms
    }
    console.rule("setting up")
    return provision(place, plan, files, _SETTINGS, tell=lambda text: console.print(f"$ {text}", style="dim"))


def _run(console: PlainConsole, federation: LocalFederation) -> None:
    names = list(federation.platforms)
    console.rule("running")
    with federation.running():
        console.print(f"aggregator and {', '.join(names)} start as processes of their own …")
        try:
            federation.wait_online(len(names))
            console.print(
                f"all SuperNodes are online; the fleet API at {federation.config.address} is all that is open"
            )
            name = begin_run(federation.config)
            status = federation.wait_run(name)
            if status.state != FINISHED:
                raise FederationError(f"run {name} {status.state}: {status.error}")
        except CrossfedError:
            _show_logs(console, federation)
            raise
        for record in status.rounds:
            console.print(f"round {record['round']}: {', '.join(record['platforms'])} in {record['seconds']:.1f} s")
        for platform in names:
            _show_recommendations(console, federation, platform)
    for platform in names:
        _show_egress(console, federation, platform)


def _show_recommendations(console: PlainConsole, federation: LocalFederation, platform: str) -> None:
    """Print what the platform's own service answers for its first user, from the other platforms' catalogues."""
    with federation.platform_config(platform).data.interactions.path.open() as file:
        next(file)
        user = next(file).split(",")[0]
    console.rule(f"{platform}: for one of its users, from the others' catalogues")
    with federation.recommender(platform) as recommender:
        console.print(recommendation_table(recommender.recommend(user, _SHOWN_ITEMS, "cross")))


def _show_egress(console: PlainConsole, federation: LocalFederation, platform: str) -> None:
    """Everything that has left the platform, summed by kind of message."""
    console.rule(f"{platform}: all that has left")
    by_kind: dict[str, tuple[int, int]] = {}
    for entry in egress_dicts(federation.platform_config(platform).state):
        if entry["event"] in ("sent", "replied"):
            count, size = by_kind.get(entry["kind"], (0, 0))
            by_kind[entry["kind"]] = (count + 1, size + int(entry["bytes"]))
    for kind, (count, size) in by_kind.items():
        console.print(f"{kind:18} {count} × {size:>10,} bytes in all")


def _show_logs(console: PlainConsole, federation: LocalFederation) -> None:
    """The ends of all logs, while they are there."""
    for path in sorted(federation.folder.rglob("*.log")):
        lines = path.read_text(errors="replace").splitlines()[-15:]
        console.rule(str(path.relative_to(federation.folder)))
        for line in lines:
            console.print(line)


def main() -> None:
    """Entry point of ``python -m simulations.demo``."""
    from common.deploy.cli import run_app

    run_app(lambda: run_demo(PlainConsole()))


if __name__ == "__main__":
    main()

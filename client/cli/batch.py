"""The part of ``crossfed-client recommend`` that writes many lists."""

from __future__ import annotations

from pathlib import Path

from client.batch.run import BatchJob, recommend_to_file
from client.data.recorded import EventRules
from client.recommend.answers import Scope
from common.config.loader import load_yaml_model
from common.config.serving import SteeringConfig
from common.deploy.console import PlainConsole, say
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError


def write_lists(
    store: Path | None, config: Path | None, output: Path, users: Path | None, k: int, scope: Scope
) -> None:
    """Write the lists and say how many; exactly one of ``store`` and ``config`` names the model."""
    if (store is None) == (config is None):
        raise ConfigError("--store, --config: give one of them")
    steering, rules = SteeringConfig(), EventRules()
    if config is not None:
        platform = load_yaml_model(config, PlatformConfig)
        store, steering, rules = platform.state / "store", platform.steering, EventRules.of(platform.data)
    assert store is not None
    job = BatchJob(store=store, output=output, users=users, k=k, scope=scope, steering=steering, rules=rules)
    try:
        with PlainConsole(stderr=True).stages() as tell:
            done = recommend_to_file(job, tell)
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on where it was, and until then {output} is as it was", err=True)
        raise
    unknown = f"; {done.unknown:,} of those asked for are not known" if done.unknown else ""
    say(f"{output}: lists of {done.users:,} users by version {done.version}{unknown}")

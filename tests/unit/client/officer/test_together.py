"""ε of several federations: composed where that is known, added where not, and never below what one alone has spent."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from mpmath import mp
from typer.testing import CliRunner

from client.cli.main import app
from client.officer.together import spend_together
from client.privacy.budget import SubsampledBudget
from client.privacy.ledger import BudgetLedger
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from common.privacy.contribution import Release
from common.privacy.lifetime import BudgetPolicy
from tests.support.platform_files import config as platform_config

DELTA = 1e-6


def federation(folder: Path, *multipliers: float, sampled: float = 0.0, private: bool = True) -> PlatformConfig:
    """A platform whose ledger has charged Gaussian releases of these noise multipliers."""
    folder.mkdir()
    config = platform_config(folder)
    share = 0.5 if sampled else 0.0
    policy = BudgetPolicy(epsilon=8.0 if private else None, delta=DELTA, subsampled_share=share)
    ledger = BudgetLedger.open(config.state, policy)
    mechanism = "gaussian" if private else "none"
    releases = [
        Release(kind="item_vectors", mechanism=mechanism, noise_multiplier=z if private else 0.0)  # type: ignore[arg-type]
        for z in multipliers
    ]
    if sampled:
        releases.append(
            Release(kind="update", mechanism="subsampled-gaussian", noise_multiplier=30.0, sampling_rate=0.01, steps=1)
        )
    budget = SubsampledBudget(sampled, DELTA / 4) if sampled else None
    ledger.reserve("run", releases, epsilon=8.0 if private else None, delta=DELTA, subsampled=budget)
    for number, release in enumerate(releases, start=1):
        ledger.charge("run", number, [release], f"{number:064x}")
    return config


def exact_epsilon(mu: float, delta: float) -> float:
    """ε at δ of μ-GDP by bisection in 50 digits, from the closed form."""
    mp.dps = 50

    def delta_at(epsilon: mp.mpf) -> mp.mpf:
        return mp.ncdf(-epsilon / mu + mu / 2) - mp.e**epsilon * mp.ncdf(-epsilon / mu - mu / 2)

    low, high = mp.mpf(0), mp.mpf(100)
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return float(high)


def test_gaussian_releases_of_two_federations_compose_as_one(tmp_path: Path) -> None:
    found = spend_together([federation(tmp_path / "a", 4.0, 5.0), federation(tmp_path / "b", 3.0)])
    mu = math.sqrt(1 / 16 + 1 / 25 + 1 / 9)
    assert found.mu == pytest.approx(mu)
    assert found.delta == pytest.approx(2 * DELTA)
    assert found.epsilon == pytest.approx(exact_epsilon(mu, 2 * DELTA), abs=1e-6)
    assert found.epsilon is not None
    assert found.simple_sum is not None
    assert max(e for e in found.spent if e is not None) * 0.97 < found.epsilon < found.simple_sum
    assert found.most is not None
    assert found.most > found.epsilon


def test_one_federation_alone_is_its_own_ledgers_report(tmp_path: Path) -> None:
    found = spend_together([federation(tmp_path / "a", 4.0)])
    assert found.epsilon == pytest.approx(found.spent[0])
    assert found.simple_sum == pytest.approx(found.epsilon)


def test_sampled_users_are_simply_added(tmp_path: Path) -> None:
    one, other = federation(tmp_path / "a", 4.0, sampled=1.0), federation(tmp_path / "b", 4.0, sampled=0.5)
    found = spend_together([one, other])
    gaussian = exact_epsilon(math.sqrt(2 / 16), DELTA)
    assert found.epsilon is not None
    assert found.epsilon == pytest.approx(gaussian + found.subsampled_epsilon, abs=1e-6)
    assert found.subsampled_epsilon == pytest.approx(1.5)


def test_one_without_noise_leaves_no_bound(tmp_path: Path) -> None:
    found = spend_together([federation(tmp_path / "a", 4.0), federation(tmp_path / "b", 1.0, private=False)])
    assert (found.epsilon, found.simple_sum, found.most) == (None, None, None)


def test_a_ledger_counts_once(tmp_path: Path) -> None:
    config = federation(tmp_path / "a", 4.0)
    with pytest.raises(ConfigError, match="twice"):
        spend_together([config, config])


def test_the_command_says_which_rule_it_used(tmp_path: Path) -> None:
    arguments = ["privacy", "sum"]
    for name in ("a", "b"):
        config = federation(tmp_path / name, 4.0)
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(config.model_dump(mode="json", exclude_defaults=True)))
        arguments += ["-c", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "μ² adds up" in result.stdout
    assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["federations"] == ["films", "films"]

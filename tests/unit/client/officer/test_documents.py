"""Draft documents say what plan, configuration and books say, and leave to a person what is a person's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from scipy.stats import norm
from typer.testing import CliRunner

from client.cli.main import app
from client.officer.documents import dpia_text, record_text
from client.officer.facts import FILL, facts_of, membership_advantage
from common.contributions.run_plan import read_plan
from common.deploy.roles import PlatformConfig
from common.privacy.gdp import mu_from_epsilon
from tests.support.persons import ANNA, platform_with_persons
from tests.support.platform_files import config as platform_config

PRIVATE = {"federation": "films", "platforms": 4, "privacy": {"mode": "user", "epsilon": 2.0, "colluders": 1}}


def private(tmp_path: Path, **changes: object) -> PlatformConfig:
    return platform_config(tmp_path, plan=PRIVATE, pins=tmp_path / "pins.json", declared_users=2000, **changes)


def test_the_headings_of_article_35_are_there(tmp_path: Path) -> None:
    text = dpia_text(facts_of(private(tmp_path)))
    for heading in (
        "Nature and scope",
        "Context and purposes",
        "Necessity and proportionality",
        "Risks",
        "Measures",
        "remains",
    ):
        assert heading in text
    assert "ε = 2, δ = " in text
    assert "about 2,000" in text
    assert "Secure summation among 4 platforms" in text
    assert "Nothing has been spent" in text
    assert text.count(FILL) >= 10, "a draft decides nothing that is a person's to decide"


def test_the_record_has_the_points_of_article_30(tmp_path: Path) -> None:
    text = record_text(facts_of(private(tmp_path)))
    assert [line[3:6] for line in text.splitlines() if line.startswith("## ")] == [
        f"({letter})" for letter in "abcdefg"
    ]
    assert "h.example.org:9443" in text


def test_without_privacy_the_documents_say_so_first(tmp_path: Path) -> None:
    text = dpia_text(facts_of(platform_config(tmp_path, pins=tmp_path / "pins.json")))
    assert "**None: plan.privacy.mode is none.**" in text
    assert "high: no noise" in text


def test_settings_of_consent_and_age_are_in_the_documents(tmp_path: Path) -> None:
    data = {
        "interactions": {"path": tmp_path / "views.csv", "consent": {"column": "agreed", "values": ["yes"]}},
        "items": {"path": tmp_path / "films.csv", "namespace": "imdb"},
        "retention_days": 400,
    }
    text = dpia_text(facts_of(private(tmp_path, data=data)))
    assert "consent (agreed: yes)" in text
    assert "not longer than 400 days" in text


def test_no_person_is_in_the_documents(tmp_path: Path) -> None:
    facts = facts_of(platform_with_persons(tmp_path))
    assert ANNA not in dpia_text(facts) + record_text(facts)


def test_what_can_be_told_is_the_bound_of_gaussian_privacy() -> None:
    plan = read_plan(PRIVATE)
    mu = mu_from_epsilon(2.0, plan.delta)
    assert membership_advantage(plan) == pytest.approx(2 * norm.cdf(mu / 2) - 1)
    assert membership_advantage(plan) < (math.exp(2) - 1 + 2 * plan.delta) / (math.exp(2) + 1)
    # At the best threshold of the likelihood ratio, drawn from both sides.
    best = max(norm.sf(t - mu) - norm.sf(t) for t in [mu / 2, 0.0, mu])
    assert membership_advantage(plan) == pytest.approx(best)


def test_commands_print_the_documents(tmp_path: Path) -> None:
    path = tmp_path / "platform.yaml"
    path.write_text(json.dumps(private(tmp_path).model_dump(mode="json", exclude_defaults=True)))
    for command, title in (("dpia", "# Data protection impact"), ("record", "# Record of processing")):
        result = CliRunner().invoke(app, ["privacy", command, "-c", str(path)])
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(title)

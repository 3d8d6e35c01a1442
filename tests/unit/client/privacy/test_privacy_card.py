from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.privacy.card import PlatformSpend, _audit, card_content, card_text
from client.privacy.ledger import BudgetLedger
from client.privacy.passport_card import POPULARITY, PRECISION, WITH_NOISE, passport_section
from common.config.ease import EaseConfig
from common.config.federation import FederationPlan
from common.config.passport import PassportConfig
from common.config.towers import TowerConfig
from common.contributions.run_plan import RunPlan
from common.privacy.lifetime import BudgetPolicy
from tests.private_support import private_plan
from tests.support import small_plan

ENTRIES = [
    {"event": "opened"},
    {"event": "replied", "kind": "join", "bytes": 100},
    {"event": "sent", "kind": "counts", "bytes": 24},
    {"event": "sent", "kind": "statistics", "bytes": 1000},
    {"event": "sent", "kind": "statistics", "bytes": 1000},
    {"event": "replied", "kind": "statistics", "code": "budget-exceeded", "bytes": 0},
    {"event": "restored"},
]
AUDIT = {"epsilon_claimed": 1.0, "epsilon_hat": 0.97, "epsilon_lower": 0.9, "runs": 20_000, "flags": []} | {
    "kinds": ["counts", "cooccurrence", "statistics", "update"]
}


def spend_of(folder: Path, plan: FederationPlan, *, charged: int = 3) -> PlatformSpend:
    releases = RunPlan.of(plan).release_plan()
    ledger = BudgetLedger.open(folder, BudgetPolicy(epsilon=8.0, delta=releases.delta))
    ledger.reserve("run", releases.releases(), epsilon=3.0, delta=releases.delta)
    contributions = [releases.releases()[:1], *(part.releases() for part in releases.rounds)]
    for number, part in enumerate(contributions[:charged]):
        ledger.charge("run", number, part, f"{number:064x}")
    return PlatformSpend.of(ledger.spend(), ENTRIES)


def test_a_platforms_line_counts_what_left_and_nothing_else(tmp_path: Path) -> None:
    part = spend_of(tmp_path, private_plan())
    assert (part.messages, part.bytes) == (5, 2124)
    assert part.kinds == {"join": 1, "counts": 1, "statistics": 3}


@pytest.mark.parametrize("privacy", [{}, {"noise": "per_platform"}, {"release": "item_gram"}], ids=repr)
def test_the_content_says_all_that_the_promise_rests_on(tmp_path: Path, privacy: dict[str, Any]) -> None:
    plan = private_plan(**privacy)
    releases = RunPlan.of(plan).release_plan()
    content = card_content(plan, {"shop": spend_of(tmp_path, plan)})
    assert (content["mode"], content["epsilon"], content["delta"], content["mu"]) == (
        "user",
        3.0,
        releases.delta,
        releases.mu,
    )
    assert content["unit"] == "one user's whole history on one platform"
    assert "Ids are compared in Unicode form NFC" in content["ids"]
    assert "added or removed" in content["neighbours"]
    assert plan.privacy.release in content["mechanism"]
    assert (content["noise"], content["colluders"], content["dropouts"]) == (plan.privacy.noise, 1, 0)
    assert content["user_bound"] == 100
    assert content["parameters"]["clip_norm"] == 0.4
    multipliers = content["noise_multipliers"]
    flat = [multipliers["counts"], *(z for part in multipliers["rounds"] for z in part.values())]
    assert sum(1 / z**2 for z in flat) == pytest.approx(releases.mu**2)
    line = content["platforms"]["shop"]
    assert line["epsilon_spent"] == pytest.approx(3.0, rel=1e-6)
    assert (line["budget"], line["delta"], line["messages"], line["bytes"]) == (8.0, releases.delta, 5, 2124)
    json.dumps(content, allow_nan=False)


def test_the_card_in_words_names_promise_assumptions_spend_and_limits(tmp_path: Path) -> None:
    plan = private_plan(5, dropouts=1)
    text = card_text(plan, card_content(plan, {"shop": spend_of(tmp_path, plan)}))
    for said in (
        "**ε = 3** and **δ = 0.001**",
        "one user's whole history on one platform",
        "up to 1 platform(s)",
        "up to 1 dropping out",
        "no platform has more than 100 users",
        "| shop | 3 | 0.001 | 8.0 | 5 | 2,124 |",
        "No metric, objective or verdict left",
        "sees which pseudonymous items",
        "A person who uses several platforms",
        "how long that takes it, and the short code",
        "and parameters made for the purpose, sent to all",
        "operating system's",
        "Not run for this configuration",
    ):
        assert said in text, said
    assert "not private" not in text


def test_with_noise_on_each_platform_nobody_else_need_be_trusted(tmp_path: Path) -> None:
    plan = private_plan(noise="per_platform")
    text = card_text(plan, card_content(plan, {"shop": spend_of(tmp_path, plan)}))
    assert "nobody else needs to be trusted" in text
    assert "masks" not in text
    assert "and parameters made for the purpose, sent to all" not in text


def test_what_was_not_charged_is_not_on_the_card(tmp_path: Path) -> None:
    plan = private_plan()
    line = card_content(plan, {"shop": spend_of(tmp_path, plan, charged=2)})["platforms"]["shop"]
    assert 0 < line["epsilon_spent"] < 2.9


def test_without_privacy_the_card_says_so_loudly(tmp_path: Path) -> None:
    plan = small_plan(federation="open")
    ledger = BudgetLedger.open(tmp_path, BudgetPolicy(epsilon=None, delta=1e-5))
    from common.contributions.factors import PlainMechanism

    releases = PlainMechanism().releases("counts")
    ledger.reserve("run", releases, epsilon=None, delta=1e-5)
    ledger.charge("run", 0, releases, "0" * 64)
    content = card_content(plan, {"shop": PlatformSpend.of(ledger.spend(), ENTRIES)})
    assert (content["mode"], content["epsilon"], content["delta"], content["mechanism"]) == ("none", None, None, None)
    assert content["platforms"]["shop"]["epsilon_spent"] is None
    text = card_text(plan, content)
    assert text.startswith("# Privacy card of federation open\n\n## No privacy guarantee\n\n**This run was made with")
    assert "It is not private.**" in text
    assert "| shop | without bound | 1e-05 | no limit |" in text
    assert "differentially private" not in text


def test_what_an_audit_found_is_on_the_card_faults_above_all(tmp_path: Path) -> None:
    plan = private_plan()
    parts = {"shop": spend_of(tmp_path, plan)}
    sound = card_text(plan, card_content(plan, parts, AUDIT))
    figures = "measured ε̂ = 0.97, 99 % lower bound 0.9, in 20,000 runs. It found no fault."
    assert f"tested at a claim of ε = 1 (not this run's own claim): {figures}" in sound
    own = private_plan(epsilon=1.0)
    assert f"tested at a claim of ε = 1: {figures}" in card_text(own, card_content(own, parts, AUDIT))
    faulty = card_text(plan, card_content(plan, parts, AUDIT | {"flags": ["ε is at least 7"]}))
    assert "**It found faults, and the promise above does not hold: ε is at least 7.**" in faulty


def test_what_an_audit_did_not_measure_is_on_the_card(tmp_path: Path) -> None:
    plan = private_plan(release="item_gram")
    parts = {"shop": spend_of(tmp_path, plan)}
    assert "Not measured: the items' own Gram matrices." in card_text(plan, card_content(plan, parts, AUDIT))
    assert "Not measured" not in card_text(plan, card_content(plan, parts))
    for other in (
        private_plan(),
        private_plan().model_copy(update={"towers": TowerConfig(), "linear": EaseConfig()}),
    ):
        assert _audit(AUDIT, other) == _audit(AUDIT, private_plan())
    deep = private_plan().model_copy(update={"towers": TowerConfig()})
    assert "Not measured: the deep model's updates." in _audit(AUDIT | {"kinds": ["counts", "statistics"]}, deep)


def test_passports_have_a_section_where_there_are_any() -> None:
    assert passport_section(PassportConfig()) == ""
    plain = passport_section(PassportConfig(issue=True))
    assert "issues at most 3 to a user a day. It redeems none." in plain
    assert "tastes, profile (64 numbers)" in plain
    assert "Without noise an attacker" in plain
    noised = passport_section(PassportConfig(issue=True, redeem=True, epsilon=8.0))
    assert "In a passport it issues: profile (64 numbers)." in noised
    assert "ε = 8.0" in noised
    assert f"{POPULARITY:.0%} are in the history without a passport" in plain
    assert f"{PRECISION['profile'][256]:.0%} with profile of 256 numbers" in plain
    assert "factor" not in plain
    assert f"{WITH_NOISE[128.0]:.0%} with profiles under ε = 128" in noised
    assert "profile of 256 numbers" not in noised


def test_attack_on_the_card_is_the_documented_one() -> None:
    lines = Path("docs/passport.md").read_text(encoding="utf-8").split("| content | numbers | precision | recall |")[1]
    table = {
        cells[1].strip(): cells[2:4] for cells in (line.split("|") for line in lines.splitlines()) if len(cells) > 4
    }
    documented = {
        kind: dict(zip(*([float(cell) for cell in cells.split("/")] for cells in table[kind]), strict=True))
        for kind in PRECISION
    }
    assert documented == PRECISION
    assert float(table["none: popularity's guess"][1]) == POPULARITY
    assert [float(cell) for cell in table["profile with ε = 128 / 32 / 8"][1].split("/")] == list(WITH_NOISE.values())


def test_the_card_names_every_attribute_that_may_leave(tmp_path: Path) -> None:
    bare = private_plan()
    plan = bare.model_validate({**bare.model_dump(), "attributes": {"maker": "category", "blurb": "text"}})
    for one, names in (
        (bare, "title, genres of shared items"),
        (plan, "title, genres, blurb (text), maker (category) of shared items"),
    ):
        content = card_content(one, {"shop": spend_of(tmp_path / str(len(one.attributes)), one)})
        assert names in card_text(one, content)
        assert content["described"] == {"title": "text", "genres": "categories", **one.attributes.kinds}
        assert "keyed digests of categories" in card_text(one, content)
    assert "keyed digests" not in card_text(small_plan(), card_content(small_plan(), {}))

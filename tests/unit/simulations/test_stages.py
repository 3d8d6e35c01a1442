"""A scenario's later stages are checked before its first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.contributions.masked_rounds import secure_rounds
from common.errors import ConfigError
from common.privacy.secure_sum.roster import Member, Roster, check_terms, most_dropouts
from simulations import run
from simulations.evaluation.privacy_cost import private_plan
from simulations.report.terminal import result_tables
from simulations.scenarios.scenario import Scenario
from simulations.stages import check_stages
from tests.support import small_plan
from tests.support.scenarios import scenario_of

pytestmark = pytest.mark.usefixtures("one_thread")
PUBLIC: dict[str, Any] = {"rounds": 2, "model": {"dimension": 4}, "privacy": {"mode": "none"}}
SMALL = {"minimum_users": 1, "user_bound": 100}


def scenario(folder: Path, plan: dict[str, Any] = PUBLIC, **changes: Any) -> Scenario:
    return scenario_of(folder, plan=plan, cross={"ceiling": False, "tune_beta": False}, **changes)


class BeforeTheFederation(run.SilentRunObserver):
    def on_stage(self, text: str) -> None:
        assert text != "federation"


def refusal(case: Scenario, folder: Path) -> str:
    """Return what a run says before its federation."""
    with pytest.raises(ConfigError) as caught:
        run.simulate(case, folder / "out", observer=BeforeTheFederation())
    return str(caught.value)


def test_a_platform_too_small_for_its_price_is_named_before_the_run(tmp_path: Path) -> None:
    plan = PUBLIC | {"privacy": {"mode": "none", "user_bound": 100}}
    said = refusal(scenario(tmp_path, plan, price_at=[3.0]), tmp_path)
    assert said.startswith("price_at: at ε = 3: platform big: ")
    assert "plan.privacy.minimum_users" in said


def test_ratings_have_no_price_and_the_scenario_says_so(tmp_path: Path) -> None:
    content = scenario(tmp_path).model_dump(mode="json")
    content["partition"]["data"]["feedback"] = content["plan"]["model"]["feedback"] = "explicit"
    case = Scenario.model_validate(content | {"price_at": [3.0]})
    with pytest.raises(ConfigError, match=r"^price_at: at ε = 3: .*works for implicit feedback.*leave price_at out"):
        check_stages(case)


def test_two_platforms_under_secure_sum_are_refused_by_key(tmp_path: Path) -> None:
    plan = {"privacy": {"mode": "user"} | SMALL}
    with pytest.raises(
        ConfigError, match=r"^plan: .*2 platforms, but .* at least 3.*set plan\.privacy\.noise to per_platform"
    ):
        check_stages(scenario(tmp_path, plan))
    check_stages(scenario(tmp_path, {"privacy": {"mode": "user", "noise": "per_platform"} | SMALL}))


def test_two_platforms_are_priced_with_noise_of_each(tmp_path: Path) -> None:
    plan = PUBLIC | {"privacy": {"mode": "none"} | SMALL}
    content = run.simulate(scenario(tmp_path, plan, price_at=[10.0]), tmp_path / "out").content
    assert [(point["epsilon"], point["noise"]) for point in content["price"]] == [(10.0, "per_platform")]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["price"] == content["price"]
    captions = [getattr(part, "caption", None) for part in result_tables(content).renderables]
    assert any("Noise of each platform by itself" in (caption or "") for caption in captions)


@pytest.mark.parametrize(("platforms", "noise"), [(1, "per_platform"), (2, "per_platform"), (3, "secure_sum")])
def test_the_price_sums_securely_where_it_can(platforms: int, noise: str) -> None:
    assert private_plan(small_plan(platforms=platforms), 3.0).privacy.noise == noise


def test_terms_are_those_that_a_roster_accepts() -> None:
    for platforms in range(1, 9):
        for colluders in range(1, 4):
            for dropouts in range(4):
                assert accepts_terms(platforms, colluders, dropouts) == makes_roster(platforms, colluders, dropouts)
    assert most_dropouts(5, 1) == 1


def accepts_terms(platforms: int, colluders: int, dropouts: int) -> bool:
    try:
        check_terms(platforms, colluders=colluders, dropouts=dropouts)
    except Exception:
        return False
    return True


def makes_roster(platforms: int, colluders: int, dropouts: int) -> bool:
    members = {Member(name=f"p{n}", identity=bytes([n]) * 32).name: bytes([n]) * 32 for n in range(platforms)}
    spec = secure_rounds(small_plan(platforms=8, privacy={"mode": "user"} | SMALL), platforms=8, n_items=5)
    try:
        Roster.agree(run_id="r", identities=members, colluders=colluders, dropouts=dropouts, rounds=spec)
    except Exception:
        return False
    return True

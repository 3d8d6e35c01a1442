"""Scenarios of many domains: those with real data where it is, those with synthetic data always."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from simulations.engine.datasets import make_platforms
from simulations.run import simulate
from simulations.scenarios.scenario import load_scenario
from tools.synthetic_data import DOMAINS, FOLDER, make

SYNTHETIC = [domain.name for domain in DOMAINS]
REAL = {
    "hospitals": (6, "medicine"),
    "courses": (3, "education"),
    "insurance": (4, "finance"),
    "films-people": (2, "film_people"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in REAL if name != "films-people"])
def test_a_domain_with_real_data_makes_its_platforms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(os.environ.get("CROSSFED_DATA", Path(__file__).parents[5] / "shared" / "data"))
    number, folder = REAL[name]
    if not (data / folder).exists():
        pytest.skip("the research data is not here; set CROSSFED_DATA")
    monkeypatch.setenv("CROSSFED_DATA", str(data))
    scenario = load_scenario(name)
    platforms = make_platforms(scenario)
    assert len(platforms) == scenario.number_of_platforms == number
    for platform in platforms:
        assert platform.training.train.nnz > 100
        assert (platform.hidden is None) == (name == "insurance")
        if platform.hidden is not None:
            assert platform.hidden.interactions.nnz > 100


@pytest.mark.parametrize("domain", DOMAINS, ids=SYNTHETIC)
def test_shipped_synthetic_files_are_what_the_generator_makes(domain: object) -> None:
    made = make(domain, seed=7)  # type: ignore[arg-type]
    name = domain.name  # type: ignore[attr-defined]
    shipped = {path.name: gzip.decompress(path.read_bytes()).decode() for path in (FOLDER / name).iterdir()}
    assert shipped == {f"{file}.gz": content for file, content in made.items()}


def test_synthetic_data_is_small_and_says_what_it_is() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 200_000
    assert "no line of it is about a real person" in (FOLDER / "README.md").read_text()
    for name in SYNTHETIC:
        scenario = load_scenario(name)
        assert "synthetic" in scenario.description
        text = (FOLDER.parents[1] / "scenarios" / f"{name}.yaml").read_text()
        assert "THE DATA ARE SYNTHETIC" in text


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_template_runs_as_it_is(name: str, tmp_path: Path) -> None:
    small = ["plan.rounds=2", "cross.tuning_draws=1", "cross.ceiling=false", "personalization.tuning_candidates=2"]
    result = simulate(load_scenario(name, small), tmp_path / "out")
    assert result is not None
    assert (tmp_path / "out" / "result.json").exists()


def test_every_domain_is_in_the_guide() -> None:
    guide = (Path(__file__).parents[4] / "docs" / "domains.md").read_text()
    for name in [*REAL, *SYNTHETIC]:
        assert f"`{name}`" in guide
    assert "never an order" in guide


def test_every_domain_names_harm_and_forbidden_use() -> None:
    guide = (Path(__file__).parents[4] / "docs" / "domains.md").read_text()
    sections = {
        heading: text for text in guide.split("\n## ")[1:] for heading in [text.splitlines()[0]] if "`" in heading
    }
    told = {name for heading in sections for name in heading.split("`")[1::2]}
    assert {*REAL, *SYNTHETIC} <= told
    for heading, text in sections.items():
        assert "**Private:**" in text, heading
        assert "**Harm:**" in text, heading
        assert "**Must not be used for:**" in text, heading


@pytest.mark.parametrize("name", ["hospitals", "courses", "films-people", "commerce", "social", "video"])
def test_a_domain_describes_its_items_as_a_deployment_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFED_DATA", str(tmp_path))  # named in the scenario, and not read
    scenario = load_scenario(name)
    assert scenario.plan.attributes
    for _, catalogue in scenario.catalogues():
        assert catalogue.describe.keys() == scenario.plan.attributes.kinds.keys()

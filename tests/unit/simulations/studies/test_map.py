from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from client.data.dataset import ItemDescriptions
from client.data.described import Described
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.scoring.factors import FactorModel
from common.attributes import AttributeKind, Value
from common.errors import ConfigError
from simulations.cli import main as cli
from simulations.run import simulate
from simulations.studies.item_map import NOTHING, OTHER, SEVERAL, draw_map, item_map, map_page
from tests.support.scenarios import scenario_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    scenario = scenario_of(folder, cross={"ceiling": False, "tune_beta": False})
    simulate(scenario, folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def model(run_folder: Path) -> PlatformModel:
    return PlatformStore(run_folder / "platforms" / "big" / "store").load()


def with_items(
    model: PlatformModel, factors: np.ndarray, genres: list[tuple[str, ...]], title: str = "T"
) -> PlatformModel:
    m = len(factors)
    shared = FactorModel(
        item_parameters=factors.astype(np.float32),
        config=model.shared.config.model_copy(update={"dimension": factors.shape[1]}),
    )
    owners = np.zeros((m, 2), dtype=np.bool_)
    owners[:, 0] = True
    owners[-1] = True
    described = ItemDescriptions(keys=("k",) * m, titles=tuple(f"{title}{i}" for i in range(m)), genres=tuple(genres))
    return replace(model, shared=shared, owners=owners, vocabulary=described)


def test_principal_axes_are_those_of_the_correlation_of_directions(model: PlatformModel) -> None:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(50, 5)) * [4.0, 2.0, 1.0, 0.5, 0.1]
    found = item_map([with_items(model, factors, [()] * 50)])
    unit = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    variances = np.sort(np.linalg.eigvalsh(np.cov(unit.T, bias=True)))[::-1]
    np.testing.assert_allclose(found.points.var(axis=0), variances[:2], rtol=1e-4)
    assert f"({variances[0] / variances.sum():.0%} of variance)" in found.axes[0]
    # An item's length is its popularity and changes nothing.
    longer = item_map([with_items(model, factors * rng.uniform(1, 9, (50, 1)), [()] * 50)])
    np.testing.assert_allclose(longer.points, found.points, atol=1e-5)


def test_tsne_keeps_two_clusters_apart_and_repeats(model: PlatformModel) -> None:
    rng = np.random.default_rng(0)
    factors = np.repeat(np.eye(6)[:2], 20, axis=0) + 0.05 * rng.normal(size=(40, 6))
    platform = with_items(model, factors, [()] * 40)
    found = item_map([platform], projection="tsne", seed=3)
    again = item_map([platform], projection="tsne", seed=3)
    np.testing.assert_array_equal(found.points, again.points)
    centres = found.points.reshape(2, 20, 2).mean(axis=1)
    nearest = np.linalg.norm(found.points[:, None] - centres, axis=2).argmin(axis=1)
    assert nearest.tolist() == [0] * 20 + [1] * 20


def test_items_are_grouped_by_owner_and_by_their_first_frequent_genre(model: PlatformModel) -> None:
    genres = [
        ("rare", "drama"),
        ("drama",),
        (),
        ("rare2",),
        *[(f"g{i}",) for i in range(7) for _ in range(2)],
        ("drama",),
    ]
    found = item_map([with_items(model, np.random.default_rng(0).normal(size=(len(genres), 3)), genres)])
    assert found.values["genres"][:4] == ("drama", "drama", NOTHING, OTHER)
    assert found.platform == (*["big"] * (len(genres) - 1), SEVERAL)


def test_what_one_platform_cannot_describe_another_does(model: PlatformModel) -> None:
    plain = with_items(model, np.random.default_rng(0).normal(size=(5, 3)), [("drama",)] * 5)
    blank = replace(plain, vocabulary=ItemDescriptions(keys=("",) * 5, titles=("?",) * 5, genres=((),) * 5))
    found = item_map([blank, plain])
    assert found.titles == ("T0", "T1", "T2", "T3", "T4")
    assert set(found.values["genres"]) == {"drama"}


def test_items_are_grouped_by_any_attribute_that_somebody_tells(
    model: PlatformModel, run_folder: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    kinds: dict[str, AttributeKind] = {"maker": "category", "year": "number", "blurb": "text", "empty": "category"}
    rows: list[dict[str, Value]] = [
        {"maker": f"制作者 {n % 2}", "year": 1950.0 + n, "blurb": "x"} if n else {} for n in range(20)
    ]
    plain = with_items(model, rng.normal(size=(20, 3)), [()] * 20)
    told = replace(plain, vocabulary=replace(plain.vocabulary, further=Described.of_rows(kinds, rows)))
    half = Described.of_rows({"maker": "category"}, [{}, {}, {"maker": "first"}, *[{}] * 17])
    first = replace(plain, vocabulary=replace(plain.vocabulary, further=half))
    found = item_map([first, told])
    assert list(found.values) == ["maker", "year"]
    assert found.values["maker"][:4] == (NOTHING, "制作者 1", "first", "制作者 1")
    assert len(set(found.values["year"])) == 9
    assert found.values["year"][1] == "1951 to 1952"
    with pytest.raises(ConfigError, match="--by colour: colours nothing; there are no attributes"):
        draw_map(run_folder, tmp_path, by="colour")


def test_a_run_is_drawn_with_every_shared_item_once(run_folder: Path, model: PlatformModel, tmp_path: Path) -> None:
    png, page = draw_map(run_folder, tmp_path / "map")
    assert png.read_bytes().startswith(b"\x89PNG\r\n")
    text = page.read_text()
    svg = re.search(r"<svg.*</svg>", text, re.DOTALL)
    assert svg is not None
    dots = ElementTree.fromstring(svg[0]).findall("circle")
    assert len(dots) == len(model.owners)
    assert {dot.get("data-g0") for dot in dots} == {"big", "small", SEVERAL}
    colours = json.loads(text.split("const colours = ")[1].split(";\n")[0])
    for place, palette in enumerate(colours):
        assert all(dot.get(f"data-g{place}") in palette for dot in dots)
    # Nothing is fetched from elsewhere.
    assert "http" not in text


def test_titles_and_genres_cannot_break_out_of_the_page(model: PlatformModel) -> None:
    evil = "</title></script><script>alert(1)</script>"
    platform = with_items(model, np.random.default_rng(0).normal(size=(5, 3)), [(evil, "a$b")] * 5, title=evil)
    text = map_page(item_map([platform]), evil)
    assert "<script>alert" not in text
    assert text.count("</script>") == 1


def test_a_folder_that_is_no_run_and_a_map_of_three_items_are_refused(model: PlatformModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of a finished run"):
        draw_map(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="has 3 shared items"):
        item_map([with_items(model, np.eye(3), [()] * 3)])


def test_the_command_says_what_it_wrote(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["crossfed-simulate", "map", str(run_folder), "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code
    assert str(tmp_path / "map.html") in capsys.readouterr().out
    assert (tmp_path / "map.png").exists()
    monkeypatch.setattr(sys, "argv", ["crossfed-simulate", "map", str(run_folder), "--projection", "umap"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code
    assert "there are pca and tsne" in capsys.readouterr().err

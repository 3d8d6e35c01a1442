"""A deployed agent trains on files, recorded feedback and profiles, row by row of the same users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data.training import TrainingData
from client.deploy.loading import load_training_data, make_agent, text_cache
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from tests.support.platform_files import config


def test_profiles_reach_training_in_the_order_of_the_users(tmp_path: Path) -> None:
    data = load_training_data(config(tmp_path))
    assert data.users is not None
    assert (data.user_ids, data.users["age"].to_list()) == (("c", "a"), [30, 20])
    assert data.users.columns == ["age"], "ids are not attributes"


def test_users_known_from_feedback_get_their_profile_alone(tmp_path: Path) -> None:
    platform = config(tmp_path)
    with FeedbackLog(platform.state / "store" / FEEDBACK_LOG) as log:
        log.record("e1", "stranger", "imdb:0", 1.0, 7)
        log.record("e2", "b", "imdb:4", 1.0, 8)
    data = load_training_data(platform)
    assert data.users is not None
    assert (data.user_ids, data.users["age"].to_list()) == (("c", "a", "stranger", "b"), [30, 20, None, 41])


def test_without_a_users_file_there_are_no_profiles(tmp_path: Path) -> None:
    platform = config(tmp_path)
    bare = platform.model_copy(update={"data": platform.data.model_copy(update={"users": None})})
    assert load_training_data(bare).users is None


def test_a_platform_that_keeps_its_cards_sends_none(tmp_path: Path) -> None:
    assert all(card is not None for card in load_training_data(config(tmp_path)).cards())
    assert load_training_data(config(tmp_path, catalogue={"cards": False})).cards() == [None] * 5


def _crowd(folder: Path, absent: str = "", **changes: object) -> PlatformConfig:
    rng = np.random.default_rng(5)
    rows = [f"{user},{item}\n" for user in map("user{}".format, range(60)) for item in rng.permutation(40)[:12]]
    platform = config(folder, **changes)
    (folder / "views.csv").write_text("user_id,item_id\n" + "".join(row for row in rows if row.split(",")[0] != absent))
    (folder / "films.csv").write_text("item_id,title\n" + "".join(f"{item},Film {item}\n" for item in range(40)))
    return platform


def _histories(data: TrainingData) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    parts = (data.train, data.validation.truth)
    return {
        user: (tuple(parts[0].row(row).tolist()), tuple(parts[1].row(row).tolist()))
        for row, user in enumerate(data.user_ids)
    }


@pytest.mark.parametrize("entries", ["random", "latest"])
@pytest.mark.parametrize("absent", ["user0", "user30", "user59"], ids=["first", "middle", "last"])
def test_one_user_more_changes_no_training_data_of_others(tmp_path: Path, absent: str, entries: str) -> None:
    """The sensitivity of every release rests on this, from the file to the training data."""
    everyone = _histories(load_training_data(_crowd(tmp_path, validation_entries=entries)))
    without = _histories(load_training_data(_crowd(tmp_path, absent, validation_entries=entries)))
    assert {user: history for user, history in everyone.items() if user != absent} == without


def test_the_asked_shares_are_withheld_and_everybody_keeps_some(tmp_path: Path) -> None:
    histories = _histories(load_training_data(_crowd(tmp_path)))
    withheld = [held for _, held in histories.values() if held]
    assert 8 <= len(withheld) <= 28, "30 % of 60, within four standard deviations"
    assert {len(held) for held in withheld} == {1}, "10 % of 12"
    assert all(len(kept) + len(held) == 12 and not set(kept) & set(held) for kept, held in histories.values())
    assert len({item for held in withheld for item in held}) > len(withheld) / 3, "not the same item of everybody"


def test_the_latest_are_withheld_of_the_same_users_where_asked(tmp_path: Path) -> None:
    anyway = load_training_data(_crowd(tmp_path))
    asked = load_training_data(_crowd(tmp_path, validation_entries="latest", validation_share=0.25))
    assert asked.validation.users.tolist() == anyway.validation.users.tolist()
    assert (anyway.validation.comes_later, asked.validation.comes_later) == (False, True)
    for user in asked.validation.users:
        whole = asked.known.row(int(user)).tolist()
        assert asked.validation.truth.row(int(user)).tolist() == whole[-3:], "25 % of 12"
        assert asked.train.row(int(user)).tolist() == whole[:-3]


@pytest.mark.parametrize("timed", [False, True])
def test_data_say_whether_it_is_known_when(tmp_path: Path, timed: bool) -> None:
    platform = config(tmp_path)
    if timed:
        (tmp_path / "views.csv").write_text(
            "user_id,item_id,timestamp\na,1,1000000000\na,2,1000000001\nc,1,1000000000\n"
        )
    assert load_training_data(platform).timed == timed


@pytest.mark.parametrize(
    ("text", "says"),
    [({"digest": "0" * 64}, r"plan\.text\.digest"), ({"encoder": "x", "digest": "0" * 64}, "saved_model")],
)
def test_an_agent_with_another_text_encoder_does_not_start(tmp_path: Path, text: dict[str, str], says: str) -> None:
    plan = {"federation": "films", "platforms": 2, "privacy": {"mode": "none"}, "text": text}
    with pytest.raises(ConfigError, match=says):
        make_agent(config(tmp_path, plan=plan), load_training_data(config(tmp_path)))
    assert not (tmp_path / "state").exists(), "refused before anything is opened"


def test_vectors_of_texts_are_kept_in_the_platforms_state(tmp_path: Path) -> None:
    assert text_cache(config(tmp_path)).path == tmp_path / "state" / "cache" / "texts.db"

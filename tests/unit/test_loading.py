"""What a deployed agent trains on: files, recorded feedback and profiles, row by row of the same users."""

from __future__ import annotations

from pathlib import Path

from client.loading import FEEDBACK_LOG, load_training_data
from client.recommend.feedback import FeedbackLog
from common.config.deploy import PlatformConfig


def config(folder: Path, **changes: object) -> PlatformConfig:
    (folder / "views.csv").write_text("user_id,item_id\n" + "".join(f"{user},{i}\n" for user in "ca" for i in range(4)))
    (folder / "films.csv").write_text("item_id,title\n" + "".join(f"{item},Film {item}\n" for item in range(5)))
    (folder / "users.csv").write_text("user_id,age\nb,41\na,20\nz,99\nc,30\n")
    given: dict[str, object] = {
        "name": "cinema",
        "aggregator": "h.example.org:9443",
        "state": folder / "state",
        "plan": {"federation": "films", "platforms": 2, "privacy": {"mode": "none"}},
        "data": {
            "interactions": {"path": folder / "views.csv"},
            "items": {"path": folder / "films.csv", "namespace": "imdb"},
            "users": {"path": folder / "users.csv"},
        },
    }
    return PlatformConfig.model_validate(given | changes)


def test_profiles_reach_training_in_the_order_of_the_users(tmp_path: Path) -> None:
    data = load_training_data(config(tmp_path))
    assert data.users is not None
    assert (data.user_ids, data.users["age"].to_list()) == (("c", "a"), [30, 20])
    assert data.users.columns == ["age"], "ids are not attributes"


def test_users_known_from_feedback_alone_get_their_profile_and_strangers_none(tmp_path: Path) -> None:
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

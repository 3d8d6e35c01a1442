"""A hidden own item is not shared in the next run: what leaves is what would leave without it in the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.data.training import TrainingData
from client.deploy.loading import load_platform_data, load_training_data, make_agent
from client.deploy.preview import preview_rows
from client.keys import KeyFolder
from client.steering.hidden import HiddenItems
from common.config.loader import load_yaml_model
from common.deploy.roles import PlatformConfig
from common.wire.exchange import AgentReply, AgentRequest
from tests.support.joined import PLAN, joined


@pytest.fixture
def config(tmp_path: Path) -> PlatformConfig:
    path = joined(tmp_path, tmp_path)
    (tmp_path / "views.csv").write_text(
        "user_id,item_id\n" + "".join(f"u{user},imdb:{item}\n" for user in range(9) for item in range(user % 2, 8, 2))
    )
    return load_yaml_model(path, PlatformConfig)


def introduced(config: PlatformConfig) -> tuple[TrainingData, AgentReply]:
    """Return what is trained on, and the first message of a run."""
    data = load_training_data(config)
    request = AgentRequest(kind="join", run_id="r", server_round=0, config={"plan": PLAN.model_dump(mode="json")})
    return data, make_agent(config, data).exchange(request)


def test_neither_digest_nor_card_of_a_hidden_item_leaves(config: PlatformConfig) -> None:
    before, told = introduced(config)
    HiddenItems(config.state / "store").hide([before.items.keys[3], "imdb:nobody"], "a secret reason")
    after, told_less = introduced(config)
    assert after.items.keys == before.items.keys
    assert after.shared.tolist() == [column != 3 for column in range(8)]
    secret = KeyFolder(config.keys).secret()
    shared = [key for column, key in enumerate(before.items.keys) if column != 3]
    gone = secret.digests([before.items.keys[3]])[0]
    assert (told_less.arrays["digests"] == secret.digests(shared)).all()
    assert (told.arrays["digests"] == gone).all(axis=1).any()
    assert not (told_less.arrays["digests"] == gone).all(axis=1).any()
    # Every other field and array is a function of what is shared: nothing says that something was hidden.
    assert told_less.config == told.config
    assert set(told_less.arrays) == set(told.arrays)
    for array in told_less.arrays.values():
        assert b"secret reason" not in array.tobytes()
    assert after.train.nnz == before.train.nnz, "the platform's own model still learns from it"


def test_the_preview_counts_what_is_shared(config: PlatformConfig) -> None:
    data = load_platform_data(config)

    def shared() -> int:
        return next(row["shape"][0] for row in preview_rows(config, data) if row["array"] == "digests")

    assert shared() == 8
    HiddenItems(config.state / "store").hide([data.items.keys[0]])
    assert shared() == 7

"""A platform that has joined a federation, as files."""

from __future__ import annotations

from pathlib import Path

from client.deploy.join import join_federation
from client.keys import KeyFolder
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig
from server.deploy.provisioning import initialise, invite

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})


def joined(tmp_path: Path, parent: Path) -> Path:
    """The configuration of a platform in ``parent/cinema``."""
    aggregator = load_yaml_model(initialise(tmp_path / "agg", PLAN, "h.example.org:9443").config, AggregatorConfig)
    invite(aggregator, "cinema", tmp_path / "cinema.invitation")
    (tmp_path / "views.csv").write_text("user_id,item_id\n1,2\n")
    config = join_federation(
        tmp_path / "cinema.invitation", parent / "cinema", interactions=tmp_path / "views.csv"
    ).config
    KeyFolder(config.parent / "keys").new_secret()
    return config

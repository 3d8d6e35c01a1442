"""A platform's configuration over tiny files."""

from __future__ import annotations

from pathlib import Path

from common.deploy.roles import PlatformConfig


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

"""A privacy officer is told all that will leave before anything does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client.deploy.loading import load_platform_data
from client.deploy.preview import preview_rows, preview_table
from common.deploy.roles import PlatformConfig
from tests.support.platform_files import config


def private(folder: Path, **privacy: Any) -> PlatformConfig:
    return config(folder, plan={"federation": "films", "platforms": 3, "privacy": {"mode": "user"} | privacy})


def rows_of(platform: PlatformConfig) -> list[dict[str, Any]]:
    return preview_rows(platform, load_platform_data(platform))


def noise_of(platform: PlatformConfig) -> dict[str, str]:
    return {row["array"]: row["noise"] for row in rows_of(platform) if row["from_interactions"]}


def test_only_what_is_masked_is_called_masked(tmp_path: Path) -> None:
    """A user Gram matrix leaves open under secure summation, too, and carries all of its noise itself."""
    noise = noise_of(private(tmp_path))
    assert noise["masked"].startswith("a share, and masked")
    assert noise["user_gram"].startswith("all of it")
    assert all(said.startswith("all of it") for said in noise_of(private(tmp_path, noise="per_platform")).values())


def test_without_privacy_every_array_says_that_it_has_no_noise(tmp_path: Path) -> None:
    assert set(noise_of(config(tmp_path)).values()) == {"NONE (privacy.mode: none)"}


@pytest.mark.parametrize("width", [80, 200])
def test_a_narrow_terminal_cuts_nothing_off(tmp_path: Path, width: int) -> None:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(preview_table(rows_of(private(tmp_path))))
    assert "…" not in capture.get()


def test_every_round_is_counted(tmp_path: Path) -> None:
    rows = rows_of(private(tmp_path))
    times = {row["kind"]: row["times"] for row in rows if row["from_interactions"]}
    assert times == {"masked_counts": 1, "masked_statistics": private(tmp_path).plan.server_rounds}

"""Who is shown what, and what came of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from client.versions.experiment import EXPERIMENT_FILE, Experiment, ExperimentFile
from client.versions.outcomes import ShownUsers, newcombe, outcomes, read_shown, wilson
from common.errors import ConfigError

SPLIT = Experiment(kind="split", version=2, share=0.3, since=100, key=bytes(range(32)))


def test_the_split_has_its_share_and_follows_the_user_alone():
    users = [f"user-{number}" for number in range(20_000)]
    drawn = [SPLIT.variant(user) for user in users]
    assert drawn == [SPLIT.variant(user) for user in users]
    share = np.mean([one == "challenger" for one in drawn])
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(users))
    assert SPLIT.variant(" user-1 ") == SPLIT.variant("user-1")
    other = Experiment(kind="split", version=2, share=0.3, since=100, key=bytes(32))
    both = np.mean([SPLIT.variant(one) == other.variant(one) == "challenger" for one in users])
    assert abs(both - 0.09) < 0.01, "another experiment draws anew"


def test_wilsons_interval_is_the_published_one():
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_difference_has_newcombes_published_interval():
    """Newcombe 1998, "Interval estimation for the difference between independent proportions", table II, method 10."""
    for one, other, expected in (((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090))):
        parts = [counted(*pair) for pair in (one, other)]
        found = newcombe(*parts)
        assert found.interval == pytest.approx(expected, abs=1e-4)
        assert found.value == pytest.approx(one[0] / one[1] - other[0] / other[1])


def counted(acted: int, users: int):
    from client.versions.outcomes import Outcome

    return Outcome(
        variant="current", users=users, acted=acted, events=acted, rate=acted / users, interval=wilson(acted, users)
    )


def test_a_user_acts_after_the_first_list_and_counts_once(tmp_path):
    shown = ShownUsers(tmp_path / "shown", SPLIT)
    users = [f"user-{number}" for number in range(40)]
    for at, user in enumerate(users):
        shown.note(user, 1000 + at)
        shown.note(f"{user} ", 9000)
    assert len(read_shown(tmp_path / "shown")) == 40
    challengers = [user for user in users if SPLIT.variant(user) == "challenger"]
    currents = [user for user in users if SPLIT.variant(user) == "current"]
    events = [
        (challengers[0], 5000),
        (challengers[0], 5001),
        (challengers[1], 500),
        (currents[0], 5000),
        ("other", 5000),
    ]
    found, difference = outcomes(SPLIT, read_shown(tmp_path / "shown"), events)
    assert (found["challenger"].users, found["challenger"].acted, found["challenger"].events) == (
        len(challengers),
        1,
        2,
    )
    assert (found["current"].users, found["current"].acted, found["current"].events) == (len(currents), 1, 1)
    assert difference.value == pytest.approx(1 / len(challengers) - 1 / len(currents))
    # Another process goes on where this one was; a torn end does not count.
    with (tmp_path / "shown").open("ab") as file:
        file.write(b"\x01\x02")
    assert len(read_shown(tmp_path / "shown")) == 40
    content = (tmp_path / "shown").read_bytes()
    assert not [user for user in users if user.encode() in content]
    assert (tmp_path / "shown").stat().st_mode & 0o077 == 0


def test_one_experiment_at_a_time_and_what_it_noted_ends_with_it(tmp_path):
    book, running = ExperimentFile(tmp_path, clock=lambda: 5.0), ExperimentFile(tmp_path)
    assert running.current() is None
    made = book.begin("split", 3, 0.2)
    assert running.current() == made
    assert (made.since, made.version, len(made.key)) == (5, 3, 32)
    with pytest.raises(ConfigError, match="going on"):
        book.begin("shadow", 3, 1.0)
    ShownUsers(book.shown_path, made).note("anna", 7)
    assert book.end()
    assert not book.end()
    assert running.current() is None
    assert not book.shown_path.exists()
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="--share"):
            book.begin("split", 3, share)


def test_a_damaged_experiment_shows_everybody_what_serves(tmp_path, caplog):
    book = ExperimentFile(tmp_path)
    made = book.begin("split", 3, 0.2)
    good = json.loads((tmp_path / EXPERIMENT_FILE).read_text())
    for bad in (
        "{",
        json.dumps(good | {"key": "00"}),
        json.dumps(good | {"share": 7}),
        json.dumps(good | {"format": 9}),
    ):
        (tmp_path / EXPERIMENT_FILE).write_text(bad)
        assert ExperimentFile(tmp_path).current() is None
    assert "everybody is shown what serves" in caplog.text
    assert made.key.hex() not in caplog.text
    assert ExperimentFile(tmp_path).end()

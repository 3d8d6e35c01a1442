"""Kits of an older version still open: configurations, invitation, keys, registrations, pins, sealed secret, admissions.

``tests/fixtures/kits-of-96db9a8.tar.gz`` was made by the commands of 96db9a8: an aggregator, a platform that made the secret of
the federation and was admitted, and one that has still to take the secret over.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from client.keys import KeyFolder
from common.config.loader import load_yaml_model
from common.deploy.provisioning import Invitation, Pins, Registration
from common.deploy.roles import AggregatorConfig, PlatformConfig
from server.deploy.admission import AdmissionBook

FIXTURE = Path(__file__).parents[1] / "fixtures" / "kits-of-96db9a8.tar.gz"
NAMES = ("cinema", "club")


@pytest.fixture
def kits(tmp_path: Path) -> Path:
    shutil.unpack_archive(FIXTURE, tmp_path)
    return tmp_path


def registration(kits: Path, name: str) -> Registration:
    return Registration.read(kits / name / f"{name}.registration.json")


def test_both_sides_of_an_old_kit_agree_to_one_plan(kits: Path) -> None:
    aggregator = load_yaml_model(kits / "agg" / "federation.yaml", AggregatorConfig)
    for name in NAMES:
        platform = load_yaml_model(kits / name / "platform.yaml", PlatformConfig)
        invitation = Invitation.read(kits / f"{name}.invitation")
        assert (platform.name, invitation.name) == (name, name)
        assert platform.plan.differences(aggregator.plan) == invitation.plan.differences(aggregator.plan) == []
        assert platform.ca.read_text() == invitation.ca


def test_old_keys_sign_and_old_pins_are_of_them(kits: Path) -> None:
    for name, other in (NAMES, NAMES[::-1]):
        platform = load_yaml_model(kits / name / "platform.yaml", PlatformConfig)
        assert Pins(kits / name / "pins.json").all() == {other: registration(kits, other)}
        registration(kits, name).check()
        assert KeyFolder(platform.keys).identity().public.hex() == registration(kits, name).identity


def test_an_old_sealed_secret_is_taken_over(kits: Path) -> None:
    own, pinned = registration(kits, "club"), Pins(kits / "club" / "pins.json").all()
    taken = KeyFolder(kits / "club" / "keys").open_secret(kits / "club.sealed", own, pinned)
    assert taken.fingerprint == KeyFolder(kits / "cinema" / "keys").secret().fingerprint


def test_an_old_admission_stands(kits: Path) -> None:
    entries, damaged = AdmissionBook(kits / "agg" / "platforms").read()
    assert {name: entry.registration for name, entry in entries.items()} == {"cinema": registration(kits, "cinema")}
    assert damaged == {}


def test_the_data_of_an_old_configuration_are_found(kits: Path) -> None:
    config = load_yaml_model(kits / "cinema" / "platform.yaml", PlatformConfig)
    assert config.data.interactions.path == kits / "cinema" / ".." / "views.csv"
    assert config.data.interactions.path.is_file()

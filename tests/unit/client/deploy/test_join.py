"""Joining a federation: keys of one's own, and a secret that passes between platforms and nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from client.deploy.join import JoinedPlatform, join_federation
from client.keys import KeyFolder, SealedSecret
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.provisioning import Invitation, Pins, Registration
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.deploy.tls import make_authority
from common.errors import ConfigError
from server.deploy.provisioning import initialise, invite

PLAN = read_plan({"federation": "films", "platforms": 3, "privacy": {"epsilon": 1.0}})


@dataclass
class World:
    folder: Path
    joined: dict[str, JoinedPlatform]

    def keys(self, name: str) -> KeyFolder:
        return KeyFolder(self.folder / name / "keys")

    def registration(self, name: str) -> Registration:
        return self.joined[name].registration

    def pinned(self, name: str) -> dict[str, Registration]:
        return {other: joined.registration for other, joined in self.joined.items() if other != name}


@pytest.fixture
def world(tmp_path: Path) -> World:
    config = load_yaml_model(initialise(tmp_path / "agg", PLAN, "h.example.org:9443").config, AggregatorConfig)
    (tmp_path / "views.csv").write_text("user_id,item_id\nu,1\n")
    (tmp_path / "films.csv").write_text("item_id,title\n1,One\n")
    joined = {}
    for name in ("cinema", "club", "forum"):
        invite(config, name, tmp_path / f"{name}.invitation")
        joined[name] = join(tmp_path, name)
    return World(tmp_path, joined)


def join(folder: Path, name: str) -> JoinedPlatform:
    return join_federation(
        folder / f"{name}.invitation",
        folder / name,
        interactions=folder / "views.csv",
        items=folder / "films.csv",
        namespace="imdb",
    )


def test_joining_writes_a_configuration_that_agrees_to_the_plan(world: World) -> None:
    config = load_yaml_model(world.joined["cinema"].config, PlatformConfig)
    assert config.name == "cinema"
    assert config.plan.differences(PLAN) == []
    text = world.joined["cinema"].config.read_text()
    assert "  privacy:\n    mode: user\n    epsilon: 1.0\n" in text
    assert "# What users are promised" in text
    assert config.ca.read_text() == Invitation.read(world.folder / "cinema.invitation").ca


def test_joining_a_plan_of_ratings_writes_that_the_values_are_ratings(tmp_path: Path) -> None:
    plan = read_plan({"model": {"feedback": "explicit"}, "privacy": {"mode": "none"}})
    config = load_yaml_model(initialise(tmp_path / "agg", plan, "h.example.org:9443").config, AggregatorConfig)
    (tmp_path / "views.csv").write_text("user_id,item_id,rating\nu,1,4\n")
    (tmp_path / "films.csv").write_text("item_id,title\n1,One\n")
    invite(config, "cinema", tmp_path / "cinema.invitation")
    assert load_yaml_model(join(tmp_path, "cinema").config, PlatformConfig).data.feedback == "explicit"


def test_all_that_joining_makes_is_private(world: World) -> None:
    assert world.folder.joinpath("cinema").stat().st_mode & 0o077 == 0
    for path in [*(world.folder / "cinema/keys").iterdir(), world.folder / "cinema/courier/node.key"]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_registration_holds_public_keys_alone(world: World) -> None:
    text = world.joined["cinema"].registration_file.read_text()
    assert "PRIVATE" not in text
    assert (world.folder / "cinema/keys/api.token").read_text().strip() not in text


def test_joining_again_keeps_keys_and_configuration(world: World) -> None:
    first = world.joined["cinema"]
    first.config.write_text(first.config.read_text() + "\nseed: 5\n")
    again = join(world.folder, "cinema")
    assert again.registration.identity == first.registration.identity
    assert again.registration.node_key == first.registration.node_key
    assert load_yaml_model(again.config, PlatformConfig).seed == 5


def test_joining_again_names_what_had_no_effect(world: World) -> None:
    first = world.joined["cinema"]
    before = first.config.read_bytes()
    (world.folder / "other.csv").write_text("user_id,item_id\nv,2\n")
    other = world.folder / "other.csv"
    same = join(world.folder, "cinema")
    assert (first.kept, same.kept, same.notes) == (False, True, ())
    invitation, home = world.folder / "cinema.invitation", world.folder / "cinema"
    changed = {"interactions": other, "items": other, "namespace": "tmdb", "ports": (9999, 50061)}
    notes = "\n".join(join_federation(invitation, home, **changed).notes)  # type: ignore[arg-type]
    for part in ("--interactions", "data.interactions.path is", "--items", "--namespace tmdb", "--supernode-port 9999"):
        assert part in notes
    assert "--recommender-port" not in notes
    assert first.config.read_bytes() == before
    assert join_federation(invitation, home).notes == ()


def test_the_command_says_what_it_kept(world: World) -> None:
    from typer.testing import CliRunner

    from client.cli.main import app

    arguments = ["join", str(world.folder / "cinema.invitation"), str(world.folder / "cinema"), "--namespace", "tmdb"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "was there, and is kept as it is" in done.output
    assert "note: --namespace tmdb had no effect: data.items.namespace is imdb" in done.output
    assert "read it, above all the plan" not in done.output


def test_another_plan_or_aggregator_of_an_invitation_is_named(world: World) -> None:
    path = world.folder / "cinema.invitation"
    changed = Invitation.read(path)
    plan = changed.plan.model_copy(update={"rounds": 7})
    changed.model_copy(update={"plan": plan, "aggregator": "other.example.org:1"}).write(path)
    notes = "\n".join(join(world.folder, "cinema").notes)
    assert "plan.rounds differ" in notes
    assert "other.example.org:1 had no effect" in notes


def test_a_folder_of_another_platform_or_federation_is_left_alone(world: World) -> None:
    home = world.folder / "cinema"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="is of platform 'cinema'"):
        join_federation(world.folder / "club.invitation", home)
    path = world.folder / "cinema.invitation"
    invitation = Invitation.read(path)
    invitation.model_copy(update={"plan": invitation.plan.model_copy(update={"federation": "music"})}).write(path)
    with pytest.raises(ConfigError, match="is of federation 'films'"):
        join(world.folder, "cinema")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_a_configuration_that_cannot_be_read_stops_a_second_join(world: World) -> None:
    world.joined["cinema"].config.write_text("name: [\n")
    with pytest.raises(ConfigError, match=r"platform\.yaml"):
        join(world.folder, "cinema")


def test_a_first_join_needs_interactions(world: World) -> None:
    with pytest.raises(ConfigError, match="--interactions: needed"):
        join_federation(world.folder / "cinema.invitation", world.folder / "new")
    assert not (world.folder / "new").exists()


def test_a_second_authority_in_the_file_stays_trusted(world: World) -> None:
    file = world.folder / "cinema/courier/ca.pem"
    both = file.read_text() + make_authority("films").certificate.decode()
    file.write_text(both)
    assert join(world.folder, "cinema").notes == ()
    assert file.read_text() == both
    file.write_text(make_authority("films").certificate.decode())
    (note,) = join(world.folder, "cinema").notes
    assert "another authority" in note
    assert file.read_text() == Invitation.read(world.folder / "cinema.invitation").ca


def test_an_invitation_of_an_expired_authority_is_refused(world: World) -> None:
    path = world.folder / "cinema.invitation"
    stale = make_authority("films", days=-1).certificate.decode()
    Invitation.read(path).model_copy(update={"ca": stale}).write(path)
    with pytest.raises(ConfigError, match="expired"):
        join(world.folder, "cinema")


def test_the_secret_passes_from_platform_to_platform(world: World) -> None:
    made = world.keys("cinema").new_secret()
    sealed = world.folder / "club.sealed"
    sealed.write_bytes(world.keys("cinema").seal_secret(world.registration("cinema"), world.registration("club")))
    taken = world.keys("club").open_secret(sealed, world.registration("club"), world.pinned("club"))
    assert taken.fingerprint == made.fingerprint
    assert world.keys("club").secret_path.read_bytes() == world.keys("cinema").secret_path.read_bytes()


def test_a_sealed_secret_says_nothing_of_the_secret(world: World) -> None:
    world.keys("cinema").new_secret()
    sealed = world.keys("cinema").seal_secret(world.registration("cinema"), world.registration("club"))
    assert world.keys("cinema").secret_path.read_bytes().hex().encode() not in sealed
    again = world.keys("cinema").seal_secret(world.registration("cinema"), world.registration("club"))
    assert SealedSecret.model_validate_json(again).box != SealedSecret.model_validate_json(sealed).box


def test_nobody_else_can_open_it_even_by_changing_the_name(world: World) -> None:
    world.keys("cinema").new_secret()
    text = world.keys("cinema").seal_secret(world.registration("cinema"), world.registration("club"))
    path = world.folder / "stolen.sealed"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="is for 'club'"):
        world.keys("forum").open_secret(path, world.registration("forum"), world.pinned("forum"))
    path.write_bytes(text.replace(b'"club"', b'"forum"'))
    with pytest.raises(ConfigError, match="not signed"):
        world.keys("forum").open_secret(path, world.registration("forum"), world.pinned("forum"))
    assert not world.keys("forum").secret_path.exists()


def test_a_secret_of_an_impostor_is_refused(world: World) -> None:
    """The aggregator seals a secret of its own and claims that it comes from a platform."""
    world.keys("forum").new_secret()
    posing = world.registration("forum").model_copy(update={"name": "cinema"})
    path = world.folder / "club.sealed"
    path.write_bytes(world.keys("forum").seal_secret(posing, world.registration("club")))
    with pytest.raises(ConfigError, match="not signed by the pinned key of 'cinema'"):
        world.keys("club").open_secret(path, world.registration("club"), world.pinned("club"))


def test_a_secret_of_a_platform_that_is_not_pinned_is_refused(world: World) -> None:
    world.keys("cinema").new_secret()
    path = world.folder / "club.sealed"
    path.write_bytes(world.keys("cinema").seal_secret(world.registration("cinema"), world.registration("club")))
    with pytest.raises(ConfigError, match="not pinned"):
        world.keys("club").open_secret(path, world.registration("club"), {})


@pytest.mark.parametrize("field", ["ephemeral", "box", "signature"])
def test_an_altered_sealed_secret_is_refused(world: World, field: str) -> None:
    world.keys("cinema").new_secret()
    sealed = SealedSecret.model_validate_json(
        world.keys("cinema").seal_secret(world.registration("cinema"), world.registration("club"))
    )
    value = getattr(sealed, field)
    flipped = ("0" if value[0] != "0" else "1") + value[1:]
    path = world.folder / "club.sealed"
    path.write_text(sealed.model_copy(update={field: flipped}).model_dump_json())
    with pytest.raises(ConfigError):
        world.keys("club").open_secret(path, world.registration("club"), world.pinned("club"))


def test_another_secret_does_not_replace_the_one_in_use(world: World) -> None:
    world.keys("cinema").new_secret()
    with pytest.raises(ConfigError, match="another federation secret already"):
        world.keys("cinema").new_secret()


def test_a_key_that_others_may_read_is_refused(world: World) -> None:
    world.keys("cinema").new_secret()
    world.keys("cinema").secret_path.chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        world.keys("cinema").secret()


def test_pins_need_another_platform_of_the_same_federation(world: World) -> None:
    from typer.testing import CliRunner

    from client.cli.main import app

    own = world.joined["cinema"]
    theirs = world.joined["club"]
    config = ["--config", str(own.config), "--fingerprint"]
    refused = CliRunner().invoke(app, ["pin", str(own.registration_file), *config, own.registration.fingerprint])
    assert isinstance(refused.exception, ConfigError)
    taken = CliRunner().invoke(app, ["pin", str(theirs.registration_file), *config, theirs.registration.fingerprint])
    assert taken.exit_code == 0, taken.output
    assert set(Pins(world.folder / "cinema/pins.json").all()) == {"club"}

"""Setting a federation up, command by command as its operators type them, and what a malicious aggregator gains: nothing.

The walk counts what people do: commands, files that are carried between organisations, and fingerprints that somebody
compares with what was heard. docs/deploy.md states the numbers.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.main import app as client
from client.deploy.loading import load_training_data, make_agent
from client.deploy.rehearsal import steps_left as platform_steps
from client.deploy.sign import SealedSecrets, look_at_roster, sign_roster
from client.keys import KeyFolder, make_keys, registration_of
from common.agreement.federation_roster import FederationRoster, replace_plan
from common.config.loader import load_yaml_model
from common.deploy.provisioning import Pins
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.errors import ConfigError
from server.cli import app as server
from server.deploy.admission import AdmissionBook
from server.deploy.roster import steps_left as aggregator_steps

ROOT = Path(__file__).parents[2]
NAMES = ("cinema", "club", "forum", "kiosk", "library", "museum", "radio", "school", "studio", "theatre")


@dataclass
class Walk:
    """One federation being set up: each role in a folder of its own, files carried by hand."""

    folder: Path
    names: tuple[str, ...]
    commands: int = 0
    carried: int = 0
    compared: int = 0
    fingerprint: str = ""
    said: list[str] = field(default_factory=list)

    def config(self, name: str) -> Path:
        return self.folder / name / "platform.yaml"

    @property
    def aggregator(self) -> Path:
        return self.folder / "fed" / "federation.yaml"

    def run(self, app: object, *words: object, compare: bool = False, fails: bool = False) -> str:
        """One command; ``compare``: somebody compares a fingerprint that was heard in it."""
        self.commands += 1
        self.compared += compare
        result = CliRunner().invoke(app, [str(word) for word in words])  # type: ignore[arg-type]
        assert (result.exit_code != 0) == fails, f"{words}: {result.output} {result.exception}"
        return result.output if not fails else str(result.exception)

    def carry(self, path: Path, to: str) -> Path:
        """Take a file to another organisation."""
        self.carried += 1
        target = self.folder / f"at-{to}" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
        return target

    def joined(self, *settings: str) -> None:
        """Invitation out, registrations back."""
        extra = [word for setting in settings for word in ("--set", setting)]
        self.run(
            server, "init", self.folder / "fed", "--address", "h.example.org:9443", "--federation", "films",
            "--platforms", len(self.names), *extra,
        )  # fmt: skip
        for name in self.names:
            self.join(name)

    def join(self, name: str) -> Path:
        (self.folder / f"{name}.csv").write_text("user_id,item_id\n1,2\n2,3\n")
        (self.folder / f"{name}-items.csv").write_text("item_id\n2\n3\n")
        kit = self.carry(self.folder / "fed" / "films.invitation", name)
        self.run(
            client, "join", kit, self.folder / name, "--name", name,
            "--interactions", self.folder / f"{name}.csv", "--items", self.folder / f"{name}-items.csv",
        )  # fmt: skip
        return self.carry(self.folder / name / f"{name}.registration.json", "aggregator")

    def registrations(self) -> list[Path]:
        return [self.folder / "at-aggregator" / f"{name}.registration.json" for name in self.names]

    def agreed(self) -> None:
        """Roster out, one fingerprint compared by all, the secret from its keeper."""
        self.run(server, "roster", *self.registrations(), "-c", self.aggregator)
        roster = self.folder / "fed" / "films.roster"
        self.fingerprint = FederationRoster.read(roster).fingerprint
        keeper, *others = self.names
        self.run(
            client, "sign", self.carry(roster, keeper), "-c", self.config(keeper), "--fingerprint", self.fingerprint,
            "--yes", compare=True,
        )  # fmt: skip
        for name in others:
            secrets = self.carry(self.folder / keeper / "films.secrets", name)
            self.run(
                client, "sign", self.carry(roster, name), "-c", self.config(name), "--fingerprint", self.fingerprint,
                "--secrets", secrets, "--yes", compare=True,
            )  # fmt: skip
        self.run(server, "admit", roster, "-c", self.aggregator, "--fingerprint", self.fingerprint, compare=True)


def walked(folder: Path, count: int = 3) -> Walk:
    walk = Walk(folder, NAMES[:count])
    walk.joined()
    walk.agreed()
    return walk


def walked_pairwise(folder: Path, count: int) -> Walk:
    """The older road, which stays: invitations, pins and sealed secrets one by one."""
    walk = Walk(folder, NAMES[:count])
    walk.run(
        server, "init", folder / "fed", "--address", "h.example.org:9443", "--federation", "films", "--platforms", count
    )
    for name in walk.names:
        (folder / f"{name}.csv").write_text("user_id,item_id\n1,2\n")
        (folder / f"{name}-items.csv").write_text("item_id\n2\n")
        walk.run(server, "invite", name, "-c", walk.aggregator, "-o", folder / f"{name}.invitation")
        walk.run(
            client, "join", walk.carry(folder / f"{name}.invitation", name), folder / name,
            "--interactions", folder / f"{name}.csv", "--items", folder / f"{name}-items.csv",
        )  # fmt: skip
    heard = {}
    for name in walk.names:
        config = load_yaml_model(walk.config(name), PlatformConfig)
        heard[name] = registration_of(name, "films", KeyFolder(config.keys), config.supernode.private_key).fingerprint
        sent = walk.carry(folder / name / f"{name}.registration.json", "aggregator")
        walk.run(server, "admit", sent, "-c", walk.aggregator, "--fingerprint", heard[name], compare=True)
    for name in walk.names:
        for other in walk.names:
            if other != name:
                sent = walk.carry(folder / other / f"{other}.registration.json", name)
                walk.run(client, "pin", sent, "-c", walk.config(name), "--fingerprint", heard[other], compare=True)
    keeper, *others = walk.names
    walk.run(client, "secret", "new", "-c", walk.config(keeper))
    for name in others:
        walk.run(client, "secret", "seal", name, "-c", walk.config(keeper), "-o", folder / f"{name}.sealed")
        walk.run(client, "secret", "import", walk.carry(folder / f"{name}.sealed", name), "-c", walk.config(name))
    return walk


@pytest.mark.parametrize("count", [3, 10])
def test_the_steps_are_as_many_as_the_page_says(tmp_path: Path, count: int) -> None:
    walk = walked(tmp_path, count)
    assert (walk.commands, walk.carried, walk.compared) == (3 + 2 * count, 4 * count - 1, count + 1)
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    before = (
        1 + 3 * count + count * (count - 1) + 1 + 2 * (count - 1) - 0,
        count + count + count * (count - 1) + count - 1,
    )
    row = f"| {count} | {before[0]} → {walk.commands} | {before[1]} → {walk.carried} | {count * count} → {walk.compared} |"
    assert row in page
    secrets = {KeyFolder(tmp_path / name / "keys").secret().fingerprint for name in walk.names}
    assert len(secrets) == 1
    for name in walk.names:
        assert Pins(tmp_path / name / "pins.json").all().keys() == set(walk.names) - {name}
    assert set(AdmissionBook(tmp_path / "fed" / "platforms").all()) == set(walk.names)


def test_the_older_road_takes_what_the_page_says_and_still_works(tmp_path: Path) -> None:
    walk = walked_pairwise(tmp_path, 3)
    assert (walk.commands, walk.carried, walk.compared) == (21, 14, 9)
    config = load_yaml_model(walk.config("club"), PlatformConfig)
    assert Pins(config.pins).all().keys() == {"cinema", "forum"}


def test_agents_can_be_made_of_what_was_signed(tmp_path: Path) -> None:
    walk = walked(tmp_path)
    for name in walk.names:
        config = load_yaml_model(walk.config(name), PlatformConfig)
        assert config.plan.secure_sum
        make_agent(config, load_training_data(config))


def swapped(walk: Walk, victim: str, folder: Path) -> FederationRoster:
    """The true roster with the victim's keys exchanged for the aggregator's own."""
    true = FederationRoster.read(walk.folder / "fed" / "films.roster")
    keys = KeyFolder(folder / "keys")
    make_keys(keys, folder / "node.key")
    false = registration_of(victim, "films", keys, folder / "node.key")
    others = [registration for registration in true.platforms if registration.name != victim]
    return FederationRoster(plan=true.plan, platforms=(*others, false))


def test_a_key_exchanged_for_all_is_seen_by_its_owner(tmp_path: Path) -> None:
    walk = Walk(tmp_path, NAMES[:3])
    walk.joined()
    walk.run(server, "roster", *walk.registrations(), "-c", walk.aggregator)
    path = tmp_path / "false.roster"
    swapped(walk, "club", tmp_path / "false").write(path)
    with pytest.raises(ConfigError, match="EXCHANGED"):
        look_at_roster(path, walk.config("club"))
    assert not (tmp_path / "club" / "pins.json").exists()


def test_a_key_exchanged_for_one_platform_fails_the_comparison(tmp_path: Path) -> None:
    walk = Walk(tmp_path, NAMES[:3])
    walk.joined()
    walk.run(server, "roster", *walk.registrations(), "-c", walk.aggregator)
    true = FederationRoster.read(tmp_path / "fed" / "films.roster")
    false, path = swapped(walk, "club", tmp_path / "false"), tmp_path / "false.roster"
    false.write(path)
    view = look_at_roster(path, walk.config("cinema"))
    assert view.roster.fingerprint != true.fingerprint
    # Cinema has the false one; club, whose keys it lies about, reads out the true one's.
    with pytest.raises(ConfigError, match="different"):
        sign_roster(view, true.fingerprint)
    assert not (tmp_path / "cinema" / "pins.json").exists()
    assert not (tmp_path / "cinema" / "keys" / "federation.secret").exists()
    assert not (tmp_path / "cinema" / "films.secrets").exists()


def test_every_part_of_a_roster_is_in_its_fingerprint(tmp_path: Path) -> None:
    walk = walked(tmp_path)
    roster = FederationRoster.read(tmp_path / "fed" / "films.roster")
    seen = {roster.fingerprint}
    for change in (
        {"plan": roster.plan.model_copy(update={"seed": 1})},
        {"platforms": roster.platforms[:2]},
        *({"platforms": swapped(walk, name, tmp_path / f"x-{name}").platforms} for name in walk.names),
    ):
        seen.add(roster.model_copy(update=change).fingerprint)
    assert len(seen) == 6
    turned = FederationRoster(plan=roster.plan, platforms=roster.platforms[::-1])
    assert turned.fingerprint == roster.fingerprint, "the order in which files were named is no part of it"


def test_no_secret_is_made_or_taken_before_the_comparison(tmp_path: Path) -> None:
    walk = walked(tmp_path)
    path = tmp_path / "cinema" / "films.secrets"
    sealed = SealedSecrets.model_validate_json(path.read_text())
    false = swapped(walk, "cinema", tmp_path / "false")
    for changed, match in (
        (sealed.model_copy(update={"roster": false.fingerprint}), "another roster"),
        (sealed.model_copy(update={"sealed": sealed.sealed[1:]}), "holds nothing"),
        (sealed.model_copy(update={"sealed": (sealed.sealed[0].model_copy(update={"box": "00" * 48}),)}), "not signed"),
    ):
        path.write_text(changed.model_dump_json())
        view = look_at_roster(tmp_path / "fed" / "films.roster", walk.config("club"))
        with pytest.raises(ConfigError, match=match):
            sign_roster(view, walk.fingerprint, secrets=path)


def test_a_platform_more_and_another_plan_go_the_same_way(tmp_path: Path) -> None:
    walk = walked(tmp_path)
    secret = KeyFolder(tmp_path / "cinema" / "keys").secret().fingerprint
    config = tmp_path / "club" / "platform.yaml"
    config.write_text(config.read_text().replace("name: club", "name: club\n# a comment of club's own\nseed: 5"))
    walk.run(server, "plan", "set", "platforms=4", "min_platforms=4", "privacy.epsilon=2", "-c", walk.aggregator)
    walk.run(server, "roster", "-c", walk.aggregator, fails=True)
    walk.names = NAMES[:4]
    walk.join("kiosk")
    walk.agreed()
    for name in walk.names:
        found = load_yaml_model(walk.config(name), PlatformConfig)
        assert (found.plan.platforms, found.plan.privacy.epsilon) == (4, 2.0)
        assert KeyFolder(found.keys).secret().fingerprint == secret
    assert "# a comment of club's own\nseed: 5" in config.read_text()
    assert load_yaml_model(walk.aggregator, AggregatorConfig).plan.platforms == 4


def test_a_plan_is_not_taken_unseen(tmp_path: Path) -> None:
    walk = walked(tmp_path)
    walk.run(server, "plan", "set", "privacy.epsilon=9", "-c", walk.aggregator)
    walk.run(server, "roster", "-c", walk.aggregator)
    roster = tmp_path / "fed" / "films.roster"
    told = FederationRoster.read(roster).fingerprint
    arguments = ["sign", str(roster), "-c", str(walk.config("club")), "--fingerprint", told]
    result = CliRunner().invoke(client, arguments, input="n\n")
    assert result.exit_code != 0
    assert "plan.privacy.epsilon: 3.0 becomes 9.0" in result.output
    assert load_yaml_model(walk.config("club"), PlatformConfig).plan.privacy.epsilon == 3.0


def test_a_key_that_changed_since_it_was_pinned_is_refused(tmp_path: Path) -> None:
    walk = walked(tmp_path)
    path = tmp_path / "false.roster"
    false = swapped(walk, "forum", tmp_path / "false")
    false.write(path)
    with pytest.raises(ConfigError, match="unpin"):
        sign_roster(look_at_roster(path, walk.config("club")), false.fingerprint)


def test_rehearsals_say_what_is_missing_and_who_must_do_it(tmp_path: Path) -> None:
    walk = Walk(tmp_path, NAMES[:3])
    walk.joined()
    left = [step for step in aggregator_steps(walk.aggregator) if not step.done]
    assert left[0].who == "3 more platforms"
    result = CliRunner().invoke(client, ["rehearse", "-c", str(walk.config("club"))])
    assert result.exit_code == 1
    assert "next: the aggregator sends the roster, then you" in result.output
    walk.agreed()
    left = [step for step in aggregator_steps(walk.aggregator) if not step.done]
    assert [(step.done, step.who) for step in left] == [
        (False, "the aggregator"),
        *((None, name) for name in walk.names),
    ]
    assert left[0].how == "crossfed-server start"
    left = [step for step in platform_steps(walk.config("club")) if step.done is False]
    assert [step.what for step in left] == ["the aggregator answers"]
    result = CliRunner().invoke(server, ["rehearse", "-c", str(walk.aggregator)])
    assert result.exit_code == 1
    assert "next: the aggregator: crossfed-server start" in result.output


def test_a_plan_section_is_replaced_and_nothing_else() -> None:
    text = "# top\nname: a\nplan:\n  rounds: 3\n\n  # inside\n  seed: 1\n# after\ndata: {}\n"
    assert replace_plan(text, "plan:\n  rounds: 4\n") == "# top\nname: a\nplan:\n  rounds: 4\n# after\ndata: {}\n"
    with pytest.raises(ConfigError, match="by hand"):
        replace_plan("plan: {rounds: 3}\n", "plan:\n")

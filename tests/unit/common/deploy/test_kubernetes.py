"""The manifests in ``deploy/kubernetes``: valid by Kubernetes' own schema, contained, and of commands that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from client.cli.main import app as client_app
from server.cli import app as server_app
from tests.support.dashboards import DEPLOY

FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VERSIONS = ("1.29", "1.33")  # ReadWriteOncePod is stable since 1.29


def documents(kind: str | None = None) -> Iterator[dict[str, Any]]:
    for path in FILES:
        for document in yaml.safe_load_all(path.read_text()):
            if kind in (None, document["kind"]):
                yield document


def pods() -> list[dict[str, Any]]:
    return [document["spec"]["template"]["spec"] for document in documents("StatefulSet")]


def containers() -> list[dict[str, Any]]:
    return [container for pod in pods() for container in pod["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_and_hold_no_unknown_field(version: str) -> None:
    assert len(list(documents())) == 10
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)
    broken = next(documents("StatefulSet"))
    broken["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_containers_have_no_privilege_and_no_account() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_users_are_those_of_the_images() -> None:
    made = {
        int(uid)
        for role in ("aggregator", "platform")
        for uid in re.findall(r"--uid (\d+)", (DEPLOY / role / "Dockerfile").read_text())
    }
    run = {
        container["securityContext"].get("runAsUser", pod["securityContext"].get("runAsUser"))
        for pod in pods()
        for container in pod["containers"]
    }
    assert run == made


def test_commands_and_probes_are_commands_that_exist() -> None:
    apps = {"crossfed-client": client_app, "crossfed-server": server_app}
    for container in containers():
        program = "crossfed-server" if container["name"] == "aggregator" else "crossfed-client"
        asked = [
            container["args"],
            *(probe["exec"]["command"][1:] for name, probe in container.items() if "Probe" in name),
        ]
        for command in asked:
            options = [word for word in command[1:] if word.startswith("--")]
            shown = CliRunner().invoke(apps[program], [command[0], "--help"], env={"COLUMNS": "200"}).output
            assert options
            assert all(option in shown for option in options), command


def test_the_courier_mounts_no_data_no_keys_and_no_state() -> None:
    mounts = {each["name"]: {mount["name"] for mount in each["volumeMounts"]} for each in containers()}
    assert mounts["agent"] & mounts["courier"] == {"socket"}
    assert "data" not in mounts["courier"]


def test_one_of_each_runs_and_nothing_else_is_called() -> None:
    assert all(document["spec"]["replicas"] == 1 for document in documents("StatefulSet"))
    policies = {document["metadata"]["name"]: document["spec"] for document in documents("NetworkPolicy")}
    assert policies["aggregator"]["egress"] == []
    ports = {port["port"] for rule in policies["platform"]["egress"] for port in rule["ports"]}
    assert ports == {53, 9443}

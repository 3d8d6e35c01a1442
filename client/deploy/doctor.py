"""``crossfed-client doctor``: whether this host can be a platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from client.deploy.launcher import refused_app
from client.deploy.loading import load_platform_data, text_encoder, unusable_run_files
from client.keys import KeyFolder, registration_of
from client.person.erasure import Erasures
from client.personalization.model_builder import read_outcome
from client.personalization.store import PlatformStore
from client.privacy.declared_users import check_declared_users, declaration_problem
from client.privacy.ledger import LEDGER_FILE
from client.privacy.report import privacy_dict, verify_logs
from client.sharding.looking import examine_cluster
from client.sharding.platform import catalogue_of, open_shards
from client.training.factory import make_kernels, make_row_kernels
from common.config.loader import load_yaml_model
from common.deploy.app_bundle import installed_app_digest
from common.deploy.doctor import (
    Finding,
    check_aggregator,
    check_certificate,
    check_cudnn,
    check_devices,
    check_disk,
    check_port,
    check_private,
    check_python,
    check_spending,
    check_time_zone,
)
from common.deploy.provisioning import Pins
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, CrossfedError, DataError, NewerStoreError, StoreError
from common.privacy.lifetime import budget_policy, runs_paid

_PACKAGES = ("crossfed", "flwr", "grpcio", "numpy", "polars", "tensorflow", "keras", "opacus", "torch")


def examine(config_path: Path, *, devices: bool = True) -> Iterator[Finding]:
    """Look at everything that a platform needs; each finding as it is made.

    Args:
        config_path: of ``platform.yaml``.
        devices: whether to start TensorFlow to see its devices (some seconds).
    """
    yield from check_python(_PACKAGES)
    yield check_cudnn()
    if devices:
        yield check_devices()
    yield check_time_zone()
    try:
        config = load_yaml_model(config_path, PlatformConfig)
    except ConfigError as error:
        yield Finding("wrong", "configuration", str(error))
        return
    yield Finding("ok", "configuration", str(config_path))
    if devices:
        yield check_kernels_of(config)
    keys = KeyFolder(config.keys)
    for path in (keys.identity_path, keys.sealing_path, keys.secret_path, config.supernode.private_key):
        yield check_private(path)
    yield _keys(config)
    yield _secret(keys)
    yield _pins(config)
    yield _run_files(config)
    yield check_certificate(config.ca)
    yield check_disk(config.state)
    yield check_port("127.0.0.1", config.supernode.port, "SuperNode's runtime API")
    if config.recommender.enabled:
        yield check_port(config.recommender.host, config.recommender.port, "recommender")
        if config.recommender.http is not None:
            yield check_port(config.recommender.host, config.recommender.http.port, "recommender over HTTP")
    yield refused_app(config.supernode) or Finding("ok", "courier's app", f"runs {installed_app_digest()} alone")
    yield _separation(config)
    yield _data(config)
    if config.training.engine == "ray":
        yield from _cluster(config)
    yield from check_text_encoder(config)
    yield _logs(config)
    yield _budget(config)
    yield from check_spending(config.plan)
    yield _persons(config)
    yield from check_store(PlatformStore(config.state / "store"))
    yield check_build(config.state / "store")
    yield from check_aggregator(config.aggregator, config.ca)


def check_kernels_of(config: PlatformConfig) -> Finding:
    """Return what solves users on this host, after a trial of it."""
    plan = config.plan
    try:
        kernels = make_row_kernels(plan.training) if plan.private else make_kernels(plan.training)
    except ConfigError as error:
        return Finding("wrong", "training", str(error))
    return Finding("ok", "training", f"users are solved by the {kernels.name} kernels")


def _persons(config: PlatformConfig) -> Finding:
    """Whether all that persons asked for is complete."""
    left = len(Erasures(config).unfinished())
    if left:
        return Finding("wrong", "erasures", f"{left} not complete: crossfed-client person resume")
    return Finding("ok", "erasures", "none is unfinished")


def _keys(config: PlatformConfig) -> Finding:
    """That each key is one: a file that was cut short is private, too."""
    try:
        keys = KeyFolder(config.keys)
        made = registration_of(config.name, config.plan.federation, keys, config.supernode.private_key)
    except CrossfedError as error:
        return Finding("wrong", "keys", str(error))
    return Finding("ok", "keys", f"fingerprint {made.fingerprint}")


def _secret(keys: KeyFolder) -> Finding:
    try:
        return Finding("ok", "federation secret", f"fingerprint {keys.secret().fingerprint}; the same on all platforms")
    except CrossfedError as error:
        return Finding("wrong", "federation secret", str(error))


def _pins(config: PlatformConfig) -> Finding:
    try:
        pinned = sorted(Pins(config.pins).all())
    except CrossfedError as error:
        return Finding("wrong", "pinned platforms", str(error))
    secure = config.plan.secure_sum
    enough = not secure or len(pinned) >= (config.plan.platforms or 0) - 1
    mend = "" if enough else "; crossfed-client sign ROSTER pins the others, or crossfed-client pin one by one"
    return Finding("ok" if enough else "wrong", "pinned platforms", (", ".join(pinned) or "none") + mend)


def _run_files(config: PlatformConfig) -> Finding:
    try:
        problems = unusable_run_files(config)
    except CrossfedError as error:
        problems = [str(error)]
    return Finding(
        "wrong" if problems else "ok", "files of the run under way", "; ".join(problems) or "usable, or none"
    )


def check_text_encoder(config: PlatformConfig) -> Iterator[Finding]:
    """That the plan's text encoder is here, with the weights that the platforms agreed on; nothing where there is none."""
    try:
        encoder = text_encoder(config)
    except CrossfedError as error:
        yield Finding("wrong", "text encoder", str(error))
        return
    if encoder is not None:
        yield Finding("ok", "text encoder", f"{encoder.name}, weights {encoder.digest[:16]}…, as the plan says")


def _logs(config: PlatformConfig) -> Finding:
    if not (config.state / LEDGER_FILE).exists():
        return Finding("ok", "ledger and journal", "none yet; the first run makes them")
    try:
        checked = verify_logs(config.state)
    except CrossfedError as error:
        return Finding("wrong", "ledger and journal", str(error))
    return Finding(
        "ok",
        "ledger and journal",
        f"{checked['ledger_entries']} and {checked['journal_entries']} entries, each as it was written",
    )


def _separation(config: PlatformConfig) -> Finding:
    if config.socket.group is None:
        return Finding(
            "note", "courier", "runs as the agent's user, and could read its files; set socket.group to separate"
        )
    return Finding("ok", "courier", f"reaches the agent through group {config.socket.group}")


def _data(config: PlatformConfig) -> Finding:
    try:
        data = load_platform_data(config)
    except CrossfedError as error:
        return Finding("wrong", "data", str(error))
    report = data.report
    if config.catalogue.share != "none":
        try:
            check_declared_users(config.declared_users, config.plan)
        except CrossfedError as error:
            return Finding("wrong", "data", str(error))
        problem = declaration_problem(config.declared_users, report.users, config.plan)
        if problem is not None:
            return Finding("wrong", "data", problem)
    return Finding("ok" if report.warning is None else "note", "data", report.render())


def _cluster(config: PlatformConfig) -> Iterator[Finding]:
    try:
        users = open_shards(config, catalogue_of(config).items)
    except DataError:
        users = None  # told with the data
    yield from examine_cluster(config.training, config.plan, users)


def check_build(store: Path) -> Finding:
    """Return what became of the last finished run: nobody but the operator is told."""
    outcome = read_outcome(store)
    match outcome.state:
        case "failed":
            said = f"of run {outcome.run_id} could not be built ({outcome.error}); the one before serves"
            return Finding("wrong", "own model", f"{said}. Mend it and start the agent again: it is built then")
        case "waiting" | "building":
            return Finding("note", "own model", f"of run {outcome.run_id} is to be built; the agent does it")
        case "built":
            return Finding("ok", "own model", f"of run {outcome.run_id} is version {outcome.version}")
        case _:
            return Finding("ok", "own model", "no run has finished here yet")


def check_store(store: PlatformStore) -> Iterator[Finding]:
    """Every version is read: a damaged one is named, also where another serves in its place."""
    misnamed = store.misnamed()
    if misnamed is not None:
        yield Finding("wrong", "model store", misnamed)
    sound = []
    for version in store.versions():
        try:
            store.load(version)
            sound.append(version)
        except NewerStoreError as error:
            yield Finding("note", "model store", str(error))
        except StoreError as error:
            yield Finding("wrong", "model store", str(error))
    if not store.versions():
        yield Finding("ok", "model store", "no model yet: the first run makes one")
    elif sound:
        serves = next(version for version in store.candidates() if version in sound)
        yield Finding("ok", "model store", f"version {serves} serves; {len(sound)} can be read")


def _budget(config: PlatformConfig) -> Finding:
    if not config.plan.private:
        return Finding("note", "budget", "plan.privacy.mode is none: contributions leave exact, nothing is promised")
    epsilon, runs = budget_policy(config.plan, config.budget).epsilon, runs_paid(config.plan, config.budget)
    left, spent = runs, "nothing is spent yet"
    if (config.state / LEDGER_FILE).exists():
        try:
            report = privacy_dict(config.state, config.plan)
        except CrossfedError as error:
            return Finding("wrong", "budget", str(error))
        left = report["left"]["runs"]
        spent = "data left without privacy" if report["epsilon"] is None else f"ε {report['epsilon']:.3g} is spent"
    many = f"{runs} {'run' if runs == 1 else 'runs'}"
    text = f"ε {epsilon:g} pays for {many} of ε {config.plan.privacy.epsilon:g}; {spent}; {left} left"
    agreed = runs_paid(config.plan)
    if runs is not None and agreed is not None and runs < agreed:
        text += f"; the plan's budget pays for {agreed}, so that this platform is the first to refuse"
        return Finding("note", "budget", text)
    return Finding("ok" if left else "note", "budget", text)

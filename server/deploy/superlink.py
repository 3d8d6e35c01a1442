"""Flower's side of the aggregator as programs to supervise: SuperLink, SuperExec for ServerApps, and the fleet proxy.

SuperLink serves all of its APIs on one port, also those that start code on every node, so it listens on loopback. The
proxy is what platforms reach: it forwards the fleet API, where nodes authenticate themselves, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

from common.deploy.roles import AggregatorConfig
from common.deploy.supervise import Program
from common.deploy.tls import names_of, read_certificate
from common.files import make_folder, write_atomically
from server.deploy.flower import ENVIRONMENT

CONFIG_VARIABLE = "CROSSFED_FEDERATION_CONFIG"
"""Where the ServerApp, a process of its own, finds ``federation.yaml``."""

FLEET_API = "/v1/fleet/*"
# Flower sends arrays in pieces of 5 MB.
_LARGEST_REQUEST = "64MB"


def aggregator_programs(config: AggregatorConfig, config_path: Path) -> list[Program]:
    """All programs of the aggregator, in the order in which they start.

    Raises:
        ConfigError: the certificate cannot be read.
        StoreError: the state folder cannot be written.
    """
    logs = config.state / "logs"
    for folder in (config.state, logs, config.state / "flower"):
        make_folder(folder, mode=0o700)
    environment = {
        **ENVIRONMENT,
        "FLWR_HOME": str((config.state / "flower").resolve()),
        CONFIG_VARIABLE: str(config_path.resolve()),
    }
    secret, ca = str(config.superexec_secret.resolve()), str(config.tls.ca.resolve())
    superlink = [
        "flower-superlink",
        "--host", "127.0.0.1",
        "--port", str(config.superlink_port),
        "--ssl-ca-certfile", ca,
        "--ssl-certfile", str(config.tls.certificate.resolve()),
        "--ssl-keyfile", str(config.tls.key.resolve()),
        "--enable-supernode-auth",
        "--isolation", "process",
        "--superexec-auth-secret-file", secret,
        "--database", str((config.state / "flower.db").resolve()),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    executor = [
        "flower-superexec",
        "--runtime-api-address", f"127.0.0.1:{config.superlink_port}",
        "--root-certificates", ca,
        "--superexec-auth-secret-file", secret,
    ]  # fmt: skip
    programs = [
        Program(name="superlink", command=superlink, environment=environment, log=logs / "superlink.log"),
        Program(name="superexec", command=executor, environment=environment, log=logs / "superexec.log"),
    ]
    if config.proxy.enabled:
        caddyfile = config.state / "Caddyfile"
        write_atomically(caddyfile, proxy_configuration(config).encode())
        command = [config.proxy.command, "run", "--config", str(caddyfile.resolve()), "--adapter", "caddyfile"]
        home = str((config.state / "caddy").resolve())
        programs.append(
            Program(
                name="proxy",
                command=command,
                environment={"XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home},
                log=logs / "proxy.log",
            )
        )
    return programs


def proxy_configuration(config: AggregatorConfig) -> str:
    """The Caddyfile: TLS with the aggregator's certificate, the fleet API, and 404 for everything else.

    Raises:
        ConfigError: the certificate cannot be read.
    """
    tls, proxy = config.tls, config.proxy
    certificate, key, ca = (json.dumps(str(path.resolve())) for path in (tls.certificate, tls.key, tls.ca))
    names = names_of(read_certificate(tls.certificate))
    return f"""\
{{
    admin off
    persist_config off
    auto_https off
    default_sni {names[0] if names else "localhost"}
    servers {{
        protocols h1 h2
        timeouts {{
            read_body 5m
            read_header 10s
            idle 2m
        }}
    }}
}}

https://:{proxy.port} {{
    bind {proxy.host}
    tls {certificate} {key}
    @fleet path {FLEET_API}
    handle @fleet {{
        request_body {{
            max_size {_LARGEST_REQUEST}
        }}
        reverse_proxy https://127.0.0.1:{config.superlink_port} {{
            transport http {{
                tls_trust_pool file {ca}
                tls_server_name localhost
            }}
        }}
    }}
    handle {{
        respond 404
    }}
}}
"""

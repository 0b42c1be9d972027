"""How the servers know each other: key file or certificates, TLS, and how long the certificates are good for."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from credscale.core.addresses import split_address
from credscale.mongo.preflight.check import Seen, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HANDSHAKE_SECONDS = 5.0
STOP_BEFORE, WARN_BEFORE = timedelta(days=1), timedelta(days=30)
NONE, DISABLED = "none", "disabled"
WORKERS = 8


def judge_authentication(parsed: Mapping[str, Mapping[str, Any]]) -> tuple[list[Seen], list[str]]:
    """Judge whether all servers know each other in one way, and return those that take TLS.

    The contents of key files can't be compared; members with different ones would not be in one set.

    Args:
        parsed: getCmdLineOpts.parsed by server.
    """
    ways = {address: _way(options) for address, options in parsed.items()}
    modes = {address: _tls_mode(options) for address, options in parsed.items()}
    rows = [*_judge_ways(ways), *_judge_modes(modes)]
    for address, options in sorted(parsed.items()):
        if options.get("security", {}).get("transitionToAuth"):
            seen = f"{address} takes connections without a login (transitionToAuth)"
            rows.append(Seen("warn", seen, "finish the change to authentication: restart it without transitionToAuth"))
    if all(row.severity == "note" for row in rows):
        told = f"{len(parsed)} servers: {', '.join(set(ways.values()))}, TLS {', '.join(set(modes.values()))}"
        rows.insert(0, Seen("ok", told))
    return rows, sorted(address for address, mode in modes.items() if mode != DISABLED)


def _way(options: Mapping[str, Any]) -> str:
    security = options.get("security", {})
    return str(security.get("clusterAuthMode") or ("keyFile" if "keyFile" in security else NONE))


def _tls_mode(options: Mapping[str, Any]) -> str:
    """Return the TLS mode by its name since 4.2."""
    net = options.get("net", {})
    return str((net.get("tls") or net.get("ssl") or {}).get("mode", DISABLED)).replace("SSL", "TLS")


def _judge_ways(ways: Mapping[str, str]) -> list[Seen]:
    if set(ways.values()) == {NONE}:
        seen = "members trust whoever reaches their ports: there is neither a key file nor a member certificate"
        return [Seen("note", seen, "see that no network but the cluster's own reaches these ports")]
    if len(set(ways.values())) < 2:
        return []
    severity: Severity = "stop" if NONE in ways.values() else "warn"
    return [Seen(severity, f"different ways to know each other: {_by(ways)}", "give all servers the same key file")]


def _judge_modes(modes: Mapping[str, str]) -> list[Seen]:
    if len(set(modes.values())) < 2:
        return []
    severity: Severity = "stop" if {DISABLED, "requireTLS"} <= set(modes.values()) else "warn"
    return [Seen(severity, f"different TLS modes: {_by(modes)}", "bring all servers to one net.tls.mode")]


def _by(values: Mapping[str, str]) -> str:
    return ", ".join(f"{address} {value}" for address, value in sorted(values.items()))


def read_certificates(addresses: Iterable[str], uri: str) -> tuple[dict[str, datetime], dict[str, str]]:
    """Ask each port for its certificate, side by side.

    Args:
        addresses: ``host:port``.
        uri: the connection string, whose client certificate is shown where it names one.

    Returns:
        when each certificate ends, and why the others could not be read.
    """
    ends: dict[str, datetime] = {}
    problems: dict[str, str] = {}
    wanted = list(addresses)
    with ThreadPoolExecutor(WORKERS, "preflight") as pool:
        for address, end in zip(wanted, pool.map(lambda each: _certificate_end(each, uri), wanted), strict=True):
            if isinstance(end, datetime):
                ends[address] = end
            else:
                problems[address] = end
    return ends, problems


def _certificate_end(address: str, uri: str) -> datetime | str:
    from cryptography import x509

    host, port = split_address(address)
    try:
        with (
            socket.create_connection((host, port), HANDSHAKE_SECONDS) as plain,
            _anything_goes(uri).wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            shown = encrypted.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if shown is None:
        return "it shows no certificate"
    return x509.load_der_x509_certificate(shown).not_valid_after_utc


def _anything_goes(uri: str) -> ssl.SSLContext:
    """Return a context that reads any certificate: drivers judge whether to trust it, here only its end is read."""
    from pymongo.uri_parser import parse_uri

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    options = parse_uri(uri)["options"]
    if own := options.get("tlsCertificateKeyFile"):
        context.load_cert_chain(own, password=options.get("tlsCertificateKeyFilePassword"))
    return context


def judge_certificates(
    ends: Mapping[str, datetime], problems: Mapping[str, str], now: datetime | None = None
) -> list[Seen]:
    """Judge how long certificates are good for.

    Args:
        ends: by server.
        problems: why the certificate of others could not be read, by server.
        now: an aware moment; the present when left out.
    """
    moment = now if now is not None else datetime.now(UTC)
    rows = []
    for address, end in sorted(ends.items()):
        left = end - moment
        if left < WARN_BEFORE:
            severity: Severity = "stop" if left < STOP_BEFORE else "warn"
            word = "ended" if left < timedelta(0) else "ends"
            remedy = "replace it first; 5.0 and later load it without a restart: rotateCertificates"
            rows.append(Seen(severity, f"the certificate of {address} {word} {end:%Y-%m-%d %H:%M} UTC", remedy))
    if ends and not rows:
        rows.append(Seen("ok", f"{len(ends)} certificates are good until {min(ends.values()):%Y-%m-%d} at least"))
    for address, problem in sorted(problems.items()):
        rows.append(
            Seen("unknown", f"the certificate of {address} can't be read: {problem}", "look with openssl s_client")
        )
    return rows

"""A certificate for the scenarios over TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 30.0  # seconds for openssl to make a key


class NoCertificateError(Exception):
    """There is no certificate to be had; the text is for the user."""


class Certificate(NamedTuple):
    """File names; the certificate is for ``localhost``, and its own authority."""

    cert: str
    key: str


def make_certificate(directory: Path) -> Certificate:
    """Make a certificate in ``directory``, good for two days, with the ``openssl`` command."""
    made = Certificate(str(directory / "cert.pem"), str(directory / "key.pem"))
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    command += ["-keyout", made.key, "-out", made.cert]
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=True
        )
    except FileNotFoundError as error:
        raise NoCertificateError("no openssl command to make a certificate with") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise NoCertificateError(f"openssl made no certificate: {reason}") from error
    except subprocess.TimeoutExpired as error:
        raise NoCertificateError(f"openssl made no certificate in {TIMEOUT:g} s") from error
    return made

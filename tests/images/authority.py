"""A certificate authority and a token service for one test, with keys made for it by openssl."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.http.server import Answer, Request, Server, serve
from tests.images.registry import PASSWORD, USER

SERVICE, ISSUER = "the registry", "the token service"
REFRESH_TOKEN = "a-refresh-token"


@dataclass
class Authority:
    """A certificate authority: ``certificate`` is what clients trust."""

    directory: Path
    certificate: Path
    _key: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        directory.mkdir(parents=True)
        key, certificate = directory / "ca.key", directory / "ca.pem"
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tests", "-days", "2", "-keyout", key, "-out", certificate)
        return cls(directory, certificate, key)

    def issue(self, name: str, subject: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        """A certificate for `subject` (as in subjectAltName), and its key."""
        key, request, certificate = (self.directory / f"{name}.{suffix}" for suffix in ("key", "csr", "cert"))
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject}\n")
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, *signed, "-out", certificate)
        return certificate, key

    def server_context(self, subject: str = "IP:127.0.0.1") -> ssl.SSLContext:
        """TLS for a server of the test's own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server", subject))
        return context

    def sign(self, data: bytes) -> bytes:
        """An RS256 signature (RFC 7518, section 3.3)."""
        return _openssl("dgst", "-sha256", "-sign", self._key, data=data)


def _openssl(*arguments: object, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True, check=True).stdout


@dataclass
class TokenService:
    """What signs tokens that docker-registry accepts (distribution's "Token Authentication Implementation").

    ``public`` repositories are for everybody, the others for who has the password or the refresh token. ``lifetimes``
    holds for each token in turn how long it is valid, in seconds; then a minute.
    """

    authority: Authority
    public: tuple[str, ...] = ()
    lifetimes: list[float] = field(default_factory=list)
    faults: list[Answer] = field(default_factory=list)
    origin: str = ""
    server: Server | None = None

    @property
    def registry_settings(self) -> dict[str, object]:
        return {
            "token": {
                "realm": f"{self.origin}/token",
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.authority.certificate),
            }
        }

    @property
    def requests(self) -> list[Request]:
        assert self.server is not None
        return self.server.requests

    def asked(self, number: int) -> dict[str, str]:
        """What the request `number` asked for, in its address or as a form."""
        request = self.requests[number]
        text = request.body.decode() if request.method == "POST" else urlsplit(request.path).query
        return {name: values[0] for name, values in parse_qs(text).items()}

    def push_authorization(self, repository: str) -> str:
        return f"Bearer {self.token(repository, ['pull', 'push'], 60)}"

    def token(self, repository: str, actions: list[str], lifetime_s: float) -> str:
        """docker-registry forgives clocks that differ by a minute, so a token that ends in a second ended 59 seconds ago."""
        now = time.time()
        certificate = "".join(self.authority.certificate.read_text().splitlines()[1:-1])
        claims = {
            "iss": ISSUER, "aud": SERVICE, "sub": "tests", "jti": "1", "iat": int(now) - 300, "nbf": int(now) - 300,
            "exp": int(now - 60 + lifetime_s), "access": [{"type": "repository", "name": repository, "actions": actions}],
        }  # fmt: skip
        parts = [_base64url(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "RS256", "x5c": [certificate]}, claims)]
        signed = b".".join(parts)
        return (signed + b"." + _base64url(self.authority.sign(signed))).decode()

    def answer(self, request: Request) -> Answer:
        if self.faults:
            return self.faults.pop(0)
        asked = self.asked(-1)
        kind, repository, actions = asked["scope"].split(":")
        assert (kind, asked["service"]) == ("repository", SERVICE)
        if not self._allows(request, asked, repository):
            return Answer(401, b'{"details": "no"}')
        lifetime = self.lifetimes.pop(0) if self.lifetimes else 120
        name = "access_token" if request.method == "POST" else "token"
        return Answer(body=json.dumps({name: self.token(repository, actions.split(","), lifetime)}).encode())

    def _allows(self, request: Request, asked: dict[str, str], repository: str) -> bool:
        if request.method == "POST":
            return (asked["grant_type"], asked["refresh_token"]) == ("refresh_token", REFRESH_TOKEN)
        given = request.headers.get("authorization")
        if given is None:
            return repository in self.public
        return given == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def token_service(authority: Authority, *public: str) -> Iterator[TokenService]:
    """Run a token service on the loopback interface."""
    service = TokenService(authority, public)
    with serve(service.answer) as server:
        service.server, service.origin = server, server.origin
        yield service

"""TLS certificates: the profile, and what gRPC's TLS makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secfed.errors import CertificateExpiredError, RosterError
from secfed.identity import certificate
from secfed.identity.certificate import AGGREGATOR_TLS_NAME, Certificate
from secfed.identity.roles import Role
from secfed.ids import ClientId

Pair = tuple[ec.EllipticCurvePrivateKey, Certificate]

LONGEST = "a" * 63


def make(site: str, role: Role = Role.CLIENT, start: datetime | None = None) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    moment = datetime.now(UTC) if start is None else start
    issued = certificate.create(
        key, ClientId(site), role, now=moment, valid_until=moment + timedelta(days=30)
    )
    return key, issued


def key_pem(pair: Pair) -> bytes:
    return pair[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("site", ["a", "hosp-a", LONGEST])
def test_the_site_stands_in_the_san(site: str) -> None:
    key, issued = make(site)
    found = x509.load_pem_x509_certificate(issued.pem.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [site]
    assert issued.belongs_to(key)
    assert not issued.belongs_to(make(site)[0])
    assert certificate.parse(issued.pem, ClientId(site)) == issued


def test_only_an_aggregator_bears_the_aggregators_name() -> None:
    for role in Role:
        found = x509.load_pem_x509_certificate(make("x", role)[1].pem.encode())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert (AGGREGATOR_TLS_NAME in names.get_values_for_type(x509.DNSName)) == (role is Role.AGGREGATOR)


def test_validity_is_refused_before_and_after_with_both_dates() -> None:
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    _key, issued = make("hosp-a", start=start)
    issued.check_validity(start - timedelta(minutes=9))  # a peer whose clock is a little behind
    issued.check_validity(start + timedelta(days=30))
    for wrong in (start - timedelta(minutes=11), start + timedelta(days=30, seconds=1)):
        with pytest.raises(CertificateExpiredError) as refused:
            issued.check_validity(wrong)
        assert "2026-01-01T11:50:00Z to 2026-01-31T12:00:00Z" in str(refused.value)


def test_what_is_not_one_plain_certificate_is_refused() -> None:
    _key, issued = make("hosp-a")
    for pem in (
        "",
        issued.pem * 2,
        "x" + issued.pem,
        issued.pem + "\n",
        issued.pem[:200],
        issued.pem + "A" * 9000,
    ):
        with pytest.raises(RosterError, match="hosp-a"):
            certificate.parse(pem, ClientId("hosp-a"))


def test_another_sites_certificate_is_refused() -> None:
    _key, issued = make("hosp-a")
    with pytest.raises(RosterError, match="another name"):
        certificate.parse(issued.pem, ClientId("hosp-b"))


def _foreign(curve: ec.EllipticCurve, *, ca: bool, issuer: Pair | None = None) -> str:
    """A certificate outside the profile, under the name hosp-a."""
    key = ec.generate_private_key(curve)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hosp-a")])
    moment = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(moment)
        .not_valid_after(moment + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hosp-a")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer[0] if issuer else key, hashes.SHA256())
    )
    return built.public_bytes(Encoding.PEM).decode()


def test_an_authority_another_curve_and_a_foreign_issuer_are_refused() -> None:
    site = ClientId("hosp-a")
    certificate.parse(_foreign(ec.SECP256R1(), ca=False), site)
    with pytest.raises(RosterError, match="not an authority"):
        certificate.parse(_foreign(ec.SECP256R1(), ca=True), site)
    with pytest.raises(RosterError, match="P-256"):
        certificate.parse(_foreign(ec.SECP384R1(), ca=False), site)
    with pytest.raises(RosterError, match="InvalidSignature"):
        certificate.parse(_foreign(ec.SECP256R1(), ca=False, issuer=make("hosp-a")), site)


class _Echo(grpc.GenericRpcHandler):
    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)


@contextmanager
def _server(own: Pair, members: list[Pair]) -> Iterator[int]:
    roots = "".join(pair[1].pem for pair in members).encode()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Echo(),))
    credentials = grpc.ssl_server_credentials([(key_pem(own), own[1].pem.encode())], roots, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def _reaches(port: int, root: str, own: Pair, chain: str = "") -> bool:
    credentials = grpc.ssl_channel_credentials(root.encode(), key_pem(own), (own[1].pem + chain).encode())
    options = [("grpc.ssl_target_name_override", AGGREGATOR_TLS_NAME)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            return bool(channel.unary_unary("/secfed/echo")(b"yes", timeout=60) == b"yes")
        except grpc.RpcError:
            return False


def test_grpc_admits_exactly_the_listed_certificates() -> None:
    """The server's too: who pins one aggregator takes no other, nor a client in its place."""
    center, other = make("center", Role.AGGREGATOR), make("center", Role.AGGREGATOR)
    member, second, namesake = make("hosp-a"), make("hosp-b"), make("hosp-a")
    with _server(center, [member, second]) as port:
        assert _reaches(port, center[1].pem, member)
        assert _reaches(port, center[1].pem, second)
        assert not _reaches(port, center[1].pem, namesake)
        assert not _reaches(port, center[1].pem, namesake, chain=member[1].pem)
        assert not _reaches(port, other[1].pem, member)
    with _server(member, [second]) as port:
        assert not _reaches(port, member[1].pem, second)


def test_grpc_refuses_what_a_member_issued_under_its_own_certificate() -> None:
    center, member = make("center", Role.AGGREGATOR), make("hosp-a")
    key = ec.generate_private_key(ec.SECP256R1())
    moment = datetime.now(UTC)
    child = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hosp-b")]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hosp-a")]))
        .public_key(key.public_key())
        .serial_number(2)
        .not_valid_before(moment - timedelta(minutes=1))
        .not_valid_after(moment + timedelta(days=1))
        .sign(member[0], hashes.SHA256())
    )
    pem = child.public_bytes(Encoding.PEM).decode()
    pretender = (key, Certificate(ClientId("hosp-b"), pem, b"", moment, moment))
    with _server(center, [member]) as port:
        assert not _reaches(port, center[1].pem, pretender)
        assert not _reaches(port, center[1].pem, pretender, chain=member[1].pem)
        assert _reaches(port, center[1].pem, member)

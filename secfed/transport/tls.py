"""Channel credentials: mutual TLS in which the roster's certificates are the only roots.

Members' certificates are self-signed, so the roots of the aggregator are exactly its active
members, and the one root of a member is the aggregator. A new roster is taken without a
restart. TLS decides who may open a connection; a connection that is open outlives a
revocation, so every call is decided again by its hello.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc

from secfed.identity.certificate import AGGREGATOR_TLS_NAME
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roster import Roster

__all__ = ["ServerTls", "channel_credentials", "channel_options"]


class ServerTls:
    """The aggregator's credentials, which follow the roster.

    Args:
        keys: The aggregator's own.
        roster: The roster in force now; later ones come by `replace`.
        dialled: Told, on some thread, of each connection, before its handshake. gRPC says neither whose it
            is nor what became of it.
    """

    def __init__(self, keys: MemberKeys, roster: Roster, dialled: Callable[[], None] = lambda: None) -> None:
        self._dialled = dialled
        self._pair = (keys.tls_key_pem, keys.tls_certificate_pem)
        self._lock = threading.Lock()
        self._pending: grpc.ServerCertificateConfiguration | None = None
        self._initial = self._configuration(roster)

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`; a client without a certificate of an active member fails the handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._fetch,  # type: ignore[arg-type]  # the stubs forget that None means "no change"
            require_client_authentication=True,
        )

    def replace(self, roster: Roster) -> None:
        """Use another roster from the next handshake on."""
        configuration = self._configuration(roster)
        with self._lock:
            self._pending = configuration

    def _configuration(self, roster: Roster) -> grpc.ServerCertificateConfiguration:
        roots = "".join(member.certificate.pem for member in roster.members if member.active)
        return grpc.ssl_server_certificate_configuration(
            [self._pair], root_certificates=roots.encode("ascii")
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC at every handshake, on a thread of its own; None leaves things as they are."""
        self._dialled()
        with self._lock:
            pending, self._pending = self._pending, None
        return pending


def channel_credentials(keys: MemberKeys, aggregator_pem: str) -> grpc.ChannelCredentials:
    """A member's side: its own certificate, and the aggregator's as the one root."""
    return grpc.ssl_channel_credentials(
        root_certificates=aggregator_pem.encode("ascii"),
        private_key=keys.tls_key_pem,
        certificate_chain=keys.tls_certificate_pem,
    )


def channel_options() -> list[tuple[str, str | int]]:
    """What every channel to an aggregator needs: the name to demand, whatever address is dialled."""
    return [("grpc.ssl_target_name_override", AGGREGATOR_TLS_NAME)]

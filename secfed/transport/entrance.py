"""What happens around every call: who makes it, how it is refused or ended, what the log says of it.

A call that comes in stands in the audit log, whatever becomes of it: under the name that its hello proved,
else under the name of the certificate that TLS saw, since that much is certain. What is raised in a
call goes out through `status`, and nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import grpc
import grpc.aio

from secfed.errors import AuthenticationError, NetworkError, RevokedError, SecfedError
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId, Digest
from secfed.limits import CALLS_EACH_MAX, REFUSAL_S, UNPROVEN_MAX
from secfed.transport import status
from secfed.transport.auditlog import NOBODY, AuditLog
from secfed.transport.desk import Desk
from secfed.transport.hello import GREETING, Caller, HelloGate, holder
from secfed.wire import calls

__all__ = ["Context", "Entrance", "Visit"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""gRPC's view of a call."""


@dataclass(slots=True)
class Visit:
    """One call.

    Attributes:
        method: What was called, as the audit log names it.
        peer: The certificate that TLS saw, in PEM.
        about: What the call was about, for the audit log, such as a command and its job.
    """

    method: str
    context: Context
    peer: bytes
    admission: Callable[[Visit, calls.Call], Caller]
    caller: Caller | None = None
    about: str = ""

    def admit(self, call: calls.Call) -> Caller:
        """Decide who calls, by the hello.

        Raises:
            SecfedError: As `HelloGate.check`; or this member has too many calls open.
        """
        self.caller = self.admission(self, call)
        return self.caller


class Entrance:
    """Lets calls in, remembers them while they last, and can end them.

    Args:
        desk: Hears which clients are there.
        roster: The roster in force, asked anew at every call.
        refused: Told of every refusal, for metrics and logs.
    """

    def __init__(
        self,
        desk: Desk,
        gate: HelloGate,
        audit: AuditLog,
        *,
        roster: Callable[[], Roster],
        now: Callable[[], datetime],
        refused: Callable[[BaseException], None],
    ) -> None:
        self._desk, self._gate, self._audit = desk, gate, audit
        self._roster, self._now, self._refused = roster, now, refused
        self._calls: dict[ClientId, dict[asyncio.Task[Any], Digest]] = {}
        self._unproven: dict[bytes, list[asyncio.Task[Any]]] = {}
        self._ended: dict[asyncio.Task[Any], SecfedError] = {}

    def cut(self, roster: Roster) -> None:
        """End every call over a certificate that this roster no longer has, revoked or replaced."""
        active = {member.site: member.certificate.digest for member in roster.members if member.active}
        for site, tasks in self._calls.items():
            what = "had its key replaced" if site in active else "was revoked"
            reason = RevokedError(f"{site} {what} in roster version {roster.version}")
            for task, certificate in tasks.items():
                if active.get(site) != certificate:
                    self.end(task, reason)

    def end(self, task: asyncio.Task[Any], reason: SecfedError) -> None:
        """End a call from this side; the other side hears why: the first reason, if there are several."""
        if task not in self._ended:
            self._ended[task] = reason
            task.cancel()

    @contextlib.asynccontextmanager
    async def guard(self, method: str, context: Context) -> AsyncIterator[Visit]:
        """A call from its beginning to its end; what is raised within is turned into a status."""
        peer = next(iter(context.auth_context().get("x509_pem_cert", ())), b"")
        visit, broken = Visit(method, context, peer, self._admit), True
        try:
            yield visit
            broken = False
            self._enter(visit, "ok")
        except asyncio.CancelledError:
            reason = self._ended.pop(current(), None)
            if reason is None:
                self._enter(visit, "broken off")
                raise
            current().uncancel()
            await self._refuse(reason, visit)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side gets its public form
            broken = False
            await self._refuse(error, visit)
        finally:
            self._ended.pop(current(), None)
            self._proven(peer)
            if visit.caller is not None:
                self._leave(visit.caller, broken)

    def await_hello(self, visit: Visit) -> None:
        """A stream begins, and has shown no hello yet: of too many the oldest gives way."""
        waiting = self._unproven.setdefault(visit.peer, [])
        waiting.append(current())
        if len(waiting) > UNPROVEN_MAX:
            self.end(waiting.pop(0), NetworkError("too many calls were begun without their hello"))

    def _admit(self, visit: Visit, call: calls.Call) -> Caller:
        caller = self._gate.check(
            visit.method, call.hello, call.body, visit.peer, self._roster(), self._now()
        )
        self._proven(visit.peer)
        tasks = self._calls.setdefault(caller.site, {})
        if len(tasks) >= CALLS_EACH_MAX:
            raise NetworkError(f"{caller.site} has {CALLS_EACH_MAX} calls open, and no more are taken")
        tasks[current()] = caller.member.certificate.digest
        if _takes_part(caller):
            self._desk.soon(lambda rounds: rounds.enter(caller.site))
        return caller

    async def _refuse(self, error: Exception, visit: Visit) -> None:
        refusal = status.refusal(error)
        self._refused(error)
        self._enter(visit, type(error).__name__, refusal.details)
        try:
            async with asyncio.timeout(REFUSAL_S):
                await visit.context.abort(refusal.code, refusal.details, refusal.metadata)
        except grpc.aio.AbortError:
            raise
        except (TimeoutError, grpc.aio.BaseError):
            # It stands behind a chunk that is not read, or gRPC has ended the call already.
            raise asyncio.CancelledError from None

    def _leave(self, caller: Caller, broken: bool) -> None:
        tasks = self._calls.get(caller.site, {})
        tasks.pop(current(), None)
        if not tasks:
            self._calls.pop(caller.site, None)
        if _takes_part(caller):
            self._desk.soon(lambda rounds: rounds.leave(caller.site, broken=broken))

    def _enter(self, visit: Visit, outcome: str, text: str = "") -> None:
        self._audit.add(
            who=self._certified(visit.peer) if visit.caller is None else visit.caller.site,
            what=visit.method,
            about=visit.about,
            outcome=outcome,
            where=_address(visit.context.peer()),
            text=text,
        )

    def _certified(self, peer: bytes) -> str:
        """Whose certificate TLS saw, now or once; the call itself may be anybody's who has its key."""
        try:
            member = holder(self._roster(), peer)
        except AuthenticationError:
            return NOBODY
        return NOBODY if member is None else member.site

    def _proven(self, peer: bytes) -> None:
        """The call at hand has shown its hello, or is over."""
        waiting = self._unproven.get(peer, [])
        if current() in waiting:
            waiting.remove(current())
        if not waiting:
            self._unproven.pop(peer, None)


def current() -> asyncio.Task[Any]:
    """The task of the call at hand."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a call is handled outside a task")
    return task


def _takes_part(caller: Caller) -> bool:
    """Whether the call shows that a client is there to take part in rounds; a greeting may be a replay."""
    return caller.role is Role.CLIENT and caller.hello.method != GREETING


def _address(peer: str) -> str:
    """`ipv4:10.0.0.7:51234` without the port, which says nothing."""
    return peer.rpartition(":")[0] or peer

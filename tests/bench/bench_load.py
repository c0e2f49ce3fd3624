"""Uploads at full size, and a thousand clients that only wait, against one daemon.

Run as `python tests/bench/bench_load.py [--clients 100] [--mb 4 16 64] [--idle 1000]`.

Everything is the real thing: mutual TLS, signed hellos, masked vectors of a live attempt, the digest
and the durable acknowledgement of each; client and daemon share the machine. Masks are made first, so
that only uploads and the sum are timed. An upload counts as acknowledged once it stands whole and synced
in the daemon's spool: the reply itself waits, as in the field, for what its member must hear next, which
comes with the last upload of all. (Replies cut short by a quick poll would make the members that are done ask
some thousand times a second, and that would be measured instead.) The ceiling is measured in the same run: a
bare gRPC stream over mutual TLS in 1 MiB messages to a process that throws them away. Aims, on 2 quiet cores:
40 uploads a second of 4 MB, 10 of 16 MB, 2 of 64 MB (ceilings 101, 19.5, 4.7); 100 uploads of 16.8 MB summed
in 30 s; 1000 idle clients in 150 MB above the idle process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import grpc
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "transport"))

from aims import tell
from townhall import Member, Town

from secfed.identity import membership
from secfed.identity.roles import Role
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Present, Said, Told
from secfed.transport import tls
from secfed.transport.desk import POLL_S
from secfed.wire import calls, service, sums

CHUNK = bytes(1 << 20)
PATIENCE_S = 3600
MB = 1_000_000
CALLERS = 4
"""Clients that upload at one time: enough to keep both cores busy, few enough for the members' memory."""

LEAST = {4: 40, 16: 10, 64: 2}
"""Acknowledged uploads a second, by their size in MB."""

PUBLISHED_S, IDLE_MIB = 30, 150

_MEMORY = Path("/dev/shm")


def people_in(town: Town, names: list[str]) -> None:
    """Enrol further clients."""
    for name in names:
        town.keys[name] = town.make_keys(name, Role.CLIENT)
    enrolments = [town.keys[name].enrolment for name in names]
    town.publish(membership.enroll(town.roster, town.owner, enrolments, now=town.now))


# -- uploads -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wave:
    """How a wave of uploads went; memory is above the idle daemon's, until all were received and in all."""

    uploads: int
    size_mb: float
    acknowledged_s: float
    published_s: float
    cpu_s: float
    receiving_mib: float
    peak_mib: float

    @property
    def rate(self) -> float:
        """Uploads a second, to the last acknowledgement."""
        return self.uploads / self.acknowledged_s


class _Gate:
    """Holds all vectors back until the last is ready; then lets a few through at a time.

    Before that, few members compute at a time: each holds its vector in several forms meanwhile, and a
    hundred of 16.8 MB would take 10 GB.
    """

    def __init__(self) -> None:
        self.ready = threading.Semaphore(0)
        self.open = threading.Event()
        self.turns, self.computing = threading.Semaphore(CALLERS), threading.Semaphore(CALLERS)

    def compute(self, hear: Callable[[Told], Said | Upload], told: Told) -> Said | Upload:
        """In the place of the member's own step."""
        with self.computing:
            return hear(told)

    def pass_(self, member: Member, upload: Upload) -> Told:
        """In the place of the member's own upload; `acknowledged` gives the turn to the next."""
        self.ready.release()
        self.open.wait()
        self.turns.acquire()
        return member.connection.upload(upload.attempt, upload.statement, upload.packed)

    def acknowledged(self, spool: Path, count: int, failed: Callable[[], None]) -> None:
        """Return once so many uploads stand in the spool."""
        seen = 0
        while seen < count:
            failed()
            now = sum(not name.startswith(".") for name in os.listdir(spool))
            if now > seen:
                self.turns.release(now - seen)
                seen = now
            time.sleep(0.002)


def peak_limit_mib(wave: Wave) -> float:
    """3 vectors of 4 bytes a coordinate, 64 MiB, and 1.5 KiB a member and neighbour."""
    edges = wave.uploads * (wave.uploads - 1)
    return (3 * 4 * words_of(wave.size_mb) + 1536 * edges) / (1 << 20) + 64


def words_of(size_mb: float) -> int:
    """Coordinates of an upload of this size: 16 bits and the sum's carries."""
    return int(size_mb * MB * 8) // 23


def wave(clients: int, size_mb: float) -> Wave:
    """One round of so many clients, from all masks made to the published sum."""
    words = words_of(size_mb)
    where = _MEMORY if _MEMORY.is_dir() and clients * size_mb < 1000 else None
    with tempfile.TemporaryDirectory(dir=where, prefix="secfed-load-") as folder:
        town = Town(Path(folder))
        names = [f"site-{number:03}" for number in range(clients)]
        people_in(town, names)
        for site in ("hosp-a", "hosp-b", "hosp-c"):
            town.publish(membership.revoke(town.roster, town.owner, town.keys[site].site))
        town.poll_s = POLL_S
        process = town.spawn(training_deadline_s=PATIENCE_S, phase_timeout_s=PATIENCE_S)
        with town.connect("office") as admin:
            deadlines = {"training_s": PATIENCE_S, "phase_s": PATIENCE_S}
            admin.start_job(town.plan(shapes={"a": (words,)}, deadlines=deadlines))
        idle_mib, gate = process.rss_mib, _Gate()
        vector = np.zeros(words, np.float32)
        members = [Member(town, name, vector, patience_s=PATIENCE_S) for name in names]
        for member in members:
            member.sending = partial(gate.pass_, member)
            member.rounds.hear = partial(gate.compute, member.rounds.hear)  # type: ignore[method-assign]
            member.thread.start()
        for _ in members:
            gate.ready.acquire()

        def failed() -> None:
            errors = [member.error for member in members if member.error is not None]
            assert not errors, errors[0]

        process.forget_peak()
        begin, cpu_s = time.perf_counter(), process.cpu_s
        gate.open.set()
        gate.acknowledged(town.root / "state" / "spool", clients, failed)
        acknowledged, receiving = time.perf_counter() - begin, process.peak_mib - idle_mib
        done = town.root / "out" / "sum-1" / "round-0001"
        while not done.exists():
            failed()
            time.sleep(0.02)
        published = time.perf_counter() - begin
        cpu_s, peak = process.cpu_s - cpu_s, process.peak_mib - idle_mib
        for member in members:
            member.thread.join(PATIENCE_S)
            member.close()
        town.shut()
    return Wave(clients, size_mb, acknowledged, published, cpu_s, receiving, peak)


# -- the ceiling -------------------------------------------------------------------------------


def _sink(pipe: Pipe, key: bytes, certificate: bytes, roots: bytes) -> None:
    """A process that takes streams and keeps nothing."""

    def take(frames: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        return str(sum(map(len, frames))).encode()

    server = grpc.server(
        futures.ThreadPoolExecutor(CALLERS), options=[("grpc.max_receive_message_length", -1)]
    )
    handler = grpc.stream_unary_rpc_method_handler(take)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", {"Take": handler}),))
    credentials = grpc.ssl_server_credentials([(key, certificate)], roots, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    pipe.send(port)
    pipe.recv()
    server.stop(None)


def ceiling(size_mb: float, count: int) -> float:
    """Streams of this size a second, by as many callers as the uploads have."""
    with tempfile.TemporaryDirectory(prefix="secfed-load-") as folder:
        town = Town(Path(folder))
        own, member = town.keys["center"], town.keys["hosp-a"]
        near, far = multiprocessing.Pipe()
        arguments = (far, own.tls_key_pem, own.tls_certificate_pem, member.tls_certificate_pem)
        sink = multiprocessing.get_context("spawn").Process(target=_sink, args=arguments)
        sink.start()
        address = f"127.0.0.1:{near.recv()}"
        frames = [CHUNK] * max(1, round(size_mb * MB / len(CHUNK)))

        credentials = tls.channel_credentials(member, own.certificate.pem)
        options = [*tls.channel_options(), ("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.secure_channel(address, credentials, options) for _ in range(CALLERS)]

        def send(caller: int) -> None:
            channels[caller % CALLERS].stream_unary("/bare/Take")(iter(frames))

        with futures.ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(send, range(CALLERS)))  # the handshakes
            begin = time.perf_counter()
            list(pool.map(send, range(count)))
            took = time.perf_counter() - begin
        for channel in channels:
            channel.close()
        near.send(None)
        sink.join()
    return count / took


# -- who only waits ----------------------------------------------------------------------------


def idle(clients: int) -> tuple[float, float]:
    """MiB above the idle process that so many waiting clients take, and the seconds until all waited."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        town = Town(Path(folder))
        names = [f"site-{number:04}" for number in range(clients)]
        people_in(town, names)
        town.poll_s = 600.0
        process = town.spawn()
        body = sums.encode_said(Present(""))
        town.status()
        before, begin = process.rss_mib, time.perf_counter()
        channels, waiting = [], []
        for name in names:
            credentials = tls.channel_credentials(town.keys[name], town.keys["center"].certificate.pem)
            options = [*tls.channel_options(), ("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.secure_channel(town.address, credentials, options)
            hello = town.maker(name).make("Exchange", body, roster=town.roster.digest, start=town.begun)
            call = calls.encode_call(calls.Call(hello, body))
            channels.append(channel)
            waiting.append(channel.unary_unary(service.path("Exchange")).future(call, timeout=600))
        while (there := len(town.status().connected)) < clients:
            assert not any(call.done() for call in waiting), "a call that should wait has ended"
            assert time.perf_counter() - begin < 600, f"only {there} of {clients} wait"
            time.sleep(0.5)
        took, held = time.perf_counter() - begin, process.rss_mib - before
        for channel in channels:
            channel.close()
        town.shut()
    return held, took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=float, nargs="*", default=[4, 16, 64], help="sizes of single uploads")
    parser.add_argument("--each", type=int, default=12, help="uploads of each size")
    parser.add_argument("--clients", type=int, default=100, help="in the round of 16.8 MB; 0 for none")
    parser.add_argument("--idle", type=int, default=1000, help="clients that only wait; 0 for none")
    options = parser.parse_args()
    met = []
    for size in options.mb:
        most, found = ceiling(size, options.each * 2), wave(options.each, size)
        print(
            f"{size:5g} MB  {found.rate:6.1f} uploads/s acknowledged  bare stream {most:6.1f}/s"
            f"  ratio {found.rate / most:.2f}",
            flush=True,
        )
        if size in LEAST:
            met.append(tell(f"uploads of {size:g} MB", found.rate, LEAST[size], "/s", least=True))
    if options.clients:
        found = wave(options.clients, 16.8)
        print(
            f"{found.uploads} uploads of {found.size_mb:g} MB  acknowledged in {found.acknowledged_s:.1f} s"
            f"  summed and published in {found.published_s:.1f} s  daemon: {found.cpu_s:.1f} CPU s,"
            f" peak {found.peak_mib:.0f} MiB above idle, {found.receiving_mib:.0f} while receiving",
            flush=True,
        )
        met.append(tell("summed and published", found.published_s, PUBLISHED_S, "s"))
        met.append(tell("peak above the idle process", found.peak_mib, peak_limit_mib(found), "MiB"))
    if options.idle:
        held, took = idle(options.idle)
        print(f"{options.idle} waiting clients  {held:.0f} MiB above the idle process, all in {took:.1f} s")
        met.append(tell("waiting clients above the idle process", held, IDLE_MIB, "MiB"))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())

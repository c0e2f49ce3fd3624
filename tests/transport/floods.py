"""Peers that only cost: `floods.py ADDRESS CERTIFICATE KEY`, until its standard input is closed.

All at once, and again whenever the daemon ends one: 500 TCP connections that say nothing, 50 that send
no more than HTTP/2's preface, 50 uploads at one byte a second, announced lengths of 2^63, and 10 000
calls a minute; what needs a certificate uses that of one member. HTTP/2 is written by hand, because no
client library sends such things. Prints `ready` once everything stands, and counts at the end. Is `cease`
written to it before, then nothing new is sent, and it waits until the daemon has ended every link or
answered its call: `left` counts those that it did not.

Source of the frames: RFC 9113; of the header fields: RFC 7541, literals without Huffman code.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

SILENT, PREFACES, UPLOADS, OPENS_PER_MINUTE = 500, 50, 50, 10_000

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
ANSWERS = {HEADERS, RST_STREAM}
END_STREAM, END_HEADERS = 1, 4

HUGE = 2**63

STAND_S = 120
"""How long each kind of link may take to stand, or to be ended, however busy the machine."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def kinds(data: bytes) -> Iterator[int]:
    """Of the frames in what was received at once."""
    at = 0
    while at + 9 <= len(data):
        yield data[at + 3]
        at += 9 + int.from_bytes(data[at : at + 3], "big")


def headers(path: str, **more: str) -> bytes:
    """A request's header block."""
    fields = {
        ":method": "POST", ":scheme": "https", ":path": path, ":authority": "aggregator.secfed.internal",
        "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


class Owed:
    """Calls on one connection that the daemon has not ended; frames may come in parts."""

    def __init__(self) -> None:
        self.streams: set[int] = set()
        self._buffer = b""

    def ended(self, link: socket.socket) -> bool:
        """Take in what came; whether the connection is at its end."""
        link.setblocking(False)
        try:
            while came := link.recv(1 << 16):
                self._take(came)
            return True
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                link.settimeout(10)

    def _take(self, came: bytes) -> None:
        self._buffer += came
        while len(self._buffer) >= 9:
            size, stream = (int.from_bytes(self._buffer[part], "big") for part in (slice(3), slice(5, 9)))
            kind, flags = self._buffer[3:5]
            if len(self._buffer) < 9 + size:
                return
            self._buffer = self._buffer[9 + size :]
            if kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
                self.streams.discard(stream)


class Flood:
    """Everything that is sent, and how often it had to be begun again."""

    def __init__(self, address: tuple[str, int], certificate: Path, key: Path) -> None:
        self.address, self.over, self.counts = address, threading.Event(), Counter[str]()
        self.ceasing = False
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.context.load_cert_chain(certificate, key)
        self.context.set_alpn_protocols(["h2"])
        self.standing: list[threading.Event] = []

    # -- links ---------------------------------------------------------------------------------

    def connect(self) -> socket.socket:
        link = socket.create_connection(self.address, timeout=10)
        link.settimeout(10)
        return link

    def http2(self) -> ssl.SSLSocket:
        """A connection over the member's certificate, with the preface sent."""
        link = self.context.wrap_socket(self.connect(), server_hostname="aggregator.secfed.internal")
        link.sendall(PREFACE + frame(SETTINGS, 0, 0))
        return link

    def ended(self, link: socket.socket) -> bool:
        """Whether the daemon closed it, or answered its one call."""
        link.setblocking(False)
        try:
            while came := link.recv(1 << 16):
                if not ANSWERS.isdisjoint(kinds(came)):
                    return True
            return True
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                link.settimeout(10)

    def keep(self, what: str, count: int, open_: Callable[[], socket.socket], each: bytes | None) -> None:
        """Hold so many links open; once a second each sends a few bytes, if any."""
        links: list[socket.socket] = []
        stands = self.standing[-1]
        while not self.over.is_set():
            for link in [link for link in links if self.ended(link)]:
                links.remove(link)
                link.close()
                self.counts[f"{what} ended"] += 1
            with contextlib.suppress(OSError):
                while len(links) < count and not self.over.is_set():
                    links.append(open_())
                    self.counts[what] += 1
            if len(links) == count:
                stands.set()
            self.drip(links, each)
            self.over.wait(1)
        self.cease(what, links, each)

    def drip(self, links: list[socket.socket], each: bytes | None) -> None:
        for link in links if each is not None else ():
            with contextlib.suppress(OSError):
                link.sendall(each or b"")

    def cease(self, what: str, links: list[socket.socket], each: bytes | None = None) -> None:
        """Open no more; what the daemon does not end, although there is time, is left."""
        until = time.monotonic() + STAND_S
        while links and self.ceasing and time.monotonic() < until:
            for link in [link for link in links if self.ended(link)]:
                links.remove(link)
                link.close()
            self.drip(links, each)
            time.sleep(0.5)
        self.counts[f"{what} left"] += len(links)
        for link in links:
            link.close()

    # -- what is sent --------------------------------------------------------------------------

    def upload(self) -> socket.socket:
        """An upload whose first message is announced as long as may be, and comes byte by byte."""
        link = self.http2()
        link.sendall(frame(HEADERS, END_HEADERS, 1, headers("/secfed.v1.Federation/Upload")))
        link.sendall(frame(DATA, 0, 1, struct.pack(">BI", 0, 1 << 20)))
        return link

    def lengths(self) -> None:
        """Calls that announce 2^63 bytes: as HTTP's length, as the message's, and as a field's."""
        field = b"\x0a" + b"\xff" * 8 + b"\x7f"
        bodies = (
            struct.pack(">BI", 0, 2**32 - 1),
            struct.pack(">BI", 0, len(field)) + field,
        )
        links: list[socket.socket] = []
        while not self.over.wait(0.2):
            for body in bodies:
                with contextlib.suppress(OSError):
                    links.append(self.http2())
                    block = headers("/secfed.v1.Federation/Exchange", content_length=str(HUGE))
                    links[-1].sendall(frame(HEADERS, END_HEADERS, 1, block))
                    links[-1].sendall(frame(DATA, 0, 1, body))
                    self.counts["length"] += 1
            for link in [link for link in links if self.ended(link)]:
                links.remove(link)
                link.close()
                self.counts["length ended"] += 1
        self.cease("length", links)

    def opens(self) -> None:
        """Empty calls, at a steady rate over one connection, and the next where it ends."""
        block, stream, due = headers("/secfed.v1.Federation/GetStatus"), 1, time.monotonic()
        link: ssl.SSLSocket | None = None
        owed = Owed()
        while not self.over.is_set():
            try:
                if link is None or owed.ended(link):
                    link, stream, owed = self.http2(), 1, Owed()
                link.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
                owed.streams.add(stream)
                self.counts["open"] += 1
                stream += 2
            except OSError:
                link = None
            due += 60 / OPENS_PER_MINUTE
            self.over.wait(max(0.0, due - time.monotonic()))
        until = time.monotonic() + STAND_S
        while link is not None and self.ceasing and owed.streams and time.monotonic() < until:
            if owed.ended(link):
                owed.streams.clear()
            time.sleep(0.2)
        self.counts["open left"] += len(owed.streams)
        if link is not None:
            link.close()

    # -- all of it -----------------------------------------------------------------------------

    def give_up(self, why: str) -> NoReturn:
        """End the process, and its threads with it."""
        self.over.set()
        sys.exit(f"{why}: {dict(self.counts)}")

    def run(self) -> None:
        one_byte = frame(DATA, 0, 1, b"\x00")
        kept: list[tuple[str, int, Callable[[], socket.socket], bytes | None]] = [
            ("silent", SILENT, self.connect, None),
            ("preface", PREFACES, self.http2, None),
            ("upload", UPLOADS, self.upload, one_byte),
        ]
        threads = []
        for each in kept:
            self.standing.append(threading.Event())
            threads.append(threading.Thread(target=self.keep, args=each))
            threads[-1].start()
            if not self.standing[-1].wait(STAND_S):
                self.give_up(f"no {each[1]} links stand ({each[0]})")
        threads += [threading.Thread(target=self.lengths), threading.Thread(target=self.opens)]
        for thread in threads[len(kept) :]:
            thread.start()
        until = time.monotonic() + STAND_S
        while not (self.counts["length"] and self.counts["open"]):
            if time.monotonic() > until:
                self.give_up("no call gets through")
            self.over.wait(0.05)
        print("ready", flush=True)
        self.ceasing = sys.stdin.read().strip() == "cease"
        self.over.set()
        for thread in threads:
            thread.join()
        print(json.dumps(self.counts), flush=True)


if __name__ == "__main__":
    host, port = sys.argv[1].rsplit(":", 1)
    Flood((host, int(port)), Path(sys.argv[2]), Path(sys.argv[3])).run()

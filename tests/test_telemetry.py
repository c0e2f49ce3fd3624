"""Logs show no secret, in either form; metrics name no site."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from secfed import telemetry
from secfed.errors import PeerError
from secfed.identity.roles import Role
from secfed.telemetry import Metrics, redact

SECRET = "c0ffee-secret-value"


@dataclass
class Holder:
    inner: str


def clean(**values: Any) -> dict[str, Any]:
    return dict(redact(None, "info", {"event": "an event", **values}))


@pytest.mark.parametrize(
    "name",
    [
        "secret",
        "Passphrase",
        "tls_key_pem",
        "self_mask",
        "mask",
        "share",
        "shares",
        "prg_seed",
        "private",
        "password",
    ],
)
def test_a_value_under_a_telling_name_is_dropped(name: str) -> None:
    for value in (SECRET, [SECRET], {"x": SECRET}, 5, None):
        assert clean(**{name: value})[name] == "(redacted)"
        assert clean(outer={"inner": [{name: value}]})["outer"] == {"inner": [{name: "(redacted)"}]}


def test_bytes_are_a_length_and_objects_a_type() -> None:
    found = clean(
        a=SECRET.encode(),
        b=bytearray(3),
        c=memoryview(b"xy"),
        d=Holder(SECRET),
        e=np.ones(3),
        f={"list": [SECRET.encode(), (Holder(SECRET),)]},
    )
    assert found["a"] == "(19 bytes)"
    assert found["b"] == "(3 bytes)"
    assert found["c"] == "(2 bytes)"
    assert found["d"] == "(Holder)"
    assert found["e"] == "(ndarray)"
    assert found["f"] == {"list": ["(19 bytes)", ["(Holder)"]]}


def test_plain_facts_are_shown() -> None:
    found = clean(site="hosp-a", round=3, ok=True, path=Path("/x"), role=Role.CLIENT, error=PeerError("why"))
    assert found == {
        "event": "an event",
        "site": "hosp-a",
        "round": 3,
        "ok": True,
        "path": "/x",
        "role": "client",
        "error": "why",
    }


def test_the_event_itself_may_speak_of_keys() -> None:
    assert clean()["event"] == "an event"
    assert redact(None, "info", {"event": "key rotated"})["event"] == "key rotated"


def test_a_value_that_contains_itself_ends() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert "(dict)" in json.dumps(clean(x=loop))


@pytest.fixture
def stream() -> Any:
    yield io.StringIO()
    structlog.reset_defaults()


def test_json_lines_carry_time_level_and_no_secret(stream: io.StringIO) -> None:
    telemetry.configure("info", stream=stream)
    log = structlog.get_logger()
    log.debug("not shown")
    log.info("round published", round=3, seed=SECRET, blob=SECRET.encode())
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["round"], entry["level"]) == ("round published", 3, "info")
    assert entry["timestamp"].endswith("Z")
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variable(stream: io.StringIO, form: Any) -> None:
    telemetry.configure("debug", form=form, stream=stream)

    def fails(passphrase: str) -> None:
        raise PeerError(f"a passphrase of {len(passphrase)} characters")

    try:
        fails(SECRET)
    except PeerError:
        structlog.get_logger().exception("it failed", passphrase=SECRET)
    assert "a passphrase of 19 characters" in stream.getvalue()
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_words_of_others_steer_no_terminal(stream: io.StringIO, form: Any) -> None:
    telemetry.configure("info", form=form, stream=stream)
    told = "away\x1b[2A\r\x1b[2K\u202ehosp-a is well\nready"
    structlog.get_logger().warning("declined", why=told, path=Path(told), more=[{"deep": told}])
    try:
        raise PeerError(told)
    except PeerError:
        structlog.get_logger().exception("it failed")
    lines = stream.getvalue().splitlines()
    assert all(line.isprintable() and "\\u" not in line for line in lines)
    assert "away [2A" in lines[0]
    assert "Traceback" in "".join(lines[1:])


def test_off_a_terminal_there_are_no_colours(stream: io.StringIO) -> None:
    telemetry.configure("info", form="console", stream=stream)
    structlog.get_logger().warning("careful", site="hosp-a")
    assert "careful" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_metrics_count_and_name_no_site() -> None:
    metrics = Metrics()
    metrics.rounds_published.inc()
    metrics.attempts_voided.inc(2)
    metrics.upload_bytes.inc(1000)
    metrics.connected_clients.set(3)
    metrics.enter("mask")
    metrics.refused(PeerError("because of hosp-a"))
    text = metrics.render().decode()
    for line in (
        "secfed_rounds_published_total 1.0",
        "secfed_attempts_voided_total 2.0",
        "secfed_upload_bytes_total 1000.0",
        "secfed_connected_clients 3.0",
        'secfed_phase{secfed_phase="mask"} 1.0',
        'secfed_phase{secfed_phase="idle"} 0.0',
        'secfed_refusals_total{reason="PeerError"} 1.0',
    ):
        assert line in text
    assert "hosp" not in text


def test_two_daemons_in_one_process_do_not_share_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.rounds_published.inc()
    assert "secfed_rounds_published_total 0.0" in second.render().decode()

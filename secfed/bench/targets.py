"""The project's performance targets, each measured beside the machine's limits in the same run.

1. The mask kernel beside the best keystream.
2. A client until its vector is sent, beside the keystreams of its masks.
3. Opening the sum, beside the additions and keystreams that it takes.
4. The aggregator's memory, beside 3 vectors, 64 MiB and 1.5 KiB a member and neighbour.
5. An upload, beside its packed vector, 1 %, 25 KiB and 1.3 KiB a neighbour.
6. The server's processor time for an uploaded byte, beside a bare gRPC stream's over the same TLS.
7. Sums that are not the survivors' sum bit for bit: none.
8. A step of DP-SGD, beside the same step without privacy.

A target is a ratio, so that it means the same on every machine. The cases take turns with their
own limits; a busy machine widens the ratios of whatever waits for memory, and hardly the others.
With each ratio comes what it consists of, so that a target that is missed is explained by the same run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from secfed.bench import limits, loopback, secure_sum
from secfed.bench.cohort import Setting
from secfed.bench.costs import Bill
from secfed.bench.floors import time_kernel
from secfed.bench.roundtrip import RoundTrip

__all__ = ["Row", "measure", "memory_row", "row_of_trip", "rows_of", "rows_of_all", "upload_row"]

ROUND_SHAPE = Setting(10, 6_815_744)
"""Ten sites with a rank-16 adapter of an 8B model's attention (q, v)."""

_KERNEL_AT_MOST = 1.5
_SERVER_AT_MOST = 1.3
_STEP_AT_MOST = {16: 1.11, 64: 1.05}

_REPEATS = 4
_REPEATS_UPTO = 20
"""Up to so many clients a setting's rounds are repeated; above, one round takes a minute."""


@dataclass(frozen=True, slots=True)
class Row:
    """One target.

    Attributes:
        number: Which of the eight, as this module lists them.
        ratio: What was measured, as a multiple of the limit of the same run.
        at_most: What it may be.
        measured: The figures behind the ratio, in words.
        parts: What the ratio consists of, by kind of work, from a round or turn that was profiled, so that
            they add up to about the ratio; of memory what each stage held at most.
    """

    number: int
    target: str
    ratio: float
    at_most: float
    measured: str
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether the ratio is within its bound."""
        return self.ratio <= self.at_most


@dataclass(frozen=True, slots=True)
class _Case:
    """A secure sum with what it may cost, None where nothing is asked."""

    setting: Setting
    client: float | None
    aggregator: float | None


def _cases(threads: int, *, thousand: bool) -> tuple[_Case, ...]:
    cases = [
        _Case(Setting(10, 1_000_000, 3), 2.0, 1.8),
        _Case(replace(ROUND_SHAPE), 2.0, None),
        _Case(Setting(50, 100_000, 15), None, 2.5),
        _Case(Setting(100, 1_000_000, 30), 1.5, 1.6),
    ]
    if thousand:
        cases.append(_Case(Setting(1000, 1_000_000, 50, corrupt=50, losses=50), 1.6, 1.5))
    return tuple(
        replace(case, setting=replace(case.setting, threads=threads, repeats=_repeats(case.setting)))
        for case in cases
    )


def _repeats(setting: Setting) -> int:
    return _REPEATS if setting.clients <= _REPEATS_UPTO else 2 if setting.clients <= 128 else 1


def measure(
    folder: Path,
    *,
    threads: int,
    thousand: bool,
    models: Path | None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Row]:
    """Measure one target after the other.

    Args:
        folder: Where uploads are written: 3 GB for a thousand clients.
        threads: Of the aggregator's unmasking.
        thousand: Measure the cohort of a thousand too, which takes minutes.
        models: The cache of models, for the DP step; None leaves it out.
        tell: Hears what is measured.
    """
    tell("the mask kernel")
    kernel, keystream, ratio = limits.kernel_ratio(9, 1_000_000, 15)
    rates = f"{kernel / 1e9:.1f} of {keystream / 1e9:.1f} GB/s"
    parts = _kernel_parts(ratio, keystream)
    yield Row(1, "mask kernel to keystream, k = 9, d = 1e6", ratio, _KERNEL_AT_MOST, rates, parts)
    bills: list[Bill] = []
    for case in _cases(threads, thousand=thousand):
        tell(f"a secure sum of {_shape(case.setting)}")
        with tempfile.TemporaryDirectory(prefix="secfed-bench-", dir=folder) as name:
            bill = secure_sum.measure(case.setting, Path(name))
        bills.append(bill)
        yield from rows_of(bill, client=case.client, aggregator=case.aggregator)
    yield from rows_of_all(bills)
    tell("a round over loopback")
    with tempfile.TemporaryDirectory(prefix="secfed-bench-", dir=folder) as name:
        trip = loopback.measure(replace(ROUND_SHAPE, repeats=2), Path(name))
    (alike,) = (bill for bill in bills if _shape(bill.setting) == _shape(ROUND_SHAPE))
    yield row_of_trip(trip, alike)
    if models is not None:
        yield from _steps(models, tell)


def _kernel_parts(ratio: float, keystream: float) -> dict[str, float]:
    """What the kernel's ratio consists of: its keystreams, its additions, each timed, and the rest."""
    kernel = time_kernel(1_000_000, 10)
    limit = 10 * 4_000_000 / keystream
    parts = {"keystream": kernel.keystream_s / limit, "adding it": kernel.add_s / limit}
    return parts | {"rest": max(0.0, ratio - sum(parts.values()))}


def rows_of(bill: Bill, *, client: float | None, aggregator: float | None) -> Iterator[Row]:
    """What one sum shows.

    Args:
        client: What a client may take until its vector is sent, of its floor; None where nothing is asked.
        aggregator: What opening the sum may be; likewise.
    """
    setting = bill.setting
    shape = f"{_shape(setting)}, k = {bill.params.neighbours}"
    if client is not None:
        cost = f"floor {1e3 * bill.client_floor_s:.1f} ms"
        words = f"client until sent, {shape}"
        kernel = f"{words}: rounding, keys, shares, masks"
        yield Row(2, kernel, bill.client_kernel_ratio, client, cost, bill.client_kernel_parts())
        yield Row(2, f"{words}: everything", bill.client_ratio, client, cost, bill.client_parts())
    if aggregator is not None:
        lost = f"{100 * setting.dropouts // setting.clients} % lost"
        cost = f"floor {1e3 * bill.aggregator_floor_s:.1f} ms"
        words, parts = f"aggregator's sum, {shape}, {lost}", bill.aggregator_parts()
        yield Row(3, words, bill.aggregator_ratio, aggregator, cost, parts)


def rows_of_all(bills: list[Bill]) -> Iterator[Row]:
    """What is asked of every sum; the worst counts, of up to a few hundred members and of a thousand."""
    for some in ([bill for bill in bills if not _large(bill)], [bill for bill in bills if _large(bill)]):
        if some:
            yield memory_row(max(some, key=lambda bill: bill.peak_mib / bill.peak_limit_mib))
            yield upload_row(max(some, key=lambda bill: bill.upload_bytes / bill.upload_limit_bytes))
    wrong = sum(not bill.exact for bill in bills)
    yield Row(
        7, "sums that are not the survivors' sum bit for bit", float(wrong), 0.0,
        f"{len(bills) - wrong} of {len(bills)} exact",
    )  # fmt: skip


def memory_row(bill: Bill) -> Row:
    """What the aggregator held."""
    words = "aggregator's peak memory, of 3 x 4 d + 64 MiB + 1.5 KiB n k"
    held = f"{bill.peak_mib:.0f} of {bill.peak_limit_mib:.0f} MiB at {_shape(bill.setting)}"
    return Row(4, words, bill.peak_mib / bill.peak_limit_mib, 1.0, held, bill.peak_parts())


def upload_row(bill: Bill) -> Row:
    """What a client sent."""
    words = "upload, of B/8 d + 1 % + 25 KiB + 1.3 KiB k"
    sent = f"{bill.upload_bytes} of {bill.upload_limit_bytes} bytes at {_shape(bill.setting)}"
    return Row(5, words, bill.upload_bytes / bill.upload_limit_bytes, 1.0, sent, bill.upload_parts())


def _large(bill: Bill) -> bool:
    return bill.setting.clients >= 1000


def row_of_trip(trip: RoundTrip, bill: Bill) -> Row:
    """The server over the network; what it does with the bytes comes from the same sum without the network.

    Args:
        bill: Of as many clients and coordinates.
    """
    cost = f"{trip.cpu_s_per_gb:.2f} to {trip.bare.cpu_s_per_gb:.2f} CPU s a GB"
    bare_s = trip.bare.cpu_s_per_gb * trip.uploaded_bytes / 1e9
    parts = {"bare stream": 1.0} | {
        name: spent / bare_s for name, spent in bill.receiving_parts_s().items() if name != "rest"
    }
    parts["rest"] = max(0.0, trip.ratio - sum(parts.values()))
    return Row(6, f"server to bare stream, {_shape(bill.setting)}", trip.ratio, _SERVER_AT_MOST, cost, parts)


def _steps(models: Path, tell: Callable[[str], None]) -> Iterator[Row]:
    """The DP step: torch is loaded only here."""
    from secfed.bench import dp_step

    with tempfile.TemporaryDirectory(prefix="secfed-bench-") as scratch:
        for batch, at_most in _STEP_AT_MOST.items():
            for setting in dp_step.settings(models, Path(scratch), batch):
                tell(f"the DP step, batch {batch}, {setting.name}")
                steps = dp_step.measure(setting, 16, 9)
                private, plain = steps.median_s["DP-SGD"], steps.median_s["plain"]
                cost = f"{1e3 * private:.0f} to {1e3 * plain:.0f} ms"
                words = f"DP step to plain step, batch {batch}, {steps.model}"
                yield Row(8, words, steps.to_plain, at_most, cost, steps.parts_to_plain)


def _shape(setting: Setting) -> str:
    return f"n = {setting.clients}, d = {_count(setting.coordinates)}"


def _count(coordinates: int) -> str:
    return f"{coordinates / 1e6:.3g}e6" if coordinates >= 1_000_000 else f"{coordinates / 1e5:.3g}e5"

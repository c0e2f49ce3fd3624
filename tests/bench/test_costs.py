"""Floors and bounds by hand, and which rounds count."""

from __future__ import annotations

import pytest

from secfed.bench.bare import Stream
from secfed.bench.cohort import Setting
from secfed.bench.costs import TOTAL, UNTIL_SENT, Bill, Side
from secfed.bench.floors import Bare, Kernel
from secfed.bench.limits import Rates
from secfed.bench.meter import Reading
from secfed.bench.roundtrip import RoundTrip
from secfed.bench.seats import ENCODE, OPEN, SUM
from secfed.bench.targets import Row, row_of_trip, rows_of, rows_of_all
from secfed.secagg.messages import Phase
from secfed.secagg.params import Params

BARE = Bare({"derive.seal_envelope": 0.25}, {"derive.seal_envelope": 0.01})
PHASES = [phase.value for phase in Phase if phase is not Phase.DONE]


def client(cpu_s: float, up: int = 100) -> dict[str, Reading]:
    """Half of each stage is masks, a tenth is two calls of AEAD with 100 bytes."""
    return {
        stage: Reading(
            cpu_s=cpu_s,
            bytes_up=up,
            parts={"masks": cpu_s / 2, "AEAD": cpu_s / 10},
            work={"AEAD": {"derive.seal_envelope": (2, 100)}},
        )
        for stage in [ENCODE, *PHASES]
    }


def aggregator(cpu_s: float, peak_mib: float = 1.0) -> dict[str, Reading]:
    stages = [OPEN, *PHASES, SUM]
    return {stage: Reading(cpu_s=cpu_s, peak_mib=peak_mib, parts={"masks": cpu_s}) for stage in stages}


@pytest.fixture
def bill() -> Bill:
    """Ten members, three lost; with weight and counter a vector has 1000 words, 4000 bytes."""
    return Bill(
        Setting(10, 998, 3),
        Params.complete(10, 1, min_cohort=3),
        Side(
            [client(3.0), client(2.0), client(9.0)],
            Rates(keystream=1000.0, add=2000.0, add_in_cache=4000.0),
            BARE,
            Kernel(keystream_s=4.0, add_s=0.2),
        ),
        Side(
            [aggregator(5.0), aggregator(4.0, 7.0), aggregator(8.0)],
            Rates(keystream=500.0, add=700.0, add_in_cache=900.0),
            BARE,
            Kernel(keystream_s=5.0, add_s=4.0),
        ),
        exact=True,
    )


def test_floors_worked_by_hand(bill: Bill) -> None:
    """Client: 10 streams. Aggregator: 7 vectors to add, and 7 + 3 x 7 streams."""
    assert bill.client_floor_s == 10 * 4000 / 1000
    assert bill.leftover_masks == 28
    assert bill.aggregator_floor_s == pytest.approx(7 * 4000 / 700 + 28 * 4000 / 500)


def test_bounds_worked_by_hand(bill: Bill) -> None:
    """20-bit words of 998 coordinates are 2495 bytes; 64 MiB, three vectors and 90 edges."""
    assert bill.upload_limit_bytes == 2520 + 25 * 1024 + 9 * 1331
    assert bill.peak_limit_mib == pytest.approx(64 + (3 * 4000 + 90 * 1536) / 2**20)
    assert bill.upload_bytes == 700
    assert bill.peak_mib == 7.0


def test_the_cheapest_round_counts_and_the_profiled_one_gives_the_parts(bill: Bill) -> None:
    """Rounds of 3, 2 and 9 s a stage: 5 stages of 2 s against the floor; the parts are of the last."""
    assert bill.client_ratio == 5 * 2.0 / bill.client_floor_s
    assert bill.client_kernel_ratio == pytest.approx(5 * 5.4 / bill.client_floor_s)
    assert bill.aggregator_ratio == 4.0 / bill.aggregator_floor_s
    lines = {(each.side, each.stage, each.part): each for each in bill.figures()}
    assert lines["client", UNTIL_SENT, None].cpu_s == 10.0
    assert lines["client", TOTAL, None].cpu_s == 14.0
    assert lines["client", Phase.MASK.value, "masks"].cpu_s == 4.5
    assert lines["client", Phase.MASK.value, "rest"].cpu_s == pytest.approx(3.6)
    assert lines["aggregator", SUM, None].ratio == bill.aggregator_ratio
    assert lines["aggregator", SUM, "masks"].floor_s == 28 * 4000 / 500


def test_masks_are_the_kernels_two_halves_and_what_the_round_took_beside_them(bill: Bill) -> None:
    """4 s and .2 s of the client's 4.5; the aggregator's kernel by itself was dearer than its round."""

    def split(side: str, stage: str) -> dict[str | None, tuple[float | None, float | None]]:
        return {
            each.part: (each.cpu_s, each.floor_s)
            for each in bill.figures()
            if (each.side, each.stage) == (side, stage) and (each.part or "").startswith("masks: ")
        }

    assert split("client", Phase.MASK.value) == {
        "masks: keystream": (4.0, 40.0),
        "masks: add": (pytest.approx(0.2), 10.0),
        "masks: rest": (pytest.approx(0.3), None),
    }
    assert {name: cost for name, (cost, _) in split("aggregator", SUM).items()} == {
        "masks: keystream": 5.0,
        "masks: add": 3.0,
        "masks: rest": 0.0,
    }


def test_a_floor_is_what_was_called_at_the_price_of_its_primitive(bill: Bill) -> None:
    """Two seals of .25 s and 100 bytes at .01 s in a stage; where the protocol has its own floor, that."""
    lines = {(each.side, each.stage, each.part): each for each in bill.figures()}
    share, mask = Phase.SHARE.value, Phase.MASK.value
    assert lines["client", share, "AEAD"].floor_s == 2 * 0.25 + 100 * 0.01
    assert lines["client", share, "AEAD"].ratio == pytest.approx(0.9 / 1.5)
    assert lines["client", share, None].floor_s == 1.5  # masks stand on no primitive outside their phase
    assert lines["client", mask, None].floor_s == bill.client_floor_s
    assert lines["client", share, "rest"].floor_s is None
    assert lines["client", TOTAL, None].floor_s == pytest.approx(6 * 1.5 + bill.client_floor_s)


def test_parts_make_up_the_ratio_of_the_profiled_round(bill: Bill) -> None:
    """9 s a stage: half of it masks, a tenth AEAD."""
    floor, parts = bill.client_floor_s, bill.client_parts()
    assert sum(parts.values()) == pytest.approx(5 * 9.0 / floor)
    assert parts["masks: keystream"] == 4.0 / floor
    assert parts["AEAD"] == pytest.approx(5 * 0.9 / floor)
    assert bill.client_kernel_ratio == pytest.approx(5 * 5.4 / floor)
    assert sum(bill.aggregator_parts().values()) == pytest.approx(8.0 / bill.aggregator_floor_s)
    assert bill.receiving_parts_s() == {"masks": 8.0, "rest": 0.0}
    assert sum(bill.upload_parts().values()) == pytest.approx(bill.upload_bytes / bill.upload_limit_bytes)
    assert max(bill.peak_parts().values()) == bill.peak_mib / bill.peak_limit_mib


def test_the_server_is_told_apart_by_the_same_sum_without_the_network(bill: Bill) -> None:
    """Bare 2 s and 9 s in all; 8 s of work are known, and what they leave belongs to nothing."""
    trip = RoundTrip(
        bill.setting, bill.params, bill.client, [], (), 1.0, 9.0,
        uploaded_bytes=10**9, upload_cpu_s=9.0, peak_mib=1.0, empty_call_s=0.0,
        bare=Stream(10**9, 1.0, 2.0), exact=True,
    )  # fmt: skip
    row = row_of_trip(trip, bill)
    assert (row.number, row.ratio) == (6, 4.5)
    assert row.parts == {"bare stream": 1.0, "masks": 4.0, "rest": 0.0}


def test_a_target_is_met_up_to_its_bound(bill: Bill) -> None:
    assert Row(1, "a", 1.5, 1.5, "").met
    assert not Row(1, "a", 1.51, 1.5, "").met
    two = [row for row in rows_of(bill, client=2.0, aggregator=1.8) if row.number == 2]
    assert [row.ratio for row in two] == [bill.client_kernel_ratio, bill.client_ratio]
    assert {row.number for row in rows_of_all([bill])} == {4, 5, 7}
    assert all(row.met for row in rows_of_all([bill]))


def test_a_thousand_members_have_rows_of_their_own(bill: Bill) -> None:
    """Memory and bytes of the largest cohort, whatever the others show."""
    slots = {name: getattr(bill, name) for name in Bill.__slots__}
    large = Bill(**slots | {"setting": Setting(1000, 998, 50)})
    rows = [
        (row.number, row.measured.endswith("n = 1000, d = 0.00998e5")) for row in rows_of_all([bill, large])
    ]
    assert rows == [(4, False), (5, False), (4, True), (5, True), (7, False)]


def test_one_wrong_sum_misses_the_target(bill: Bill) -> None:
    wrong = Bill(**{name: getattr(bill, name) for name in Bill.__slots__} | {"exact": False})
    (row,) = [row for row in rows_of_all([bill, wrong]) if row.number == 7]
    assert not row.met

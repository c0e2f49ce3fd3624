"""The README's plot of costs: both themes, every panel, from lines as `measure.py` writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

PLOT = Path(__file__).parents[2] / "examples" / "cost" / "plot.py"
SVG = "{http://www.w3.org/2000/svg}"


def line(clients: int, coordinates: int, share: float) -> str:
    costs = {"client_s": 0.02, "client_floor_s": 0.01, "aggregator_s": 0.04, "aggregator_floor_s": 0.02}
    setting = {"clients": clients, "coordinates": coordinates, "dropouts": round(share * clients)}
    return json.dumps({"case": [clients, coordinates, share], "neighbours": clients - 1} | setting | costs)


@pytest.mark.slow
def test_without_figures_it_says_what_to_run(tmp_path: Path) -> None:
    command = [sys.executable, str(PLOT), "--figures", str(tmp_path / "none"), "--out", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "no figures yet: run measure.py first\n")


@pytest.mark.slow
def test_both_themes_show_every_panel_with_its_units(tmp_path: Path) -> None:
    """Text stays text, on a background of its own, and nothing in the file tells when it was made."""
    cases = [(10, 10_000), (10, 100_000), (10, 1_000_000), (50, 100_000), (50, 1_000_000)]
    figures = tmp_path / "figures.jsonl"
    figures.write_text("\n".join(line(*case, share) for case in cases for share in (0.0, 0.1, 0.3)))
    command = [sys.executable, str(PLOT), "--figures", str(figures), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pages = {}
    for theme, page in (("light", "#ffffff"), ("dark", "#0d1117")):
        text = (tmp_path / f"cost-{theme}.svg").read_text(encoding="utf-8")
        shown = {"".join(found.itertext()) for found in ElementTree.fromstring(text).iter(f"{SVG}text")}
        assert {"A client, 10 members", "A client, by its neighbours"} <= shown
        assert {"The aggregator's sum, d = 100 000", "The aggregator's sum, 10 members"} <= shown
        assert {
            "processor seconds (log)",
            "coordinates d (log)",
            "neighbours k (log)",
            "members n (log)",
        } <= shown
        assert {"0% lost", "10% lost", "30% lost", "d = 1 000 000"} <= shown
        assert f"fill: {page}" in text
        assert "<dc:date>" not in text
        pages[theme] = text
    assert pages["light"] != pages["dark"]

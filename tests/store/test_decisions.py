"""Decisions: written once, durable, one process."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.errors import DecisionConflictError, LockedError, StorageError
from secfed.store.decisions import DecisionStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.db"


def test_the_same_again_is_fine_and_anything_else_is_refused_for_good(path: Path) -> None:
    with DecisionStore(path) as store:
        store.put("survivors/1/2", b"abc")
        store.put("survivors/1/2", b"abc")
        with pytest.raises(DecisionConflictError, match=r"survivors/1/2 was already decided"):
            store.put("survivors/1/2", b"abd")
        assert store.get("survivors/1/2") == b"abc"
    with DecisionStore(path) as store:
        with pytest.raises(DecisionConflictError):
            store.put("survivors/1/2", b"")
        assert store.get("survivors/1/2") == b"abc"
        assert store.get("survivors/1/3") is None


def test_a_refusal_does_not_repeat_what_was_decided(path: Path) -> None:
    with DecisionStore(path) as store:
        store.put("k", b"PRIVATE-VALUE")
        with pytest.raises(DecisionConflictError) as refused:
            store.put("k", b"OTHER-VALUE")
    assert "VALUE" not in str(refused.value)


def test_what_is_forgotten_is_gone_for_good_and_nothing_else_is(path: Path) -> None:
    with DecisionStore(path) as store:
        store.put("frozen/a", b"bulk" * 1000)
        store.put("frozen/b", b"kept")
        store.forget("frozen/a")
        store.forget("frozen/a")
        assert (store.get("frozen/a"), store.get("frozen/b")) == (None, b"kept")
    with DecisionStore(path) as store:
        assert store.scan("frozen/") == [("frozen/b", b"kept")]


def test_scan_takes_exactly_the_prefix_in_order(path: Path) -> None:
    with DecisionStore(path) as store:
        for key in ("b/1", "a/2", "a/10", "a", "a0", "a/~~~", "A/1"):
            store.put(key, key.encode())
        assert store.scan("a/") == [(key, key.encode()) for key in ("a/10", "a/2", "a/~~~")]
        assert len(store.scan("")) == 7


@pytest.mark.parametrize("key", ["", "a b", "é", "a\n", "x" * 401])
def test_odd_keys_are_a_callers_bug(path: Path, key: str) -> None:
    with DecisionStore(path) as store, pytest.raises(ValueError, match="no decision"):
        store.put(key, b"")


def test_the_file_is_private_and_durably_set_up(path: Path) -> None:
    with DecisionStore(path) as store:
        store.put("k", b"v")
        for file in path.parent.iterdir():
            assert file.stat().st_mode & 0o077 == 0, file
        assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_in_which_others_may_exchange_the_file_is_refused(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    with pytest.raises(StorageError, match="can be used by others"):
        DecisionStore(path)
    assert not path.exists()
    path.parent.chmod(0o755)
    DecisionStore(path).close()


def test_a_second_store_on_the_file_is_turned_away(path: Path) -> None:
    with DecisionStore(path), pytest.raises(LockedError):
        DecisionStore(path)
    DecisionStore(path).close()


def test_what_was_put_survives_a_killed_process(path: Path) -> None:
    program = (
        "import os, sys, pathlib; from secfed.store.decisions import DecisionStore\n"
        "store = DecisionStore(pathlib.Path(sys.argv[1]))\n"
        "[store.put(f'k/{n}', bytes([n])) for n in range(20)]; os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -9
    with DecisionStore(path) as store:
        assert len(store.scan("k/")) == 20


@pytest.mark.parametrize(("at", "found"), [("before:decide k", None), ("after:decide k", b"v")])
def test_a_crash_at_each_step_leaves_all_or_nothing(
    path: Path, stop: Any, crash: type[BaseException], at: str, found: bytes | None
) -> None:
    stop.at = at
    with DecisionStore(path, barrier=stop) as store, pytest.raises(crash):
        store.put("k", b"v")
    with DecisionStore(path) as store:
        assert store.get("k") == found


def test_a_damaged_file_is_named_and_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"decisions\.db") as told:
        DecisionStore(path)
    assert "never restore a state from a backup" in told.value.hint
    assert path.read_bytes() == before


def test_an_emptied_file_is_no_new_one(path: Path) -> None:
    """SQLite would begin anew, and all that was decided would be undone."""
    with DecisionStore(path) as store:
        store.put("k", b"v")
    path.write_bytes(b"")
    with pytest.raises(StorageError, match=r"decisions\.db is empty") as told:
        DecisionStore(path)
    assert "never restore a state from a backup" in told.value.hint
    assert "keys rotate" in told.value.hint
    assert path.read_bytes() == b""


@pytest.mark.parametrize("part", [b"value-of-a-decision", b"key-of-a-decision"])
def test_a_byte_that_changed_in_a_row_is_noticed(path: Path, part: bytes) -> None:
    """SQLite keeps no digest of its own."""
    with DecisionStore(path) as store:
        store.put("key-of-a-decision", b"value-of-a-decision")
    data = bytearray(path.read_bytes())
    data[data.index(part) + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"decisions\.db is damaged: a decision in it was changed"):
        DecisionStore(path)
    assert path.read_bytes() == data


def test_another_format_is_refused(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 7")
    database.commit()
    database.close()
    with pytest.raises(StorageError, match="format 7"):
        DecisionStore(path)


def test_a_full_disk_is_a_storage_error_that_names_the_file(path: Path) -> None:
    with DecisionStore(path) as store:
        store._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(StorageError, match=r"decisions\.db.*full"):
            store.put("k", os.urandom(1 << 20))
        assert store.get("k") is None
        store.put("small", b"still works")


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.binary(max_size=2), st.booleans()),
        max_size=20,
    )
)
@settings(max_examples=20, deadline=None)
def test_it_behaves_like_a_mapping_that_never_changes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes, bool]]
) -> None:
    """Whatever is put, in whatever order and across restarts: the first value stands."""
    path = tmp_path_factory.mktemp("store") / "d.db"
    model: dict[str, bytes] = {}
    store = DecisionStore(path)
    for key, value, restart in steps:
        if restart:
            store.close()
            store = DecisionStore(path)
        if model.setdefault(key, value) == value:
            store.put(key, value)
        else:
            with pytest.raises(DecisionConflictError):
                store.put(key, value)
    assert dict(store.scan("")) == model
    store.close()

"""One-shot calls to the aggregator, by an admin's or a site's configuration."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from secfed.cli.passphrase import Source
    from secfed.config import AdminConfig, ClientConfig
    from secfed.identity.keyfile import MemberKeys
    from secfed.rounds.rosters import RosterKeeper
    from secfed.transport.client import Connection

__all__ = ["PATIENCE_S", "Member", "connect", "member_config"]

PATIENCE_S = 8.0
"""How long a command at a terminal tries an aggregator that is away."""


def member_config(path: Path) -> AdminConfig | ClientConfig:
    """Read admin.toml or client.toml, whichever this is.

    Raises:
        ConfigError: It is neither.
    """
    import tomllib

    from secfed.config import AdminConfig, ClientConfig, load
    from secfed.errors import ConfigError

    try:
        is_site = "state_dir" in tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise ConfigError(
            f"{path}: {problem.strerror}", hint="Name an admin.toml or client.toml with --config."
        ) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        is_site = True  # `load` says what is wrong, with the line
    return load(path, ClientConfig) if is_site else load(path, AdminConfig)


class Member:
    """A member at the command line: its configuration, keys and newest roster.

    Raises:
        SecfedError: Configuration, key file or roster cannot be used.
    """

    def __init__(self, config_path: Path, secrets: Source) -> None:
        from secfed.identity import keyfile
        from secfed.identity.fields import from_base64
        from secfed.rounds.rosters import RosterKeeper

        self.config = member_config(config_path)
        self.keys: MemberKeys = keyfile.load(self.config.key, secrets.for_existing(self.config.key))
        self.rosters: RosterKeeper = RosterKeeper(self.config.roster, from_base64(self.config.roster_key, 32))

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for a few calls."""
        import time
        from datetime import UTC, datetime

        from secfed.transport.client import Connection

        with Connection(
            self.config.aggregator,
            self.keys,
            self.rosters,
            time.time_ns,  # new at every call, and commands of one member need no common file for it
            now=lambda: datetime.now(UTC),
            patience_s=PATIENCE_S,
        ) as made:
            yield made


@contextmanager
def connect(config_path: Path, secrets: Source) -> Iterator[Connection]:
    """A connection as the member of this configuration."""
    with Member(config_path, secrets).connection() as made:
        yield made

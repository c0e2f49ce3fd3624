"""`secfed init`, `enroll` and `revoke`: what the owner of a federation does with the roster key."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.passphrase import Descriptor, NoPassphrase, PassphraseFile
from secfed.limits import ENROLMENT_BYTES_MAX, ROSTER_FILE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from secfed.crypto.signing import SigningKey
    from secfed.identity.enrolment import Enrolment
    from secfed.identity.roster import Roster

__all__ = ["FederationFolder", "enroll", "init", "open_roster", "publish_roster", "revoke"]

ROSTER_FILE = "roster.txt"
ROSTER_KEY_FILE = "roster.key"
ROSTER_PUBLIC_FILE = "roster.pub"
AGGREGATOR_FILE = "aggregator.toml"
ADMIN_FILE = "admin.toml"
INVITES = "invites"

_OPS, _HEALTH = "127.0.0.1:9443", "127.0.0.1:9444"

FederationFolder = Annotated[
    Path, typer.Option("--dir", help="The federation's folder, as `secfed init` made it.")
]
_Corrupt = Annotated[
    int | None,
    typer.Option(
        "--corrupt", min=1, help="Clients that may collude with the aggregator; default: a tenth, at least 1."
    ),
]


def init(
    directory: Annotated[Path, typer.Argument(help="A new folder for the federation.")] = Path("federation"),
    address: Annotated[
        str, typer.Option("--address", help="host:port under which the sites will reach the aggregator.")
    ] = "127.0.0.1:8443",
    listen: Annotated[
        str | None, typer.Option("--listen", help="host:port to listen on, if it is another one.")
    ] = None,
    ops: Annotated[
        str | None,
        typer.Option("--ops", help=f"Loopback host:port for health and metrics over HTTP; default {_OPS}."),
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(
            "--health",
            help=f"Loopback host:port of the gRPC health service; default {_HEALTH}, with --ops none.",
        ),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, help="How long roster and keys serve.")
    ] = 730,
    min_cohort: Annotated[
        int, typer.Option("--min-cohort", min=3, help="Fewest sites whose sum may be opened.")
    ] = 3,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Make a federation: roster key, aggregator and first admin with keys and configuration."""
    from datetime import UTC, datetime, timedelta

    from secfed.cli.passphrase import source
    from secfed.config import AdminConfig, AggregatorConfig, checked, to_toml
    from secfed.errors import ConfigError
    from secfed.identity import keyfile, membership
    from secfed.identity.fields import to_base64
    from secfed.identity.fingerprint import roster_fingerprint
    from secfed.identity.roles import Role
    from secfed.ids import ClientId
    from secfed.store import files

    if (directory / ROSTER_KEY_FILE).exists():
        raise ConfigError(f"{directory} already holds a federation", hint="Choose a new folder.")
    if directory.exists():
        raise ConfigError(f"{directory} exists already", hint="Name a new folder; it is made here.")
    _check_dialled(address)
    unsigned = to_base64(bytes(32))  # the roster key is made once everything else was checked
    aggregator = checked(
        AggregatorConfig,
        directory,
        site="aggregator",
        key="aggregator.key",
        roster=ROSTER_FILE,
        roster_key=unsigned,
        state_dir="state",
        output_dir="out",
        listen=listen or address,
        advertise=address,
        ops_listen=ops or _OPS,
        health_listen=health or (_HEALTH if ops is None else None),
    )
    now = datetime.now(UTC)
    not_after = now + timedelta(days=days)
    secret = source(passphrase_file, passphrase_fd, no_passphrase).for_new("the keys of this federation")
    with _new_folder(directory) as draft:
        key = keyfile.create_roster_key(draft / ROSTER_KEY_FILE, passphrase=secret, now=now)
        enrolments = [
            keyfile.create(
                draft / f"{name}.key",
                site=ClientId(name),
                role=role,
                passphrase=secret,
                now=now,
                validity=timedelta(days=days),
            ).enrolment
            for name, role in (("aggregator", Role.AGGREGATOR), ("admin", Role.ADMIN))
        ]
        roster = membership.create(key, enrolments, now=now, not_after=not_after, min_cohort=min_cohort)
        public = to_base64(key.public)
        admin = checked(
            AdminConfig,
            directory,
            site="admin",
            key="admin.key",
            federation=roster.federation,
            roster_key=public,
            roster=ROSTER_FILE,
            aggregator=address,
        )
        texts = {
            ROSTER_FILE: roster.text,
            ROSTER_PUBLIC_FILE: public.encode() + b"\n",
            AGGREGATOR_FILE: to_toml(
                aggregator.model_copy(update={"roster_key": public}), directory
            ).encode(),
            ADMIN_FILE: to_toml(admin, directory).encode(),
        }
        for name, text in texts.items():
            files.create_exclusive(draft / name, text, mode=files.PUBLIC_MODE)
    typer.echo(f"federation     {roster.federation}  ends on {not_after:%Y-%m-%d}")
    typer.echo(
        f"roster key     {directory / ROSTER_KEY_FILE}  (keep it offline; its loss ends the federation)"
    )
    typer.echo(f"fingerprint    {roster_fingerprint(key.public)}  (the sites compare it by phone)")
    typer.echo(f"aggregator     {directory / AGGREGATOR_FILE}  listens on {aggregator.listen}")
    typer.echo(f"admin          {directory / ADMIN_FILE}")
    typer.echo(f"next           secfed enroll --dir {directory} SITE.pub ...")


def enroll(
    public_files: Annotated[list[Path], typer.Argument(help="The sites' SITE.pub files.")],
    directory: FederationFolder = Path("federation"),
    rotate: Annotated[
        bool, typer.Option("--rotate", help="The sites are enrolled already and bring new keys.")
    ] = False,
    corrupt: _Corrupt = None,
    address: Annotated[
        str | None, typer.Option("--address", help="host:port for the invites, if not the configured one.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The fingerprints were compared: do not ask.")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Take sites into the roster and write an invite for each that dials; nobody else's files change."""
    from datetime import UTC, datetime

    from secfed.cli.passphrase import source
    from secfed.errors import AuthenticationError, ConfigError
    from secfed.identity import enrolment, invite, membership
    from secfed.identity.roles import Role
    from secfed.store import files

    if rotate and corrupt is not None:
        raise ConfigError("--corrupt goes with new sites, not with --rotate")
    where = _dialled(address, directory)
    found: list[Enrolment] = []
    for path in public_files:
        try:
            found.append(enrolment.verify(files.read_small(path, ENROLMENT_BYTES_MAX)))
        except OSError as problem:
            raise ConfigError(f"{path}: {problem.strerror}") from problem
    for each in found:
        typer.echo(f"{each.site:<24} {each.role.value:<10} {each.fingerprint}")
    if not yes and not typer.confirm(
        "Did each site read the same fingerprint to you by phone?", prompt_suffix="\n ", err=True
    ):
        raise AuthenticationError(
            "the fingerprints were not confirmed, and nobody was enrolled",
            hint="Call each site; if a fingerprint differs, have the site send its public file again.",
        )
    key, roster = open_roster(
        directory, source(passphrase_file, passphrase_fd).for_existing(directory / ROSTER_KEY_FILE)
    )
    now = datetime.now(UTC)
    if rotate:
        for each in found:
            roster = membership.rotate(roster, key, each, now=now)
    else:
        _refuse_enrolled(roster, found)
        roster = membership.enroll(roster, key, found, now=now, corrupt=corrupt)
    invites = {
        directory / INVITES / f"{each.site}.invite": invite.create(key, roster, each.site, where)
        for each in found
        if each.role is not Role.AGGREGATOR  # it dials nobody, and joins nothing
    }
    # The roster comes last: should a write fail before, the same command can be given again.
    files.make_directory(directory / INVITES)
    for path, data in invites.items():
        files.replace(path, data, mode=files.PUBLIC_MODE)
    publish_roster(directory, roster)
    for path in invites:
        typer.echo(f"invite         {path}  (send it to {path.stem})")
    typer.echo(f"roster         {directory / ROSTER_FILE}  version {roster.version}")
    _say_what_holds(roster)


def revoke(
    site: Annotated[str, typer.Argument(help="The site's name.")],
    directory: FederationFolder = Path("federation"),
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Take a site out: a running aggregator cuts its streams within 5 s, and nobody else's files change."""
    from secfed.cli.passphrase import source
    from secfed.identity import membership
    from secfed.ids import ClientId

    key, roster = open_roster(
        directory, source(passphrase_file, passphrase_fd).for_existing(directory / ROSTER_KEY_FILE)
    )
    roster = membership.revoke(roster, key, ClientId(site))
    publish_roster(directory, roster)
    typer.echo(f"revoked        {site}")
    typer.echo(f"roster         {directory / ROSTER_FILE}  version {roster.version}")
    _say_what_holds(roster)


def open_roster(directory: Path, passphrase: str | None) -> tuple[SigningKey, Roster]:
    """The roster key and the current roster under it."""
    from secfed.errors import RosterError
    from secfed.identity import keyfile
    from secfed.identity import roster as rosters
    from secfed.store import files

    key = keyfile.load_roster_key(directory / ROSTER_KEY_FILE, passphrase)
    path = directory / ROSTER_FILE
    try:
        data = files.read_small(path, ROSTER_FILE_BYTES_MAX)
    except OSError as problem:
        raise RosterError(f"{path}: {problem.strerror}") from problem
    return key, rosters.verify(data, key.public)


def _refuse_enrolled(roster: Roster, found: list[Enrolment]) -> None:
    """Name the site that is there already, and the way to new keys."""
    from secfed.errors import RosterError

    active = {member.site for member in roster.members if member.active}
    for each in found:
        if each.site in active:
            raise RosterError(
                f"{each.site} is enrolled already",
                hint="Give --rotate if it brings new keys; revoke it first if it is another site.",
            )


def publish_roster(directory: Path, roster: Roster) -> None:
    """Put a new version where a running aggregator looks for it."""
    from secfed.store import files

    files.replace(directory / ROSTER_FILE, roster.text, mode=files.PUBLIC_MODE)


def _dialled(address: str | None, directory: Path) -> str:
    """The address for the invites: the one that was given, else the aggregator's own."""
    from secfed.config import AggregatorConfig, load

    if address is not None:
        _check_dialled(address)
        return address
    config = load(directory / AGGREGATOR_FILE, AggregatorConfig)
    return config.advertise or config.listen


def _check_dialled(address: str) -> None:
    """Whether sites can dial what --address says."""
    from secfed.config import check_dialled
    from secfed.errors import ConfigError

    try:
        check_dialled(address)
    except ValueError as problem:
        raise ConfigError(f"--address {address!r}: {problem}") from problem


def _say_what_holds(roster: Roster) -> None:
    """The thresholds of a sum over everybody, in words."""
    from secfed.errors import InfeasibleCohortError
    from secfed.identity.roles import Role
    from secfed.secagg.params import Params

    clients = len(roster.active(Role.CLIENT))
    if clients < roster.min_cohort:
        typer.echo(f"note           sites enrolled: {clients}; a sum needs at least {roster.min_cohort}")
        return
    try:
        params = Params.of(clients, roster.corrupt, min_cohort=roster.min_cohort)
    except InfeasibleCohortError as problem:
        typer.echo(f"note           {problem}")
        return
    typer.echo(f"a full round   {params.in_words()}")


@contextmanager
def _new_folder(directory: Path) -> Iterator[Path]:
    """A draft that takes the folder's name once it is complete, and leaves nothing behind if it fails."""
    import shutil
    import tempfile

    from secfed.store import files

    parent = directory.absolute().parent
    files.make_directory(parent)
    with files.storage_errors(directory):
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=parent))
    try:
        yield draft
        with files.storage_errors(directory):
            draft.rename(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    files.sync_directory(parent)

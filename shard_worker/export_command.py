"""`shard-worker export`: the journal's events as files of other programs."""

import asyncio
import sys
from pathlib import Path
from typing import Final

import click

from shard_worker.database.session import DatabaseError
from shard_worker.database.tls import Tls, TlsMode
from shard_worker.database_options import database_options, one_dsn

_STOPPED: Final = 1
_NOT_DONE: Final = 3


@click.command()
@database_options("read, as the role threadcluster_reader does")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--files",
    type=click.Choice(["jsonl", "parquet"]),
    help="The kind of files: JSON lines, or Parquet, which needs the extra threadcluster[parquet]"
    " [default: as the folder has it; jsonl in a new one].",
)
@click.option(
    "--texts/--no-texts",
    default=None,
    help="Whether titles, remarks and messages' texts are exported; the login needs SELECT on journal_event_text"
    " [default: as the folder has it; no texts in a new one].",
)
@click.option(
    "--file-events",
    type=click.IntRange(1, 10_000_000),
    default=100_000,
    show_default=True,
    help="How many events a file has at most; one is closed sooner at 128 Mi characters of payloads.",
)
@click.option(
    "--take-back",
    is_flag=True,
    help="Go on in shards of which a fail-over lost exported events: the files of these events count no more.",
)
@click.option(
    "--pass-undecodable",
    is_flag=True,
    help="Export events that this release cannot read, without account_id and at, instead of stopping their shard.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def export(
    dsn: str | None,
    dsn_file: Path | None,
    tls: TlsMode | None,
    ca_file: Path | None,
    folder: Path,
    output: str,
    **options: object,
) -> None:
    """Write what is new in the journal to FOLDER, as files that never change once closed.  Changes nothing in the database.

    Each file holds the events of one shard from one number to another, each once and in order, one a line or row, with the
    columns of the view journal_event.  FOLDER/manifest.jsonl has a line for each closed file: read the files that it
    names and no others, and read its new lines after each run.  The manifest is also the position.  Ended at any moment,
    by kill -9 or by a full disk, the export goes on when the command is run again.

    \b
    Once an hour, without texts, then with them as Parquet:
      shard-worker export --dsn-file reader.dsn /srv/events
      shard-worker export --dsn-file reader.dsn --files parquet --texts /srv/texts

    An export never goes past a number that is missing, nor past an event that it cannot read, nor on from events that a
    fail-over lost: that shard stops and is named with what to do, the other shards go on.  docs/events.md lists the
    events, the columns, and what is promised.

    Exit codes: 0 everything up to now is exported, 1 a shard stopped, 2 wrong options, 3 it could not go on.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    from shard_worker.journal.export.manifest import ExportRefused
    from shard_worker.journal.export.run import Options
    from shard_worker.journal.export.run import export as export_journal

    wanted = Options(kind=options.pop("files"), **options)  # type: ignore[arg-type]  # click checks them
    exporting = export_journal(
        one_dsn(dsn, dsn_file),
        folder,
        wanted,
        progress=lambda sentence: click.echo(sentence, err=True),
        tls=Tls(tls, ca_file),
    )
    try:
        report = asyncio.run(exporting)
    except (DatabaseError, ExportRefused) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_NOT_DONE)
    click.echo(report.to_json() if output == "json" else "\n".join(report.lines()))
    sys.exit(_STOPPED if report.stops else 0)

"""The table of instances of finished runs as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.filesystem import output_errors


def write_csv(
    uri: str,
    run: FinishedRun,
    wanted: NDArray[np.bool_],
    advance: Callable[[int], object] = lambda n_rows: None,
) -> None:
    """Write the wanted rows of the table, with all columns and a header; commas, points, UTF-8.

    Parameters
    ----------
    wanted
        For each id 0..N whether it is wanted.
    advance
        Called with the number of rows written.
    """
    schema = pa.schema([_plain(field) for field in run.schema()])
    with output_errors(uri), atomic_file(uri) as path, pa.csv.CSVWriter(path, schema) as writer:
        for batch in run.table():
            rows = batch.filter(pa.array(wanted[batch["id"].to_numpy()]))
            writer.write_table(pa.Table.from_batches([rows]).cast(schema))
            advance(rows.num_rows)


def write_joined_csv(
    uri: str,
    runs: Sequence[tuple[FinishedRun, NDArray[np.bool_]]],
    advance: Callable[[int], object] = lambda n_rows: None,
) -> None:
    """Write the wanted rows of several runs into one table, whose first column names the source of each.

    A column that a run lacks is empty in its rows. Of time series, the second column is the time point.

    Parameters
    ----------
    runs
        Runs, and for each id 0..N of theirs whether it is wanted.
    """
    schemas = [pa.schema([_plain(field) for field in run.schema()]) for run, _ in runs]
    points = [run.time_point for run, _ in runs]
    named_by = [("source", pa.string())] + ([("time_point", pa.int32())] if any(points) else [])
    schema = pa.schema([*named_by, *pa.unify_schemas(schemas)])
    with output_errors(uri), atomic_file(uri) as path, pa.csv.CSVWriter(path, schema) as writer:
        for (run, wanted), own, point in zip(runs, schemas, points, strict=True):
            for batch in run.table():
                rows = batch.filter(pa.array(wanted[batch["id"].to_numpy()]))
                table = pa.Table.from_batches([rows]).cast(own)
                named = table.add_column(0, "source", pa.array([run.source] * len(table), pa.string()))
                if any(points):
                    named = named.append_column("time_point", pa.array([point] * len(table), pa.int32()))
                for field in schema:
                    if field.name not in named.schema.names:
                        named = named.append_column(field, pa.nulls(len(named), field.type))
                writer.write_table(named.select(schema.names))
                advance(rows.num_rows)


def _plain(field: pa.Field) -> pa.Field:
    """A column with the names of classes instead of their numbers in a dictionary."""
    of_names = pa.types.is_dictionary(field.type)
    return pa.field(field.name, field.type.value_type if of_names else field.type)

"""Parquet files written as a stream, such as ``instances.parquet``."""

from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from fewscope.connectors.storage.atomic import OutputFile
from fewscope.connectors.storage.filesystem import output_errors

ROW_GROUP = 65_536  # rows; a reader that filters skips whole groups


class InstanceTableWriter(OutputFile):
    """A Parquet file (zstd) in row groups of 65,536, regardless of the pieces it is written in.

    The file appears when the ``with`` block succeeds. The same rows give the same bytes.

    Parameters
    ----------
    uri : str
        Path or fsspec URL.
    schema : pa.Schema | None
        pyarrow.Schema, optional None for that of the first table; required if there may be no table at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """

    def __init__(self, uri: str, schema: pa.Schema | None = None) -> None:
        super().__init__(uri)
        self.n_rows = 0
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def __enter__(self) -> "InstanceTableWriter":
        self._file = self._open()
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows; ValueError if the columns are not those of the schema."""
        if self._schema is None:
            self._schema = table.schema
        if not table.schema.equals(self._schema):
            raise ValueError(
                f"columns {table.schema.names} are not those of {self.uri}: {self._schema.names}"
            )
        self.n_rows += table.num_rows
        self._waiting.append(table)
        self._n_waiting += table.num_rows
        if self._n_waiting >= ROW_GROUP:
            whole = pa.concat_tables(self._waiting)
            n_groups = whole.num_rows // ROW_GROUP
            for group in range(n_groups):
                self._write_group(whole.slice(group * ROW_GROUP, ROW_GROUP))
            self._waiting = [whole.slice(n_groups * ROW_GROUP)]
            self._n_waiting = self._waiting[0].num_rows

    def _finish(self) -> None:
        if self._schema is None:
            raise ValueError(f"no rows for {self.uri}, so no columns; give InstanceTableWriter a schema")
        if self._n_waiting or self._writer is None:
            self._write_group(pa.concat_tables([self._schema.empty_table(), *self._waiting]))
        assert self._writer is not None
        self._writer.close()

    def _abandon(self) -> None:
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
            self._writer.is_open = False  # or it would try again when collected

    def _write_group(self, table: pa.Table) -> None:
        with output_errors(self.uri):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
            self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)

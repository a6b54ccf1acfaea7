"""The table of instances, ``instances.parquet``."""

from __future__ import annotations

from fewscope.connectors.results.instance_table import InstanceTableWriter
from fewscope.pipeline.instances.measurements import instance_schema
from fewscope.pipeline.outputs.segmentation import Segmentation


def write_instance_table(segmentation: Segmentation) -> None:
    """Write ``instances.parquet``: one row per instance, ids ascending. Holds one row of units in memory."""
    plan = segmentation.plan
    schema = instance_schema(plan.support.class_names, plan.measured)
    with InstanceTableWriter(f"{plan.folder}/instances.parquet", schema) as writer:
        for table in segmentation.instance_tables():
            writer.write(table)

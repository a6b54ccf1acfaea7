"""What is tried: the right files of each kind, what is done to them, and what Fewscope does with them."""

from __future__ import annotations

from tests.fuzz.annotations import (
    annotations,
    geopackages,
    map_annotations,
    use_annotations,
    use_map_annotations,
)
from tests.fuzz.channel_slides import channel_slides, use_channel_slide
from tests.fuzz.folders import folders, use_folder
from tests.fuzz.harness import Kind
from tests.fuzz.page_requests import page_requests, use_page_requests
from tests.fuzz.picture_labels import picture_labels
from tests.fuzz.pictures import pictures, use_picture
from tests.fuzz.program_files import program_files, use_program_file
from tests.fuzz.rasters import damaged_rasters, made_rasters, stac, use_raster, vrts
from tests.fuzz.slides import slides, use_slide
from tests.fuzz.states import states, use_state
from tests.fuzz.weights import use_weights, weights

KINDS = (
    Kind("slides", slides, use_slide, 120),
    Kind("channel-slides", channel_slides, use_channel_slide, 80),
    Kind("pictures", pictures, use_picture, 80),
    Kind("made-rasters", made_rasters, use_raster, 60),
    Kind("rasters", damaged_rasters, use_raster, 80),
    Kind("vrt", vrts, use_raster, 60),
    Kind("stac", stac, use_raster, 60),
    Kind("annotations", annotations, use_annotations, 120),
    Kind("program-files", program_files, use_program_file, 120),
    Kind("map-annotations", map_annotations, use_map_annotations, 60),
    Kind("geopackages", geopackages, use_map_annotations, 40),
    Kind("folders", folders, use_folder, 60),
    Kind("picture-labels", picture_labels, use_folder, 60),
    Kind("weights", weights, use_weights, 12),
    Kind("page-requests", page_requests, use_page_requests, 60),
    Kind("saved-state", states, use_state, 4),
)
"""One row of the table each."""

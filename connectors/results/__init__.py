"""What a run leaves behind: its store, tables, rasters and working folder."""

"""Vector data: polygons from any file; GeoJSON, GeoPackage and GeoParquet out."""

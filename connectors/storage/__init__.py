"""Local disk and object stores: atomic writes, downloads, fingerprints."""

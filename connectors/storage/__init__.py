"""Local disk and object stores: paths and URLs, atomic writes, downloads, fingerprints."""

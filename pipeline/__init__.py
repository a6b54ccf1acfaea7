"""The journey from a source and a support set to counted instances. Start reading in ``run.py``."""

"""Damaged, odd and hostile files: each is read, or refused in one line that names it: ``python -m tests.fuzz``."""

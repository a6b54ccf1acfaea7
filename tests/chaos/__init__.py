"""Kills, full disks, failing stores and damaged files: the same command resumes and gives the same bytes."""

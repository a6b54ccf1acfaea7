"""From masks to instances: labels across seams, splitting, measurements."""

"""From masks to instances: labels across seams, separation of touching objects, measurements."""

"""What every run writes beside its store: pyramids and outlines."""

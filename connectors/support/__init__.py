"""Support sets: the few labelled patches that say what to look for."""

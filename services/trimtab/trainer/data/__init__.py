"""Examples, kept as they arrive, and data sets cut from them: what trains, what is held out, what is left out."""

"""Which comparisons does the documentation rest on? All are run by `evohbde.compare`, and go on where they stopped."""

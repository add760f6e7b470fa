"""Do the parts keep what they promise? A package, so that an installed one of the same name does not hide it."""

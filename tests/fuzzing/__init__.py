"""Can anything that is passed in do harm? One hundred cases each; `--hypothesis-profile=fuzz` for ten thousand."""

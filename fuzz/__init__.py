"""Which readers of files are there, and what do they do with files that nobody wrote? `python -m fuzz` for atheris."""

"""What does `python -m evohbde` do? The same as `evohbde`."""

from evohbde.cli import app

if __name__ == "__main__":
    app(prog_name="evohbde")

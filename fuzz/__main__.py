"""What does a reader do with files that atheris makes up? `python -m fuzz READER -runs=10000`; needs atheris."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> None:
    """Let atheris change sound files until a reader raises what it may not; further arguments are libFuzzer's."""
    try:
        import atheris
    except ImportError as error:
        raise SystemExit("fuzzing by coverage needs atheris: pip install atheris (Linux and macOS)") from error
    with atheris.instrument_imports(include=["evohbde", "problems"]):
        from fuzz.readers import READERS
    if len(arguments) < 2 or arguments[1] not in READERS:
        raise SystemExit(f"usage: python -m fuzz READER [-runs=N ...]; readers: {', '.join(READERS)}")
    reader = READERS[arguments[1]]
    sound = reader.sound()

    def try_one(data: bytes) -> None:
        if not data:
            return
        # The first byte picks a sound file; the others say what is changed in it, three bytes a change.
        content = bytearray(sound[data[0] % len(sound)])
        for i in range(1, len(data) - 2, 3):
            content[int.from_bytes(data[i : i + 2], "little") % len(content)] = data[i + 2]
        reader.try_on(bytes(content))
        reader.try_on(data)

    atheris.Setup([arguments[0], *arguments[2:]], try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)

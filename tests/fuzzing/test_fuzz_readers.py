"""Do readers take sound files, and refuse all others in words?"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.readers import READERS, compact_files, description_of, with_description
from tests.fuzzing.unharmed import unharmed

WORDS = ["", "0", "float32", "int8", "load", "__class__", "0.weight", "nan", "</script>", "../x", "NaN"]
NUMBERS = st.one_of(st.integers(-3, 300), st.sampled_from([2**31, 2**63, -(2**63), 10**30]), st.floats())
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner),
    max_leaves=5,
)
JSON_READERS = ("run", "comparison", "comparison-runs", "job")


@st.composite
def damaged(draw: st.DrawFn, sound: tuple[bytes, ...]) -> bytes:
    """A sound file with some bytes changed, left out, put in or said twice; now and then something else entirely."""
    content = bytearray(draw(st.sampled_from(sound)))
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)) | st.integers(0, min(300, max(0, len(content) - 1))))
        width = draw(st.integers(0, 12))
        match draw(st.sampled_from(["change", "cut", "insert", "repeat", "end"])):
            case "change":
                new = draw(st.binary(min_size=1, max_size=8))
                content[place : place + len(new)] = new
            case "cut":
                del content[place : place + width]
            case "insert":
                content[place:place] = draw(st.binary(max_size=12))
            case "repeat":
                content[place:place] = content[place : place + width]
            case "end":
                del content[place:]
    return bytes(content)


@st.composite
def replaced(draw: st.DrawFn, value: object) -> object:
    """What JSON said, with one node somewhere replaced, left out, or joined by another."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.sampled_from(["deeper", "deeper", "deeper", "drop", "rename", "add"])):
            case "deeper":
                return {**value, key: draw(replaced(value[key]))}
            case "drop":
                return {name: one for name, one in value.items() if name != key}
            case "rename":
                return {(draw(st.sampled_from(WORDS)) if name == key else name): one for name, one in value.items()}
            case "add":
                return {**value, draw(st.sampled_from(WORDS)): draw(JUNK)}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(replaced(value[place])), *value[place + 1 :]]
    return draw(JUNK)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_is_sound(name):
    for content in READERS[name].sound():
        assert READERS[name].try_on(content)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_a_reader_takes_or_refuses_damaged_files_in_words(name, data):
    reader = READERS[name]
    content = data.draw(damaged(reader.sound()))
    with unharmed():
        reader.try_on(content)


@pytest.mark.parametrize("name", JSON_READERS)
@given(data=st.data())
def test_a_reader_takes_or_refuses_other_content_in_words(name, data):
    reader = READERS[name]
    sound = json.loads(data.draw(st.sampled_from(reader.sound())).splitlines()[-1 if name == "comparison-runs" else 0]
                       if name == "comparison-runs" else reader.sound()[0])  # fmt: skip
    text = json.dumps(data.draw(replaced(sound)))
    with unharmed():
        reader.try_on(text.encode() + b"\n")


@given(data=st.data())
@settings(print_blob=False)
def test_a_compact_file_that_lies_with_a_checksum_that_fits_is_refused_in_words(data):
    content = data.draw(st.sampled_from(compact_files()))
    lie = json.dumps(data.draw(replaced(json.loads(description_of(content)))))
    with unharmed():
        READERS["compact"].try_on(with_description(content, lie))

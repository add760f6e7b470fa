"""What does a reference mean, and is a mistake in one explained before anything runs?"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evohbde.references import call_factory, describe, parse_settings, resolve, suggest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path


def test_a_module_is_found_in_the_working_directory(here):
    write(here / "my_task.py", "def build(): return 3\nclass Box: item = 5")
    assert resolve("my_task:build")() == 3
    assert resolve("my_task:Box.item") == 5


def test_an_installed_module_is_found():
    assert resolve("collections:OrderedDict") is __import__("collections").OrderedDict


def test_a_bare_name_means_the_default_module():
    assert resolve("OrderedDict", default_module="collections") is __import__("collections").OrderedDict


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_is_found_with_its_neighbours(here, absolute):
    write(here / "folder" / "helper_of_mine.py", "number = 7")
    path = write(here / "folder" / "their_task.py", "from helper_of_mine import number\ndef build(): return number")
    assert resolve(f"{path if absolute else path.relative_to(here)}:build")() == 7


def test_a_file_of_a_package_is_the_module_itself(here):
    write(here / "parcel" / "__init__.py", "")
    write(here / "parcel" / "part.py", "number = 2")
    write(here / "parcel" / "task.py", "from .part import number\nclass Kind: pass")
    assert resolve("parcel/task.py:number") == 2
    assert resolve("parcel/task.py:Kind") is resolve("parcel.task:Kind")


def test_a_file_never_gives_another_module_of_its_name(here):
    write(here / "json.py", "build = 1")
    with pytest.raises(ValueError, match=r"another module is called 'json' already: rename json\.py"):
        resolve("json.py:build")


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        ("task", ValueError, r"expected module:name or path/file\.py:name, got 'task'"),
        ("task.py", ValueError, r"write task\.py:name_of_the_function"),
        ("task:", ValueError, r"expected module:name"),
        (":build", ValueError, r"expected module:name"),
        ("task:build()", ValueError, r"expected module:name"),
        ("my-task:build", ValueError, r"'my-task' is no name of a module"),
        ("task:bild", ValueError, r"task has no 'bild'; did you mean 'build'\?"),
        ("tsak:build", ValueError, r"there is no module 'tsak'.*did you mean .*'task'"),
        ("parcel.tsak:build", ValueError, r"there is no module 'parcel\.tsak'; did you mean 'task'\?"),
        ("task.inner:build", ValueError, r"there is no module 'task\.inner': task is no package"),
        ("tasks.py:build", FileNotFoundError, r"there is no file .*tasks\.py; did you mean 'task'"),
        ("nowhere/task.py:build", FileNotFoundError, r"there is no file .*task\.py"),
        (
            "lacks:build",
            ImportError,
            r"importing lacks failed: ModuleNotFoundError: No module named 'not_there'.*line 2",
        ),
        ("grammar.py:build", ImportError, r"importing grammar failed: SyntaxError"),
        ("breaks:build", ImportError, r"importing breaks failed: ZeroDivisionError: .*\(breaks\.py, line 3\)"),
    ],
)
def test_a_mistake_is_explained(here, reference, kind, message):
    write(here / "task.py", "def build(): pass")
    write(here / "parcel" / "__init__.py", "")
    write(here / "parcel" / "task.py", "")
    write(here / "lacks.py", "\nimport not_there")
    write(here / "grammar.py", "def build(:")
    write(here / "breaks.py", "\n\n1 / 0")
    with pytest.raises(kind, match=message):
        resolve(reference)


def test_the_cause_of_a_failed_import_is_kept(here):
    write(here / "breaks_too.py", "1 / 0")
    with pytest.raises(ImportError) as caught:
        resolve("breaks_too:build")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


literals = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@settings(max_examples=30)
@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), literals | st.lists(literals) | st.tuples(literals))
)
def test_settings_are_read_back_as_they_were_written(written):
    assert parse_settings(f"{key}={value!r}" for key, value in written.items()) == written


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=words and = signs", "words and = signs"),
        ("a=data/images", "data/images"),
        ("a=", ""),
        ("a=__import__('os')", "__import__('os')"),
        ("a=false", False),
        ("a=true", True),
        ("a = 1e-3", 0.001),
    ],
)
def test_a_value_that_is_no_literal_is_text(text, value):
    assert parse_settings([text]) == {"a": value}


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["1a=2"], ["a b=2"], ["a=1", "a=2"]])
def test_a_setting_of_another_form_is_refused(texts):
    with pytest.raises(ValueError, match=r"expected key=value|set twice"):
        parse_settings(texts)


def factory(root: str, size: int = 3, *, rate: float | None = None) -> tuple:
    return root, size, rate


@dataclass
class Switches:
    popsize: int = 10
    weight: float | tuple[float, float] = 0.5


def test_a_factory_gets_its_settings():
    assert call_factory(factory, {"root": "r", "rate": 1}, name="f") == ("r", 3, 1)
    assert call_factory(Switches, {"weight": (0.1, 1.0)}, name="s") == Switches(weight=(0.1, 1.0))
    assert call_factory(dict, {"anything": 1}, name="d") == {"anything": 1}


@pytest.mark.parametrize(
    ("called", "settings", "message"),
    [
        (
            factory,
            {"root": "r", "sise": 3},
            r"f does not know 'sise': it takes root, size, rate; did you mean 'size'\?",
        ),
        (factory, {}, r"f needs more settings.*'root'"),
        (factory, {"root": "r", "size": "3x"}, r"f: expected 'size' to be int, got '3x'"),
        (factory, {"root": "r", "size": 1e3}, r"expected 'size' to be int, got 1000\.0"),
        (factory, {"root": "r", "rate": "fast"}, r"expected 'rate' to be float or None, got 'fast'"),
        (Switches, {"popsiz": 3}, r"it takes popsize, weight; did you mean 'popsize'\?"),
        (Switches, {"popsize": "many"}, r"expected 'popsize' to be int, got 'many'"),
        (lambda: None, {"a": 1}, r"f does not know 'a': it takes no settings"),
        (lambda: int("x"), {}, r"f: invalid literal .*\(test_references\.py, line \d+\)"),
    ],
)
def test_a_wrong_setting_is_explained(called, settings, message):
    with pytest.raises(ValueError, match=message):
        call_factory(called, settings, name="f")


def test_settings_are_checked_before_the_factory_runs():
    calls = []

    def costly(size: int = 1) -> None:
        calls.append(size)

    for wrong in ({"sice": 2}, {"size": "big"}):
        with pytest.raises(ValueError, match="costly"):
            call_factory(costly, wrong, name="costly")
    assert calls == []


def test_only_functions_are_called():
    with pytest.raises(TypeError, match="f is a list: expected a function"):
        call_factory([1], {}, name="f")


def test_suggestions():
    assert suggest("mpl", ["mlp", "cnn"]) == "; did you mean 'mlp'?"
    assert suggest("zzzz", ["mlp", "cnn"]) == "; it has: mlp, cnn"
    assert suggest("zzzz", [f"name{i}" for i in range(50)]) == ""


def test_values_are_described():
    assert [describe(value) for value in (None, (1, 2), [1])] == ["None", "a tuple of 2", "a list"]

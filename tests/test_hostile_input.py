"""Whatever a file, a table or a command line holds: a result, or an error that is documented."""

import contextlib
import importlib.machinery
import importlib.util
import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz"


def _script():
    loader = importlib.machinery.SourceFileLoader("fuzz_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look there
    loader.exec_module(module)
    return module


fuzz = _script()


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    found = fuzz.readers(tmp_path_factory.mktemp("hostile"))
    return {reader.name: reader for reader in found}


def taken(reader, content):
    with contextlib.suppress(*reader.errors):
        reader.read(content)


FILES = ["idx", "idx.gz", "weights", "checkpoint", "history", "seals"]
ANY = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", FILES)
@ANY
@given(content=st.binary(max_size=200))
@example(b"")
@example(b"[" * 100_000)
@example(b"\x1f\x8b\x08\0")
@example(b"\0\0\x08\xff" + b"\xff" * 2000)
@example(b"\xff" * 8)
@example(b"1" * 5000)
def test_any_bytes_are_read_or_refused(readers, name, content):
    taken(readers[name], content)


@pytest.mark.parametrize("name", [*FILES, "tables"])
def test_mutated_inputs_are_read_or_refused(readers, name):
    rng = random.Random(0)
    for _ in range(150):
        taken(readers[name], readers[name].make(rng))


@pytest.mark.parametrize("name", ["weights", "checkpoint", "history", "idx"])
def test_what_was_written_is_read_so_the_others_are_refused_for_a_reason(readers, name):
    reader, found = readers[name], 0
    rng = random.Random(1)
    for _ in range(400):
        with contextlib.suppress(*reader.errors):
            reader.read(reader.make(rng))
            found += 1
    assert found


@pytest.mark.slow
@ANY
@given(arguments=st.lists(st.one_of(st.sampled_from(fuzz.WORDS), st.text(max_size=5)), max_size=6))
@example(["check", "--lr", "nan"])
@example(["train", "--data", "\udcff"])
def test_any_command_line_is_parsed_or_refused(arguments):
    fuzz.parsed(arguments)


@pytest.mark.slow
def test_the_fuzzer_finds_faults_where_there_are_some(tmp_path, monkeypatch):
    """A reader that raises what it doesn't document, takes memory, and writes elsewhere."""
    elsewhere = tmp_path / "elsewhere"

    def bad(content):
        if content[:1] == b"a":
            raise KeyError("undocumented")
        if content[:1] == b"b":
            return bytes(50_000_000)
        elsewhere.write_bytes(b"")
        return None

    cases = iter([b"a", b"b", b"c"] * 100)
    reader = fuzz.Reader("bad", 1.0, lambda rng: next(cases), bad, (ValueError,))
    monkeypatch.setattr(fuzz, "readers", lambda folder: [reader])
    said = []
    assert fuzz.run(60, 0, [], None, said.append) > 20
    assert any("KeyError" in text for text in said)
    assert any("bytes for 1" in text for text in said)
    assert any(f"written outside: ['open {elsewhere}']" in text for text in said)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_a_link_in_the_target_s_place_is_replaced_and_what_it_names_is_left(tmp_path):
    from mlp_core.weights import initial

    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "w.st").symlink_to(tmp_path / "precious")
    initial((3, 2), 0).save(tmp_path / "w.st")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "w.st").is_symlink()

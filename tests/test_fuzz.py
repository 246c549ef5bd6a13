"""A minute of fuzzing, shared by all cores; docs/security.md says how to do more. FBS_TEST_BUDGET: so many minutes."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import builds
import flatbuffers
import pytest
from budget import budget
from fuzz import mutants, mutations, targets

import fbs_keras

SECONDS = budget(60)
MUTANTS = int(SECONDS * 20)  # a quarter of the time


@pytest.fixture(scope="module")
def libfuzzer():
    reason = targets.missing()
    if reason is not None:
        pytest.skip(reason)


def test_targets(libfuzzer, tmp_path):
    """One test, that shares the cores among the targets."""
    executables = targets.build(tmp_path / "targets")

    def fuzz(name, seconds):
        return targets.run(executables[name], seconds, tmp_path / "corpus" / name, tmp_path / "findings")

    seconds = targets.budgets(SECONDS * 3 / 4)
    longest_first = sorted(seconds, key=seconds.get, reverse=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(fuzz, longest_first, map(seconds.get, longest_first)):
            assert not result.finding, f"{result}\n{result.finding}"
            assert result.executions >= len(targets.seeds(result.name)) and result.edges > 20


def test_a_target_that_fails(libfuzzer, tmp_path):
    """The input that fails is found, reported and kept."""
    source = tmp_path / "fails.c"
    source.write_text(
        "#include <stdlib.h>\n"
        "int LLVMFuzzerTestOneInput(const char* data, long size) { if (size > 0 && data[0] == 'x') abort(); return 0; }"
    )
    subprocess.run(["clang", "-fsanitize=fuzzer,address", source, "-o", tmp_path / "fails"], check=True)
    result = targets.run(tmp_path / "fails", 20, tmp_path / "corpus", tmp_path / "findings")
    assert "deadly signal" in result.finding
    assert [path.read_bytes()[:1] for path in (tmp_path / "findings").iterdir()] == [b"x"]


def python(*arguments):
    """What a Python of its own prints, as JSON: this process may have threads, which its children would lack."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert result.stdout, result.stderr[-3000:]
    return json.loads(result.stdout)


def test_mutants(tmp_path):
    """No changed model file ends a process with the delegate that lives without it."""
    library = fbs_keras.delegate_path()
    options = {"--count": MUTANTS, "--findings": tmp_path, "--refusing": builds.failing_delegate()}
    result = python("-m", "fuzz.mutants", library, *(part for option in options.items() for part in option))
    assert result["findings"] == []
    assert result["ran"] + result["refused"] + result["LiteRT's own"] == MUTANTS
    assert result["ran"] > MUTANTS / 10 and result["refused"] > MUTANTS / 4


def test_a_mutant_that_fails(tmp_path):
    """Ends of a process are told apart: with the delegate only, or with others too; all other files still run."""
    code = (
        "import json, os, sys\n"
        "from fuzz import mutants, mutations\n"
        "def run_model(content, seed, library):\n"
        "    if (seed == 12 and library == 'library') or seed == 15 or (seed == 16 and library): os.abort()\n"
        "    if seed == 13: raise ValueError('refused')\n"
        "mutants.run_model = run_model\n"
        "arguments = mutations.op_models(), 10, 10, 'library', sys.argv[1], 'refusing'\n"
        "print(json.dumps(mutants.run_mutants(*arguments, batch=4)))"
    )
    result = python("-c", code, tmp_path)
    assert (result["ran"], result["refused"], result["LiteRT's own"]) == (6, 1, 2)
    (finding,) = result["findings"]
    assert finding.startswith("mutant12 of ")
    assert (tmp_path / "mutant12.tflite").stat().st_size > 100


def test_outputs_that_name_no_tensor():
    content = mutations.op_models()["conv2d, custom"]
    model = mutants.schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
    model.subgraphs[0].outputs = [*model.subgraphs[0].outputs, -1]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert mutants.names_no_tensor(bytes(builder.Output()))
    assert not mutants.names_no_tensor(content) and not mutants.names_no_tensor(content[:40])
    model.subgraphs = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert not mutants.names_no_tensor(bytes(builder.Output()))


@pytest.mark.parametrize("name", mutations.op_models())
def test_mutations(name):
    """The same for the same seed, and seldom the file itself."""
    content = mutations.op_models()[name]
    changed = [mutations.mutant(content, seed) for seed in range(40)]
    assert changed == [mutations.mutant(content, seed) for seed in range(40)]
    assert sum(mutant != content for mutant in changed) > 30 and len(set(changed)) > 30

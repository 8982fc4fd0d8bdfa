# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels: what they take, and where their machine code comes from."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dissector import compiled, machine_code
from tests.helpers import PCAPS, needs_memfd
from tests.synthesiser import files, stream
from tests.synthesiser.wire import Wire

CAPTURE = PCAPS / "colo-hvm-fast.proxy9001-lo.pcap.zst"
READ = """
import sys
from dissector.reader import Reader
from dissector.segments import Streams
from dissector.source import Source
with Source(sys.argv[1]) as source:
    for packets in Reader(source):
        print(packets.position.tolist(), packets.time.tolist(), Streams().scan(packets).rows.tolist())
print("numba" in sys.modules, file=sys.stderr)
"""
READ_AHEAD = """
import sys
from dissector import ahead, helper, reader
from dissector.engine import Engine
helper.WORTHWHILE, reader.PIECE = int(sys.argv[2]), 3001
blocks = ahead.blocks([sys.argv[1]])
print(type(blocks).__name__)
print(*Engine().read(blocks), sep="\\n")
"""
KERNEL = """
from dissector.compiled import Numbers, Octets, Table, compiled, kernel

STEP = 10

@compiled
def _twice(number):
    return 2 * number

@kernel
def add(table: Table, row: Numbers, octets: Octets, negative: bool) -> tuple[int, int]:
    for i in range(len(table)):
        for j in range(len(row)):
            table[i, j] += -row[j] if negative else row[j]
    return STEP * len(octets), _twice(len(table))
"""


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def loaded(folder: Path, source: str = KERNEL) -> ModuleType:
    """A module, as a new process would see it; its kernels are none of those that this process makes ready."""
    path = folder / "sample.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("sample", path)
    assert spec is not None
    assert spec.loader is not None
    module, kernels = importlib.util.module_from_spec(spec), list(compiled._KERNELS)
    spec.loader.exec_module(module)
    compiled._KERNELS[:] = kernels
    return module


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return loaded(tmp_path_factory.mktemp("sample"))


def called(module: ModuleType) -> tuple[int, int]:
    arguments = np.zeros((3, 2), np.int64), np.ones(2, np.int64), np.zeros(4, np.uint8)
    found: tuple[int, int] = module.add(*arguments, False)
    return found


def kept(folder: Path) -> Path:
    """The one file of machine code below a folder."""
    (path,) = folder.rglob("sample.add.*")
    return path


@pytest.fixture(params=[".so", ".o"], ids=["linker", "no linker"])
def suffix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the files of machine code, on a system that has a linker, and on one that has none."""
    if request.param == ".o":
        monkeypatch.setenv("PATH", "")
    elif not shutil.which("ld"):
        pytest.skip("there is no linker (ld)")
    return str(request.param)


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", READ, str(CAPTURE)], cwd=PCAPS.parent, capture_output=True,
                          text=True, check=True, env={**os.environ, **environment})


def test_a_real_capture_is_the_same_in_python_and_without_numba() -> None:
    in_python = run(NUMBA_DISABLE_JIT="1").stdout
    assert run().stdout == in_python  # it may have had to compile
    again = run()
    assert again.stdout == in_python
    assert again.stderr == "False\n"


@needs_memfd
def test_a_file_that_a_second_process_reads_is_the_same_in_python(tmp_path: Path) -> None:
    path = files.write(tmp_path / "x.pcap", Wire(stream.colo(2)))
    # One thread: the process is forked, and has pieces of that size, too.
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "OPENBLAS_NUM_THREADS": "1"}
    told = [subprocess.run([sys.executable, "-c", READ_AHEAD, str(path), size], cwd=PCAPS.parent, check=True,
                           capture_output=True, text=True, env=environment).stdout for size in ("1", str(1 << 40))]
    assert told[0].startswith("Ahead\n")
    assert told[1].startswith("generator\n")
    assert told[0].partition("\n")[2] == told[1].partition("\n")[2]


def test_arguments_and_results(sample: ModuleType) -> None:
    add = sample.add
    table, row = np.zeros((3, 2), np.int64), np.array([5, -7])
    assert add(table, row, np.frombuffer(b"octets", np.uint8), False) == (60, 6)
    assert table.tolist() == [[5, -7]] * 3
    assert add(table[1:], row, np.zeros(0, np.uint8), True) == (0, 4)
    assert table.tolist() == [[5, -7], [0, 0], [0, 0]]
    assert add(table[:0], row[:0], np.zeros(0, np.uint8), np.bool_(True)) == (0, 0)


@pytest.mark.parametrize(("name", "wrong"), [
    ("table", np.zeros((3, 2), np.int32)), ("table", np.zeros((3, 2), np.uint64)),
    ("table", np.zeros((3, 2), ">i8")), ("table", np.zeros(6, np.int64)),
    ("table", np.zeros((2, 3), np.int64).T), ("table", np.zeros((3, 4), np.int64)[:, ::2]),
    ("table", np.frombuffer(bytes(48), np.int64).reshape(3, 2)), ("table", [[0, 0]]), ("table", None),
    ("row", np.zeros(4, np.int64)[::2]), ("row", np.frombuffer(bytearray(17), np.int64, 2, 1)),
    ("octets", b"octets"), ("octets", np.zeros(4, np.int8)), ("octets", np.zeros(4, np.uint8)[::-1])],
    ids=["narrow", "unsigned", "big-endian", "flat", "transposed", "sliced", "read-only", "list", "none",
         "strided", "unaligned", "bytes", "signed", "backwards"])
def test_no_other_memory_is_touched(sample: ModuleType, name: str, wrong: object) -> None:
    arguments = {"table": np.zeros((3, 2), np.int64), "row": np.ones(2, np.int64), "octets": np.zeros(4, np.uint8)}
    with pytest.raises(TypeError, match=f"add: {name} is not an? .*array of"):
        sample.add(*(arguments | {name: wrong}).values(), False)


def test_an_array_can_be_lent(sample: ModuleType) -> None:
    table, row, octets = np.zeros((3, 2), np.int64), np.array([5, -7]), np.zeros(2, np.uint8)
    lent = compiled.lend(table, compiled.Table)
    assert sample.add(lent, compiled.lend(row, compiled.Numbers), octets, False) == (20, 6)
    assert sample.add(lent, row, compiled.lend(octets, compiled.Octets), True) == (20, 6)
    table[0, 0] = 3
    assert sample.add(lent, row, octets, False) == (20, 6)
    assert table.tolist() == [[8, -7], [5, -7], [5, -7]]


def test_only_what_fits_can_be_lent(sample: ModuleType) -> None:
    with pytest.raises(TypeError, match="not a writable array of int64 with 2 axes"):
        compiled.lend(np.zeros(6, np.int64), compiled.Table)
    with pytest.raises(TypeError, match="not a writable"):
        compiled.lend(np.frombuffer(bytes(8), np.int64), compiled.Numbers)
    row, octets = np.zeros(2, np.int64), np.zeros(2, np.uint8)
    with pytest.raises(TypeError, match="table is not a writable array"):
        sample.add(compiled.lend(row, compiled.Numbers), row, octets, False)


def test_code_is_kept_beside_the_module(tmp_path: Path, suffix: str) -> None:
    assert called(loaded(tmp_path)) == (40, 6)
    path = kept(tmp_path)
    assert path.parent == tmp_path / "__pycache__"
    assert path.suffix == suffix
    before = path.stat()
    assert called(loaded(tmp_path, "# A comment changes nothing.\n" + KERNEL)) == (40, 6)
    assert kept(tmp_path).stat() == before


@pytest.mark.parametrize(("old", "new", "result"), [
    ("STEP * len", "1 + STEP * len", (41, 6)), ("2 * number", "5 * number", (40, 15)),
    ("STEP = 10", "STEP = 11", (44, 6))],
    ids=["kernel", "part", "constant"])
def test_what_has_changed_is_compiled_again(tmp_path: Path, old: str, new: str, result: tuple[int, int]) -> None:
    assert called(loaded(tmp_path)) == (40, 6)
    before = kept(tmp_path)
    assert called(loaded(tmp_path, KERNEL.replace(old, new))) == result
    assert kept(tmp_path) != before  # and the old one is gone


@pytest.mark.parametrize("damage", [lambda octets: b"", lambda octets: octets[:-1], lambda octets: octets + b"\0",
                                    lambda octets: octets[:2000] + bytes([octets[2000] ^ 1]) + octets[2001:]],
                         ids=["empty", "short", "long", "one bit"])
def test_a_damaged_file_is_made_again(tmp_path: Path, suffix: str, damage) -> None:  # type: ignore[no-untyped-def]
    assert called(loaded(tmp_path)) == (40, 6)
    path = kept(tmp_path)
    whole = path.read_bytes()
    path.unlink()  # what this process has loaded stays as it was
    path.write_bytes(damage(whole))
    assert called(loaded(tmp_path)) == (40, 6)
    assert len(kept(tmp_path).read_bytes()) == len(whole)
    assert kept(tmp_path).read_bytes() != damage(whole)


def test_a_library_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "_library", lambda code: b"no library")  # as where files may not be executed
    assert called(loaded(tmp_path)) == (40, 6)
    assert kept(tmp_path).suffix == ".o"  # so that it is not made each time


def test_code_made_without_a_linker_goes_when_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setenv("PATH", "")
        called(loaded(tmp_path))
        assert kept(tmp_path).suffix == ".o"
        called(loaded(tmp_path))
    assert called(loaded(tmp_path, KERNEL.replace("2 * number", "5 * number"))) == (40, 15)
    assert kept(tmp_path).suffix == (".so" if shutil.which("ld") else ".o")


def test_the_folder_that_the_user_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "named"))
    assert called(loaded(tmp_path)) == (40, 6)
    assert kept(tmp_path).is_relative_to(tmp_path / "named")


def test_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__pycache__").touch()  # not even root can make files in a file
    assert called(loaded(tmp_path)) == (40, 6)
    assert kept(tmp_path).is_relative_to(tmp_path / "user" / "coloscope")
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert called(loaded(tmp_path, KERNEL.replace("2 * number", "5 * number"))) == (40, 15)


@pytest.mark.parametrize(("line", "why"), [
    ("row = row + 1", "cannot run without Numba"), ("table[0] = row", "cannot run without Numba"),
    ("octets[0] = 1", "readonly"), ("THINGS[0]", "THINGS is no number")],
    ids=["array made", "array copied", "octets written", "array of the module"])
def test_what_a_kernel_must_not_do(tmp_path: Path, line: str, why: str) -> None:
    source = KERNEL.replace("    return STEP", f"    {line}\n    return STEP")
    module = loaded(tmp_path, "import numpy as np\nTHINGS = np.zeros(3)\n" + source)
    with pytest.raises(Exception, match=why):
        called(module)


def test_an_exception_in_a_kernel_is_told(tmp_path: Path) -> None:
    module = loaded(tmp_path, KERNEL.replace("    return STEP", "    row[0] = 5 // table[0, 0]\n    return STEP"))
    assert called(module) == (40, 6)
    with pytest.raises(RuntimeError, match="add failed"):
        module.add(np.zeros((3, 2), np.int64), np.zeros(2, np.int64), np.zeros(4, np.uint8), False)


def test_a_python_function_where_compiling_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    module = loaded(tmp_path)
    assert called(module) == (40, 6)
    assert not list(tmp_path.rglob("sample.add.*"))


def test_kernels_can_be_made_ready_before_they_are_needed(tmp_path: Path) -> None:
    code = ("import dissector.engine, dissector.compiled as c; c.make_ready(); "
            "print(all('_machine' in vars(kernel) for kernel in c._KERNELS), len(c._KERNELS) > 5)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("program", ["", "#!/bin/sh\nexit 1\n", "#!/bin/sh\nexit 0\n", "\0no program"],
                         ids=["empty", "fails", "makes nothing", "cannot be run"])
def test_a_linker_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ld").write_text(program)
    (tmp_path / "bin" / "ld").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert called(loaded(tmp_path)) == (40, 6)
    assert kept(tmp_path).suffix == ".o"


def test_an_array_of_another_kind_is_another_kernel(tmp_path: Path) -> None:
    source = KERNEL.replace("row: Numbers", "row: Slots").replace("import Numbers", "import Slots")
    assert called(loaded(tmp_path)) == (40, 6)
    module = loaded(tmp_path, source)
    table = np.zeros((3, 2), np.int64)
    module.add(table, np.array([5, -7], np.int32), np.zeros(0, np.uint8), False)
    assert table.tolist() == [[5, -7]] * 3

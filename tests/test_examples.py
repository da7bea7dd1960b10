"""The examples: each runs as a user would run it, and says what it should."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import subprocess
import sys
import sysconfig
import uuid
import zlib
from collections import Counter
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from leaks import eventually

EXAMPLES = Path(__file__).parent.parent / "examples"
LIBRARY = Path(sysconfig.get_path("stdlib"))
# No limit of time in what is tested: on a machine whose cores are all busy it only takes longer.
PATIENCE = 300


def run(
    folder: Path, example: str, *args: str | Path, workers: int = 2, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """`parallel-actors run example.py ARGS` in `folder`. It leaves no OS process behind, whatever it did."""
    command = [sys.executable, "-m", "parallel_actors", "run", "-w", str(workers), *options]
    return run_command(folder, [*command, str(EXAMPLES / example), *map(str, args)])


def run_command(folder: Path, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, with these environment variables. It leaves no OS process behind, whatever it did."""
    # What it starts inherits this variable: so the processes of this very run are found, beside those of other tests.
    name, value = "PARALLEL_ACTORS_TEST_RUN", uuid.uuid4().hex
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **variables, name: value},
        check=False,
    )
    eventually(lambda: marked(f"{name}={value}") == [], f"the OS processes of {command} are gone")
    return done


def marked(mark: str) -> list[int]:
    """The living OS processes whose environment holds `mark`."""
    found: list[int] = []
    for process in psutil.process_iter(["pid"]):
        try:
            text = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:  # gone, or somebody else's
            continue
        if mark.encode() in text.split(b"\0"):
            found.append(process.pid)
    return found


def module_of(example: str) -> ModuleType:
    """An example as a module, for what it has beside its actors."""
    spec = importlib.util.spec_from_file_location(f"{example}_of_test", EXAMPLES / f"{example}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    sys.path.insert(0, str(EXAMPLES))  # where its neighbours are
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
        sys.modules.pop("png", None)
    return module


# --- word_count -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def word_count() -> ModuleType:
    """The example as a module, for its plain count."""
    return module_of("word_count")


def plainly(word_count: ModuleType, *folders: Path) -> tuple[Counter[str], int, int]:
    """(identifiers, files, skipped files), counted here, one file after the other."""
    words: Counter[str] = Counter()
    paths = [path for folder in folders for path in word_count.python_files(str(folder))]
    skipped = 0
    for path in paths:
        counted = word_count.count_file(path)
        words.update(counted.words)
        skipped += counted.skipped is not None
    return words, len(paths), skipped


def top_of(output: str) -> list[tuple[str, int]]:
    """The words that the example showed, with their counts."""
    found = re.findall(r"^ *([\d,]+)  (\w+)$", output, re.MULTILINE)
    return [(word, int(count.replace(",", ""))) for count, word in found]


def check_counts(output: str, words: Counter[str], files: int, skipped: int) -> None:
    assert f"\n{words.total():,} identifiers, {len(words):,} different, {skipped} files skipped\n" in output
    expected = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    shown = top_of(output)
    assert expected[: len(shown)] == shown
    shares = re.findall(r"^ +(\d)  +(\d+)  +([\d,]+)  +([\d.]+)$", output, re.MULTILINE)
    assert ["0", "1"] == [worker for worker, *_ in shares]
    assert (files, words.total()) == (
        sum(int(share[1]) for share in shares),
        sum(int(share[2].replace(",", "")) for share in shares),
    )


def test_word_count_counts_what_a_plain_loop_counts(tmp_path: Path, word_count: ModuleType) -> None:
    folders = [LIBRARY / "asyncio", LIBRARY / "email"]
    done = run(tmp_path, "word_count.py", *folders, "--top", "1000000")
    assert (0, "") == (done.returncode, done.stderr)
    words, files, skipped = plainly(word_count, *folders)
    assert f"{files} files, " in done.stdout
    assert len(words) == len(top_of(done.stdout))
    check_counts(done.stdout, words, files, skipped)


@pytest.mark.stress
def test_word_count_of_the_whole_standard_library(tmp_path: Path, word_count: ModuleType) -> None:
    done = run(tmp_path, "word_count.py", "--top", "1000")
    assert 0 == done.returncode, done.stdout + done.stderr
    words, files, skipped = plainly(word_count, LIBRARY)
    assert done.stdout.startswith(f"{files} files, ")
    assert 1000 == len(top_of(done.stdout))
    check_counts(done.stdout, words, files, skipped)
    # Progress, where stderr is no terminal: a line now and then.
    line = rf"2 workers: +\d+%, \d+ of {files} files"
    shown = [each for each in done.stderr.splitlines() if " workers: " in each]
    assert shown  # beside what a busy machine makes workers report
    assert all(re.fullmatch(line, each) for each in shown)


def test_word_count_compares_with_the_plain_way(tmp_path: Path) -> None:
    done = run(tmp_path, "word_count.py", LIBRARY / "json", "--compare")
    assert (0, "") == (done.returncode, done.stderr)
    times = r"\n2 workers +[\d.]+ s\none after another +[\d.]+ s\nratio +[\d.]+\nthe counts are equal\n$"
    assert re.search(times, done.stdout)


def test_word_count_says_which_files_it_skipped_and_why(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "good.py").write_text("match = case = match\n")
    (corpus / "bytes.py").write_bytes(b"name = '\xff'\n")
    (corpus / "codec.py").write_bytes(b"# coding: no-such-codec\n")
    (corpus / "open.py").write_text("f(\n")
    (corpus / "gone.py").symlink_to(corpus / "nowhere.py")
    (corpus / "notes.txt").write_text("nothing\n")
    done = run(tmp_path, "word_count.py", corpus, "--compare")
    assert (0, "") == (done.returncode, done.stderr)
    assert "\n3 identifiers, 2 different, 4 files skipped\n" in done.stdout
    assert [("match", 2), ("case", 1)] == top_of(done.stdout)
    assert "the counts are equal\n" in done.stdout
    reasons = dict(re.findall(rf"^skipped {re.escape(str(corpus))}/(\w+)\.py: (\w+): ", done.stdout, re.MULTILINE))
    assert {"bytes", "codec", "gone", "open"} == reasons.keys()
    assert ("FileNotFoundError", "SyntaxError", "TokenError") == (reasons["gone"], reasons["codec"], reasons["open"])


def with_a_death(folder: Path, code: str) -> Path:
    """A corpus of 40 files and, beside it, the example with `code` at the start of count_file(path)."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(1, 41):
        (corpus / f"good_{number}.py").write_text("name = 1\n" * number)
    source = (EXAMPLES / "word_count.py").read_text()
    begin = "    words: Counter[str] = Counter()\n"
    assert 1 == source.count(begin)
    (folder / "deadly_count.py").write_text(source.replace(begin, code + begin))
    return corpus


@pytest.mark.contract("S2.4", "S9.2", partly=True)
def test_word_count_goes_on_when_a_worker_is_killed(tmp_path: Path) -> None:
    corpus = with_a_death(
        tmp_path,
        "    if pa.worker_index() == 1 and not os.path.exists('killed'):\n"
        "        open('killed', 'w').close()\n"
        "        os.kill(os.getpid(), 9)\n",
    )
    done = run(tmp_path, str(tmp_path / "deadly_count.py"), corpus, "--compare")
    assert 0 == done.returncode, done.stderr
    assert f"\n{sum(range(1, 41))} identifiers, 1 different, 0 files skipped\n" in done.stdout
    assert done.stdout.endswith("the counts are equal\n")
    assert {
        "parallel-actors: worker 1 was killed by SIGKILL; it is replaced",
        "a mapper on worker 1 died (worker 1 was killed by SIGKILL): its files go to another",
    } == set(done.stderr.splitlines())


def test_word_count_skips_a_file_that_mappers_die_of(tmp_path: Path) -> None:
    corpus = with_a_death(
        tmp_path, "    if path.endswith('deadly.py'):\n        raise MemoryError('more than there is')\n"
    )
    (corpus / "deadly.py").write_text("name = 1\n" * 20)
    done = run(tmp_path, str(tmp_path / "deadly_count.py"), corpus, options=("--log-level", "CRITICAL"))
    assert 0 == done.returncode, done.stderr
    assert f"\n{sum(range(1, 41))} identifiers, 1 different, 1 files skipped\n" in done.stdout
    why = "3 mappers died of it, the last: MemoryError: more than there is"
    assert f"skipped {corpus}/deadly.py: {why}\n" in done.stdout
    died = r"a mapper on worker [01] died \(MemoryError: more than there is\): its files go to another"
    lines = [line for line in done.stderr.splitlines() if " workers: " not in line]
    assert [died] * 3 == [died if re.fullmatch(died, line) else line for line in lines]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no-such-folder"], "expected a folder, got '{folder}/no-such-folder', which is not there"),
        (["a_file.py"], "expected a folder, got '{folder}/a_file.py', which is a file"),
        (["empty"], "expected *.py files below {folder}/empty, found none"),
        (["--top", "0"], "argument --top: expected a whole number from 1, got '0'"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_word_count_refuses_with_a_sentence(tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "a_file.py").touch()
    (tmp_path / "empty").mkdir()
    done = run(tmp_path, "word_count.py", *args)
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("usage: word_count.py ")
    assert done.stderr.endswith(f"\nword_count.py: error: {message.format(folder=tmp_path)}\n")


# --- work for every core ----------------------------------------------------------------------------------------------


def pixels_of(file: Path) -> tuple[int, int, bytes]:
    """Width, height and the bytes of the pixels of a PNG, whose parts and checksums are looked at."""
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert (zlib.crc32(kind + content),) == struct.unpack_from(">I", data, at + 8 + size)
        parts[kind] = content
        at += 12 + size
    assert [b"IHDR", b"IDAT", b"IEND"] == list(parts)
    width, height, *how = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert [8, 2, 0, 0, 0] == how  # eight bits, three colours
    filtered = zlib.decompress(parts[b"IDAT"])
    assert len(filtered) == height * (1 + 3 * width)
    rows = [filtered[at : at + 1 + 3 * width] for at in range(0, len(filtered), 1 + 3 * width)]
    assert all(row[0] == 0 for row in rows)
    return width, height, b"".join(row[1:] for row in rows)


def test_mandelbrot_is_the_picture_that_a_plain_loop_makes(tmp_path: Path) -> None:
    done = run(tmp_path, "mandelbrot.py", "--width", "60", "--height", "40", "--iterations", "50", "--out", "a.png")
    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(r"a.png: 60 x 40, \d+ bytes\n[\d.]+ s on 2 workers\n", done.stdout)
    module = module_of("mandelbrot")
    view = module.View(60, 40, 50, -0.6, 0.0, 3.2)
    plain = b"".join(module.row(view, number) for number in range(40))
    assert (60, 40, plain) == pixels_of(tmp_path / "a.png")
    # The middle is in the set, the corner far from it; above and below the real axis it is the same.
    middle, corner = 3 * (20 * 60 + 30), 0
    assert b"\0\0\0" == plain[middle : middle + 3] != plain[corner : corner + 3]
    rows = [plain[at : at + 180] for at in range(0, len(plain), 180)]
    assert rows == rows[::-1]


def test_matrix_compares_with_numpy(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    done = run(tmp_path, "matrix.py", "-n", "100", "--block", "33")
    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(
        r"100 x 100 in 16 blocks, 2 workers: [\d.]+ s\nNumPy alone, one thread: [\d.]+ s\nthe products are equal\n",
        done.stdout,
    )


def test_matrix_says_when_the_products_differ(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    source = (EXAMPLES / "matrix.py").read_text()
    broken = source.replace("piece.left @ piece.right", "piece.left @ piece.right + (piece.row > 0)")
    assert broken != source
    (tmp_path / "matrix.py").write_text(broken)
    done = run(tmp_path, str(tmp_path / "matrix.py"), "-n", "20", "--block", "10")
    assert 1 == done.returncode
    assert re.fullmatch(r"the products differ, by up to [\d.]+\n", done.stderr)


@pytest.mark.parametrize("args", [[], ["--crash"], ["--in-flight", "1"]])
def test_image_pipeline_writes_each_picture(tmp_path: Path, args: list[str]) -> None:
    np = pytest.importorskip("numpy")
    done = run(
        tmp_path, "image_pipeline.py", "--count", "6", "--size", "40", *args, options=("--log-level", "CRITICAL")
    )
    assert (0, "") == (done.returncode, done.stderr)
    killed = "2 are written: filter/0 is killed\n" if args == ["--crash"] else ""
    assert re.fullmatch(rf"{killed}6 pictures of 40 x 40 in pictures\n[\d.]+ s on 2 workers\n", done.stdout)
    files = sorted((tmp_path / "pictures").iterdir())
    assert [f"picture-{number:04}.png" for number in range(6)] == [file.name for file in files]
    module = module_of("image_pipeline")
    for number, file in enumerate(files):
        width, height, pixels = pixels_of(file)
        made = module.generated(number, 40)
        assert (40, 40, module.smoothed(made).tobytes()) == (width, height, pixels)
    # One of the means, taken at once.
    made, smooth = module.generated(3, 40).astype(float), module.smoothed(module.generated(3, 40))
    assert np.abs(made[8:13, 18:23].mean(axis=(0, 1)) - smooth[10, 20]).max() <= 0.5


@pytest.mark.parametrize("args", [[], ["--no-steal"]])
def test_unbalanced_tree_counts_what_a_plain_loop_counts(tmp_path: Path, args: list[str]) -> None:
    done = run(tmp_path, "unbalanced_tree.py", "--roots", "100", "--piece", "500", *args)
    assert (0, "") == (done.returncode, done.stderr)
    match = re.fullmatch(
        r"(\d+) nodes in (\d+) pieces: [\d.]+ s\n((?:worker \d: \d+ pieces\n)+)"
        r"a plain loop: [\d.]+ s, ratio [\d.]+\nthe counts are equal\n",
        done.stdout,
    )
    assert match, done.stdout
    module = module_of("unbalanced_tree")
    assert int(match[1]) == module.search([module.child_of(1, root) for root in range(100)])
    assert int(match[2]) > int(match[1]) // 500
    shares = {int(worker): int(pieces) for worker, pieces in re.findall(r"worker (\d): (\d+)", match[3])}
    assert int(match[2]) == sum(shares.values())
    assert set(shares) <= {0, 1}
    if args:
        assert [0] == list(shares)  # where the first one was


def test_unbalanced_tree_misses_a_piece_that_is_lost(tmp_path: Path) -> None:
    source = (EXAMPLES / "unbalanced_tree.py").read_text()
    broken = source.replace("(nodes, most)\n", "(nodes, most)\n    assert count == most, 'lost'\n")
    assert broken != source
    (tmp_path / "unbalanced_tree.py").write_text(broken)
    args = ("--roots", "100", "--piece", "500")
    done = run(tmp_path, str(tmp_path / "unbalanced_tree.py"), *args, options=("--log-level", "CRITICAL"))
    assert 1 == done.returncode
    # The one, or where it had ended before it was watched, the other.
    assert done.stderr.startswith("a piece was not searched: ")
    assert "AssertionError: lost" in done.stderr or "noproc" in done.stderr


# --- the small ones ---------------------------------------------------------------------------------------------------


def test_echo(tmp_path: Path) -> None:
    done = run(tmp_path, "echo.py")
    assert (0, "you said: hi\nit ended: normal\n", "") == (done.returncode, done.stdout, done.stderr)
    done = run(tmp_path, "echo.py", "one", "two", workers=1)
    assert (0, "you said: one\nyou said: two\nit ended: normal\n") == (done.returncode, done.stdout)


@pytest.mark.parametrize("args", [[], ["--apart"]])
def test_ping_pong(tmp_path: Path, args: list[str]) -> None:
    done = run(tmp_path, "ping_pong.py", *args)
    where = "two workers" if args else "one worker"
    rounds = "".join(f"ping {number} - pong {number}\n" for number in (1, 2, 3))
    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(rf"{rounds}3 rounds on {where}: [\d.]+ us a round\n", done.stdout)


def test_ping_pong_needs_two_workers_to_be_apart(tmp_path: Path) -> None:
    done = run(tmp_path, "ping_pong.py", "--apart", workers=1)
    assert (1, "") == (done.returncode, done.stdout)
    assert "expected two workers for --apart, got one: parallel-actors run -w 2 ...\n" == done.stderr


@pytest.mark.parametrize("args", [[], ["--spread"]])
def test_thread_ring(tmp_path: Path, args: list[str]) -> None:
    done = run(tmp_path, "thread_ring.py", "-n", "7", "--hops", "1000", *args)
    assert (0, "") == (done.returncode, done.stderr)
    # Process 0 gets 1000, process 1 gets 999, ...: so 0 comes to process 1000 % 7.
    expected = rf"7 processes, 1000 hops: it ended at process {1000 % 7}\n[\d.]+ s, [\d.]+ us a hop\n"
    assert re.fullmatch(expected, done.stdout)


def test_million(tmp_path: Path) -> None:
    done = run(tmp_path, "million.py", "-n", "2001")
    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(
        r"worker 0: 1001 processes in [\d.]+ s\nworker 1: 1000 processes in [\d.]+ s\n"
        r"2001 processes wait: [\d.]+ s, -?\d+ bytes each\n"
        r"the message has been through 2001 of them: [\d.]+ s, [\d.]+ us each\n",
        done.stdout,
    )


@pytest.mark.contract("S1.8", "S1.9", partly=True)
def test_runaway_loops_starve_nobody(tmp_path: Path) -> None:
    done = run(tmp_path, "runaway.py", "--loops", "6", "--seconds", "1", workers=1)
    assert (0, "") == (done.returncode, done.stderr)
    match = re.fullmatch(
        r"6 endless loops and (\d+) answers on one worker in 1 s\nan answer took .*\n"
        r"rounds of the loops: ([\d, ]+)\nthey are killed: killed\n",
        done.stdout,
    )
    assert match, done.stdout
    assert int(match[1]) > 100
    assert len(match[2].split(", ")) == 6
    assert "0" not in match[2].split(", ")


@pytest.mark.contract("S4.1", "S9.2", partly=True)
def test_crash_tells_what_happens_step_by_step(tmp_path: Path) -> None:
    done = run(tmp_path, "crash.py", options=("--log-level", "CRITICAL"))
    assert (0, "parallel-actors: worker 1 was killed by SIGKILL; it is replaced\n") == (done.returncode, done.stderr)
    assert done.stdout == (
        "1. A monitor: somebody else's crash is a message.\n"
        "   it ended with ZeroDivisionError: division by zero\n"
        "2. A link: who belongs together dies together.\n"
        "   one was told to end, both did: ['no more', 'no more']\n"
        "3. Trapped exits: the end of a linked process is a message, and we live on.\n"
        "   our linked process ended with ZeroDivisionError: division by zero\n"
        "4. kill: it can't be trapped.\n"
        "   it ended with 'killed'\n"
        "5. A worker is killed: its processes end, the others go on.\n"
        "   one ended: worker 1 was killed by SIGKILL\n"
        "   one ended: worker 1 was killed by SIGKILL\n"
        "   one ended: worker 1 was killed by SIGKILL\n"
        "   the counter on worker 0 goes on: 2 ticks\n"
        "6. The worker has been replaced: it takes new processes.\n"
        "   worker 1 runs in another OS process: True\n"
    )


def test_crash_reports_name_the_process_and_the_line(tmp_path: Path) -> None:
    done = run(tmp_path, "crash.py")
    assert 0 == done.returncode
    assert 2 == done.stderr.count("ZeroDivisionError: division by zero\n  running divide; ")
    assert 2 == done.stderr.count("    return number / 0\n")


def test_shop_closes_when_its_customers_have_gone(tmp_path: Path) -> None:
    options = ("--env", "customers=3", "--env", "shop:Warehouse.apples=20")
    done = run(tmp_path, "shop.py:App", options=options)
    assert (0, "") == (done.returncode, done.stderr)
    lines = [line for line in done.stdout.splitlines() if "is open" not in line]
    assert [
        "3 customers bought 20 apples for 60",
        "the shop closes: 60 taken",
        "the warehouse closes: 0 apples are left",
    ] == lines


def test_crash_needs_two_workers(tmp_path: Path) -> None:
    done = run(tmp_path, "crash.py", workers=1)
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("expected at least 2 workers (one is killed), got 1: ")


def test_counter_counts_twice(tmp_path: Path) -> None:
    done = run(tmp_path, "counter.py")
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["GenServer: 42", "typed actor: 42", "asked, and waited later: 42"]
    assert lines[3].startswith(
        "not for others: a reference to a Counter has no 'n'; its calls and casts are: value, bump."
    )


def test_door_locks_again(tmp_path: Path) -> None:
    done = run(tmp_path, "door.py")
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.splitlines() == [
        "the door is locked",
        "a wrong code: it is locked",
        "the right one: the visitor who waited hears 'come in'",
        "later it is locked again",
        "three wrong codes: alarm",
        "the key: it is locked",
    ]


def test_bank_lets_it_crash(tmp_path: Path) -> None:
    done = run(tmp_path, "bank.py")
    assert 0 == done.returncode
    assert done.stdout.splitlines() == [
        "alice deposits 20: 120",
        "bob withdraws 30: 20",
        "bob withdraws 1000000: ValueError: bob has 20, and wanted 1000000",
        "bob is back: 20",
        "alice saw nothing of it: 120",
    ]
    assert 1 == done.stderr.count("child_terminated")
    assert "ValueError: bob has 20, and wanted 1000000\n  running Account" in done.stderr


def test_game_server_plays_and_its_table_adds_up(tmp_path: Path) -> None:
    args = ("--interval", "0.01", "--matches", "60", "--crash-rate", "0.2")
    done = run(tmp_path, "game_server.py", *args, options=("--log-level", "CRITICAL"))
    assert (0, "") == (done.returncode, done.stderr)
    lines = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+)$", done.stdout, re.MULTILINE)
    names, ratings, won, lost = zip(*lines, strict=True)
    assert ["ada", "alan", "barbara", "edsger", "grace", "joe", "mike", "robert"] == sorted(names)
    assert (8000, 60, 60) == tuple(sum(map(int, column)) for column in (ratings, won, lost))
    assert sorted(ratings, key=int, reverse=True) == list(ratings)
    assert done.stdout.endswith("each match was won once and lost once; 8000 points in all, as at the start\n")


def test_broker_has_each_message_acknowledged(tmp_path: Path) -> None:
    args = ("--messages", "60", "--publishers", "2", "--consumers", "2")
    done = run(tmp_path, "broker.py", *args, options=("--log-level", "CRITICAL"))
    assert (0, "") == (done.returncode, done.stderr)
    lines = re.findall(r"^(mail|thumbnails) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", done.stdout, re.MULTILINE)
    assert ["mail", "thumbnails"] == [name for name, *_ in lines]
    for _, *numbers in lines:
        published, delivered, redelivered, acknowledged, lost = map(int, numbers)
        assert published == acknowledged == 120
        assert delivered == published + redelivered
        # Each tenth message ends its consumer, unless an earlier end has sent it back; nobody holds more than four.
        assert 0 < lost <= 12
        assert lost <= redelivered <= 4 * lost
    assert re.search(
        r"^240 messages were done and acknowledged, [1-9]\d* of them more than once$", done.stdout, re.MULTILINE
    )


def test_key_value_shows_its_partitions(tmp_path: Path) -> None:
    done = run(tmp_path, "key_value.py", options=("--log-level", "CRITICAL"))
    assert (0, "") == (done.returncode, done.stderr)
    counts = re.findall(r"^partition (\d) has (\d+) values, on worker [01]$", done.stdout, re.MULTILINE)
    assert [str(number) for number in range(8)] == [number for number, _ in counts]
    assert 1000 == sum(int(count) for _, count in counts)
    assert done.stdout.endswith("partition 0 was killed, and is back: 1000 of 1000 values are there\n")


def shown(output: str, what: str) -> int:
    """The number behind a word in what key_value.py shows."""
    found = re.search(rf"^{what} +(\d+)", output, re.MULTILINE)
    assert found, output
    return int(found[1])


def check_chaos(done: subprocess.CompletedProcess[str]) -> str:
    """What chaos has to say whoever was killed; its output."""
    assert 0 == done.returncode, done.stdout + done.stderr
    output = done.stdout
    # How it ended may come too late to be told, on a machine that is busy with other things: "died" then.
    replaced = re.findall(
        r"^parallel-actors: worker \d (?:was killed by SIGKILL|died); it is replaced$", done.stderr, re.M
    )
    assert len(replaced) == shown(output, "workers killed") >= 4
    assert shown(output, "calls answered") > 0
    assert 0 == shown(output, "never answered")
    assert 0 == shown(output, "wrong values")
    reasons = re.findall(r"^ +(\d+)  (\w+), ", output, re.MULTILINE)
    assert shown(output, "calls failed") == sum(int(times) for times, _ in reasons)
    assert {name for _, name in reasons} <= {"NodeDown", "NoProc", "RemoteError", "NotRegistered"}
    assert re.search(r"^longest outage    [\d.]+ s\navailability      [\d.]+ % of \d+ calls$", output, re.MULTILINE)
    return output


# Nobody has to be quick here: a machine that is busy with other things makes longer outages, and no unanswered calls.
CHAOS = ("key_value.py", "--chaos", "--seconds", "1", "--kills", "4", "--seed", "1", "--timeout", "100")


@pytest.mark.contract("S9.2", "S6.3", partly=True)
def test_key_value_answers_or_refuses_every_call_while_workers_are_killed(tmp_path: Path) -> None:
    done = run(tmp_path, *CHAOS, options=("--log-level", "CRITICAL"))
    output = check_chaos(done)
    # The one that main lives on is spared.
    assert re.search(r"^workers killed    (\d+) \(worker 1: \1\)$", output, re.MULTILINE)
    assert 1 == shown(output, "trees started")


@pytest.mark.contract("S9.2", "S6.3", partly=True)
def test_key_value_outlives_every_worker_when_main_is_none_of_theirs(tmp_path: Path) -> None:
    done = run_command(tmp_path, [sys.executable, str(EXAMPLES / CHAOS[0]), *CHAOS[1:]], PARALLEL_ACTORS_WORKERS="2")
    output = check_chaos(done)
    assert re.search(r"^workers killed    \d+ \(worker 0: \d+, worker 1: \d+\)$", output, re.MULTILINE)


def test_key_value_fails_if_a_call_stays_unanswered(tmp_path: Path) -> None:
    args = ("--chaos", "--seconds", "0", "--kills", "3", "--timeout", "0")  # no answer is there at once
    done = run(tmp_path, "key_value.py", *args, options=("--log-level", "CRITICAL"))
    assert 1 == done.returncode
    assert shown(done.stdout, "never answered") > 0


def test_key_value_needs_a_worker_to_kill(tmp_path: Path) -> None:
    done = run(tmp_path, *CHAOS, workers=1)
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("expected at least 2 workers (main's own is spared), got 1: ")


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted({*EXAMPLES.glob("*.py")} - {EXAMPLES / "png.py"}), ids=lambda path: path.name)
def test_each_example_says_how_to_run_it(path: Path) -> None:
    first, _, rest = path.read_text().partition("\n")
    assert first.startswith('"""')
    assert f"    parallel-actors run examples/{path.name}" in rest or f"examples/{path.name}\n" in rest


def test_modules_in_the_current_directory_are_not_imported(tmp_path: Path) -> None:
    """The README's first command runs in a clone, whose folder holds our own sources without the compiled modules."""
    here = tmp_path / "here"
    (here / "parallel_actors").mkdir(parents=True)
    for name in ("parallel_actors/__init__.py", "dill.py", "random.py"):
        (here / name).write_text(f"raise SystemExit('{name} of the current directory was imported')\n")
    # As the console script does: its own folder is first on sys.path, not the current one.
    script = tmp_path / "script.py"
    script.write_text("from parallel_actors.cli import main\nmain()\n")
    done = subprocess.run(
        [sys.executable, str(script), "run", "-w", "2", str(EXAMPLES / "echo.py")],
        cwd=here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (0, "you said: hi\nit ended: normal\n", "") == (done.returncode, done.stdout, done.stderr)


def test_crawler_finds_every_page_and_loses_the_one_that_cannot_be_read(tmp_path: Path) -> None:
    options = ("--log-level", "CRITICAL")
    done = run(tmp_path, "crawler.py", "--pages", "300", "--connections", "8", options=options)
    assert (done.returncode, done.stderr) == (0, "")
    missing, unreadable, pages, _ = done.stdout.splitlines()
    assert missing == "/missing: status 404"
    assert unreadable == "/page/5: can't be read: expected a page of HTML, got 'no page at all'"
    found = re.fullmatch(r"(\d+) pages in .* s, .* a second; at most 8 under way and \d+ addresses waiting", pages)
    assert found is not None
    assert 290 < int(found[1]) < 300  # it has compared their words with the site's


@pytest.mark.parametrize("wrong", [("--pages", "0"), ("--connections", "0"), ("--delay", "-1")])
def test_crawler_says_what_it_expects(tmp_path: Path, wrong: tuple[str, str]) -> None:
    done = run(tmp_path, "crawler.py", *wrong)
    assert done.returncode == 2
    assert "expected at least one page, one connection and no negative delay" in done.stderr

"""Fixtures for all tests: systems, and the check that nothing is left behind."""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

import parallel_actors as pa
from leaks import Footprint, eventually
from parallel_actors.config import usable_cores
from parallel_actors.workers.segment import Segment
from puppets import Witness, puppet
from records import Records, recorded

# A shell's background job has Ctrl-C ignored, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says nothing where every core is busy.
hypothesis.settings.register_profile("any load", deadline=None)
hypothesis.settings.load_profile("any load")


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: one more than the cores, for tests mostly wait."""
    return usable_cores() + 1


@pytest.fixture(scope="module", autouse=True)
def cheap_collections() -> None:
    """Each test's collection leaves out what was there before its module: else it takes most of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where temporary files of this OS process, and of all that it starts, go: what is left there is a test's."""
    tmp_path_factory.getbasetemp()  # pytest's own stays where one looks for it
    with tempfile.TemporaryDirectory(prefix="parallel_actors-tests-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def no_leaks(own_temporary_folder: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test ends with the OS processes, threads, descriptors, mappings and files that it began with."""
    if "node" in request.fixturenames:
        request.getfixturevalue("node")  # it outlives the test: count it in
    before = Footprint()
    yield
    gc.collect()
    before.check()


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Shared memory for two workers and two guests, without any process. For tests of what lies in it."""
    made = Segment.create(2, guests=2)
    yield made
    made.close()


@pytest.fixture
def actor_system(no_leaks: None) -> Iterator[pa.ActorSystem]:
    """A fresh system of two workers, stopped after the test. For tests that kill or count."""
    with pa.ActorSystem(workers=2) as system:
        yield system


@pytest.fixture(scope="module")
def shared_node() -> Iterator[pa.ActorSystem]:
    """The system behind `node`. Its reports aren't bounded: many tests read them, in no time."""
    with pa.ActorSystem(workers=2, max_reports=10**6) as system:
        yield system


@pytest.fixture
def node(shared_node: pa.ActorSystem) -> Iterator[pa.ActorSystem]:
    """A system of two workers that the tests of a module share; each test ends with its processes killed.

    For tests that leave workers alone. A test must not depend on worker numbers having had no other process before.
    """
    yield shared_node
    me = pa.self_()
    pa.trap_exit(False)
    for pid in pa.processes():
        if pid != me:
            pa.unlink(pid)
            pa.exit(pid, "kill")
    eventually(lambda: pa.processes() == [me], "all processes of the test are gone")
    while pa.receive(timeout=0, default=None) is not None:
        pass
    assert pa.registered() == []


@pytest.fixture
def logged(node: pa.ActorSystem) -> Iterator[None]:
    """Reports of the workers of `node` come to the test as ("logged", logger, text)."""
    for worker in range(pa.worker_count()):
        puppet(worker).do(Witness.start, pa.self_())
    yield
    for worker in range(pa.worker_count()):
        puppet(worker).do(Witness.stop)


@pytest.fixture
def records(node: pa.ActorSystem) -> Iterator[Records]:
    """The log records that come to this program meanwhile; for a `shared_node` with `forward_logs`."""
    with recorded() as found:
        yield found

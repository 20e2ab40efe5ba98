"""How a process finds out that it is one of several, before anything starts."""

import jax
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.process import runtime

MANUAL = {
    "JAX_COORDINATOR_ADDRESS": "localhost:12345",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


class Joined(Exception):
    """Raised instead of waiting for other processes."""


@pytest.fixture
def join(monkeypatch):
    """Returns the arguments that JAX would get, or None if the process runs alone."""
    for name in [*MANUAL, "SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"]:
        monkeypatch.delenv(name, raising=False)

    def initialize(**arguments):
        raise Joined(arguments)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)

    def join(distributed="auto", **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        try:
            runtime.join_processes(distributed)
        except Joined as joined:
            return joined.args[0]

    return join


def test_process_without_a_launcher_runs_alone(join):
    assert join() is None
    assert join(SLURM_NTASKS="4") is None  # in a Slurm allocation, but not by srun
    assert join(SLURM_STEP_NODELIST="node1", SLURM_NTASKS="1", OMPI_COMM_WORLD_SIZE="1") is None
    assert join("off", **MANUAL) is None


def test_failure_to_join_gets_one_sentence(monkeypatch):
    def fail(**arguments):
        raise ConnectionError("the metadata server does not answer")  # requests' is an OSError too

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    with pytest.raises(UserError, match=r"could not join .* \(the metadata server does not answer"):
        runtime.join_processes("on")


def test_environment_gives_process_index_and_count(join):
    found = join(**MANUAL)
    assert found["coordinator_address"] == "localhost:12345"
    assert (found["num_processes"], found["process_id"]) == (2, 1)
    assert found["heartbeat_timeout_seconds"] == runtime.HEARTBEAT_TIMEOUT


@pytest.mark.parametrize(
    "launched",
    [{"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}, {"OMPI_COMM_WORLD_SIZE": "4"}],
)
def test_launchers_are_recognized_and_left_to_jax(join, launched):
    assert "num_processes" not in join(**launched)


def test_jax_detects_the_launcher_itself_if_on(join):
    assert "num_processes" not in join("on")


@pytest.mark.parametrize(
    "change",
    [
        {"JAX_PROCESS_ID": "2"},
        {"JAX_PROCESS_ID": ""},
        {"JAX_NUM_PROCESSES": "two"},
        {"JAX_COORDINATOR_ADDRESS": "localhost"},
    ],
)
def test_incomplete_environment_is_refused(join, change):
    (name, value) = next(iter(change.items()))
    with pytest.raises(UserError, match=f'{name}="{value}"'):
        join(**MANUAL | change)

"""How a process learns that it is one of several, before anything is started."""

import jax
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.process import runtime

HAND = {
    "JAX_COORDINATOR_ADDRESS": "localhost:12345",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


class Joined(Exception):
    """In place of waiting for other processes."""


@pytest.fixture
def join(monkeypatch):
    """Returns the arguments that JAX would get; None where the process stays alone."""
    for name in [*HAND, "SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"]:
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


def test_a_process_that_nothing_else_started_stays_alone(join):
    assert join() is None
    assert join(SLURM_NTASKS="4") is None  # in a Slurm allocation, but not by srun
    assert join(SLURM_STEP_NODELIST="node1", SLURM_NTASKS="1", OMPI_COMM_WORLD_SIZE="1") is None
    assert join("off", **HAND) is None


def test_the_environment_gives_a_process_its_place(join):
    place = join(**HAND)
    assert place["coordinator_address"] == "localhost:12345"
    assert (place["num_processes"], place["process_id"]) == (2, 1)
    assert place["heartbeat_timeout_seconds"] == runtime.HEARTBEAT_TIMEOUT


@pytest.mark.parametrize(
    "launched",
    [{"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}, {"OMPI_COMM_WORLD_SIZE": "4"}],
)
def test_launchers_are_recognised_and_left_to_jax(join, launched):
    assert "num_processes" not in join(**launched)


def test_jax_looks_for_itself_when_told_to(join):
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
def test_half_a_place_is_a_mistake(join, change):
    (name, value) = next(iter(change.items()))
    with pytest.raises(UserError, match=f'{name}="{value}"'):
        join(**HAND | change)

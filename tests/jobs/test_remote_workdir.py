"""Jobs whose workdir and checkpoints are elsewhere; a folder of this machine is the bucket."""

from benchmarks.kill_campaign import compare
from smallvit_jax.checkpoints.store import CheckpointStore
from smallvit_jax.process import remote
from tests.support.tiny_jobs import read_json, run_job


def test_stopped_run_goes_on_on_another_machine(monkeypatch, tmp_path):
    """It ends with the bits of an undisturbed run on a local disk."""
    monkeypatch.setattr(remote, "COPIES", str(tmp_path / "first machine"))
    settings = {"runtime__checkpoint_every": 2, "runtime__steps_per_dispatch": 1}
    assert run_job("pretrain", tmp_path / "undisturbed", **settings) == 0
    bucket = f"file://{tmp_path}/bucket/run"
    save, saved = CheckpointStore.save, []

    def interrupted(self, step, *args):
        save(self, step, *args)
        saved.append(step)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", interrupted)
        assert run_job("pretrain", bucket, **settings) == 130
    assert not (tmp_path / "bucket/run/result.json").exists()
    monkeypatch.setattr(remote, "COPIES", str(tmp_path / "second machine"))
    assert run_job("pretrain", bucket, **settings) == 0
    assert compare(tmp_path / "undisturbed", tmp_path / "bucket/run") == []

    start = {"finetune__init_from": f"{bucket}/"}
    assert run_job("finetune", tmp_path / "finetuned", **start) == 0
    assert read_json(tmp_path / "finetuned/result.json")["init_from"] == f"{bucket}/"

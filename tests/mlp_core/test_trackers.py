"""A run in the hands of trackers: event files read again, and stand-ins that write down calls."""

import math
import struct
import sys
from types import ModuleType, SimpleNamespace

import pytest

from mlp_core.history import Epoch, History
from mlp_core.trackers import TrackerError, points, settings


@pytest.fixture
def history():
    return History(
        train_loss=[2.5, 2.25, 2.0, math.nan],
        epochs=[
            Epoch(2, 500, 0.5, {"loss": 1.75, "acc": 0.5}),
            Epoch(2, 500, 0.25, {"loss": 1.5, "acc": 0.625}),
        ],
        compile_seconds=0.75,
        about={"side": "jax", "model": "MLP", "hyperparameters": {"lr": 0.1}, "device": "cpu"},
    )


def test_figures_of_an_epoch_stand_at_its_last_step(history):
    found = [*points(history)]
    assert [p.step for p in found] == [1, 2, 3, 4]
    assert [p.seconds for p in found] == [0.25, 0.5, 0.625, 0.75]
    assert found[0].figures == {"train_loss": 2.5}
    ends = {"train_loss": 2.25, "val_loss": 1.75, "val_acc": 0.5, "epoch": 1.0, "seconds": 0.5}
    assert found[1].figures == ends | {"samples_per_second": 1000.0}


def test_an_epoch_cut_short_has_no_validation_and_is_sent(history):
    short = History([1.0], [Epoch(1, 250, 0.5)], interrupted=True)
    (point,) = points(short)
    assert "val_loss" not in point.figures and settings(short)["interrupted"] is True


def events(folder):
    """[(step, tag, value)] of a folder's event file: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            number = value.simple_value if value.HasField("simple_value") else None
            found.append((event.step, value.tag, number))
    return found


def test_tensorboard_gets_each_figure_at_its_step(history, tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX isn't installed")
    history.track(f"tensorboard:{tmp_path / 'tb'}")
    found = events(tmp_path / "tb")
    losses = [(step, value) for step, tag, value in found if tag == "train_loss"]
    assert losses[:3] == [(1, 2.5), (2, 2.25), (3, 2.0)] and math.isnan(losses[3][1])
    accuracy = [(step, value) for step, tag, value in found if tag == "val_acc"]
    assert accuracy == [(2, 0.5), (4, 0.625)]
    assert [tag for _, tag, value in found if value is None] == ["about/text_summary"]


class Recorder(ModuleType):
    """A stand-in for a library: what is called, with what."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []
        self.__spec__ = SimpleNamespace(name=name)
        self.info = SimpleNamespace(run_id="7")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **named):
            self.calls.append((name, args, named))
            return self

        return call

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.calls.append(("exit", error, {}))


def test_wandb_gets_a_run_with_its_settings_and_is_told_when_it_ends(history, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := Recorder("wandb"))
    history.track("wandb:ports", name="mine")
    (begin, _, asked), *logged, (end, error, _) = wandb.calls
    assert (begin, end, error) == ("init", "exit", (None, None, None))
    assert asked["project"] == "ports" and asked["name"] == "mine" and asked["config"]["lr"] == 0.1
    assert [(name, named["step"]) for name, _, named in logged] == [("log", n) for n in range(1, 5)]
    assert logged[1][1][0]["val_acc"] == 0.5


def test_mlflow_gets_metrics_by_the_thousand_and_short_parameters(monkeypatch):
    mlflow = Recorder("mlflow")
    mlflow.entities = SimpleNamespace(Metric=lambda *fields: fields)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    many = History([1.0] * 1500, [Epoch(1500, 1500, 3.0)], about={"model": "x" * 9999})
    many.track("mlflow:ports")
    names = [name for name, *_ in mlflow.calls]
    assert names[:4] == ["set_experiment", "start_run", "MlflowClient", "log_params"]
    assert names[4:] == ["log_batch", "log_batch", "exit"]
    assert len(mlflow.calls[3][1][0]["model"]) == 500
    batches = [named["metrics"] for name, _, named in mlflow.calls if name == "log_batch"]
    assert [len(batch) for batch in batches] == [1000, 503]
    key, value, milliseconds, step = batches[0][-1]
    assert (key, value, step) == ("train_loss", 1.0, 1000) and isinstance(milliseconds, int)


@pytest.mark.parametrize("target", ["tensorboard", "tensorboard:", "board:x", ""])
def test_a_target_that_cannot_be_meant_is_refused_with_those_that_can(history, target):
    with pytest.raises(TrackerError, match="expected one of tensorboard:FOLDER, wandb:PROJECT"):
        history.track(target)


def test_a_library_that_is_not_there_is_named_with_what_installs_it(history, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrackerError, match=r"needs mlflow, which isn't installed; pip install 'ml"):
        history.track("mlflow:ports")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    return tmp_path


def library(name):
    reason = f"{name} isn't installed: pip install 'mlp-parity[{name}]'"
    return pytest.importorskip(name, reason=reason)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library's own libraries
def test_mlflow_itself_has_the_run_in_its_database(history, offline):
    client = library("mlflow").MlflowClient()
    history.track("mlflow:ports", name="mine")
    (run,) = client.search_runs([client.get_experiment_by_name("ports").experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params["lr"] == "0.1" and run.data.params["side"] == "jax"
    losses = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train_loss")]
    assert losses[:3] == [(1, 2.5), (2, 2.25), (3, 2.0)] and math.isnan(losses[3][1])
    accuracy = client.get_metric_history(run.info.run_id, "val_acc")
    assert [(m.step, m.value) for m in accuracy] == [(2, 0.5), (4, 0.625)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_itself_writes_the_run_into_a_folder_offline(history, offline):
    wandb = library("wandb")
    history.track("wandb:ports", name="mine")
    wandb.teardown()  # its own process writes on
    (file,) = offline.glob("wandb/offline-run-*/run-*.wandb")
    written = file.read_bytes()  # its records hold each figure by name, as JSON
    for what in (b"ports", b"mine", b"train_loss", b"2.25", b"val_acc", b"0.625", b"NaN"):
        assert what in written

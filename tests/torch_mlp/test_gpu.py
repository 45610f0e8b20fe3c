"""Training on a GPU, by a device that only stands for one: what is copied, read and kept."""

import math
import shutil

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler

import torch_mlp as d2l
from mlp_core.checkpoint import Checkpoints
from torch_mlp import graphs, resident, training
from torch_mlp.resident import NotResident, Resident, arrays_of
from torch_mlp.sharding import Shares
from torch_mlp.unread import Unread


@pytest.fixture
def on(monkeypatch):
    """on("cpu"), on("meta"): num_gpus=1 is that device."""

    def choose(name):
        monkeypatch.setattr(training, "gpus", lambda count: [torch.device(name, 0)][:count])
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda gpu: torch.get_rng_state())
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, gpu: None)

    return choose


def trained(model, data, num_gpus, epochs=2, **options):
    torch.manual_seed(3)
    trainer = d2l.Trainer(epochs, num_gpus=num_gpus, **options)
    history = trainer.fit(model(), data())
    weights = [p.detach().clone() for p in trainer.model.parameters()]
    return history, weights, trainer.model.board.data, torch.get_rng_state()


def images(seed=None):
    return d2l.FashionMNIST(batch_size=1000, data="sample", seed=seed)


def tiny():
    return d2l.MLP(10, 4, lr=0.1)  # lazy: it draws its weights after the loader has drawn


@pytest.mark.parametrize("seed", [None, 5])
def test_images_out_of_the_gpus_memory_train_to_the_same_bits(on, seed):
    on("cpu")
    there, here = (trained(tiny, lambda: images(seed), count) for count in (1, 0))
    assert there[0].about["train data"] == there[0].about["val data"] == "on the GPU"
    assert there[0].train_loss == here[0].train_loss
    assert [e.val for e in there[0].epochs] == [e.val for e in here[0].epochs]
    assert all(map(torch.equal, there[1], here[1])) and there[2] == here[2]
    assert torch.equal(there[3], here[3])  # and nothing else was drawn
    assert "train data" not in here[0].about


def test_tensors_out_of_the_gpus_memory_train_to_the_same_bits(on, blobs):
    on("cpu")
    options = {"gradient_clip_val": 0.5}
    model = lambda: d2l.MLPScratch(6, 3, 5, lr=0.1, sigma=1)  # noqa: E731
    there, here = (trained(model, lambda: blobs, count, **options) for count in (1, 0))
    assert there[0].train_loss == here[0].train_loss and len(there[0].train_loss) == 18
    assert [e.val for e in there[0].epochs] == [e.val for e in here[0].epochs]
    assert all(map(torch.equal, there[1], here[1])) and there[2] == here[2]
    assert torch.equal(there[3], here[3])


class Crossings(TorchDispatchMode):
    """Counts operations that take what lies on the host to the device, but for single numbers:
    those go along as arguments of a kernel."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.device.type for t in tree_leaves(args) if isinstance(t, torch.Tensor) and t.ndim}
        got = {t.device.type for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        self.count += "cpu" in given and "meta" in got
        return out


def ones(unread):
    while unread._waiting:
        unread._waiting.popleft()[1](1.0)


@pytest.mark.parametrize("own", [False, True], ids=["resident", "a list of batches"])
def test_a_step_copies_nothing_to_the_device_and_reads_nothing(on, monkeypatch, own):
    on("meta")  # where a number that is read is an error
    monkeypatch.setattr(Unread, "read", ones)
    crossings = []

    class Counting(d2l.Trainer):
        def fit_epoch(self):
            with Crossings() as seen:
                super().fit_epoch()
            crossings.append(seen.count)

    class Own(d2l.FashionMNIST):
        def get_dataloader(self, train):
            return [*super().get_dataloader(train)]

    data = (Own if own else d2l.FashionMNIST)(batch_size=500, data="sample")
    history = Counting(2, num_gpus=1, gradient_clip_val=0.1).fit(
        d2l.MLPScratch(784, 10, 4, lr=0.1), data
    )
    assert len(history.train_loss) == 24
    # Images and labels of 12 + 2 batches; or an epoch's order, and that of the validation.
    assert crossings == [2 * (12 + 2) if own else 2] * 2
    if own:
        assert history.about["train data"] == "on the host: a list makes its batches itself"


def test_all_256_values_of_a_pixel_are_divided_and_not_multiplied():
    k = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1)
    divided = torch.arange(256, dtype=torch.float64).div(255).to(torch.float32)
    assert torch.equal(d2l.data.to_float(k)[:, 0, 0, 0], divided)
    multiplied = k.to(torch.float32) * torch.tensor(1 / 255, dtype=torch.float32)
    assert (multiplied[:, 0, 0] != divided).sum() == 126


def test_data_that_do_not_fit_stay_on_the_host_with_the_reason(on, blobs, monkeypatch):
    on("cpu")
    monkeypatch.setattr(resident, "free_bytes", lambda device: 4_000)
    model = d2l.MLPScratch(6, 3, 5, lr=0.1)
    with pytest.warns(UserWarning, match="train data: on the host: the data are 0 MB, more"):
        history = d2l.Trainer(1, num_gpus=1).fit(model, blobs)  # 70 rows of 32 bytes, 20 of 32
    assert history.about["val data"] == "on the GPU" and len(history.train_loss) == 9


ROWS = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))


class Own(TensorDataset):
    def __getitem__(self, index):
        X, y = super().__getitem__(index)
        return X + torch.randn(()), y


LOADERS = {
    "a list makes": lambda: [ROWS[:2]],
    "workers": lambda: DataLoader(ROWS, 2, num_workers=1),
    "Subset": lambda: DataLoader(Subset(ROWS, [0, 1]), 2),
    "data set, Own": lambda: DataLoader(Own(*ROWS.tensors), 2),
    "WeightedRandomSampler": lambda: DataLoader(ROWS, 2, sampler=WeightedRandomSampler([1] * 6, 6)),
    "by a list": lambda: DataLoader(ROWS, batch_sampler=[[0, 1], [2]]),
    "RandomSampler": lambda: DataLoader(ROWS, 2, shuffle=True, generator=torch.Generator()),
    "collate_fn": lambda: DataLoader(ROWS, 2, collate_fn=lambda rows: rows),
    "Images": lambda: d2l.FashionMNIST(4, resize=(8, 8), data="sample").val_dataloader(),
}


@pytest.mark.parametrize("reason", LOADERS)
def test_a_loader_that_may_do_something_of_its_own_is_asked_for_each_batch(reason):
    with pytest.raises(NotResident, match=reason):
        arrays_of(LOADERS[reason]())


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_of_several_processes_takes_its_rows_out_of_its_gpus_memory(blobs, rank):
    shares = Shares(alone=True)
    shares.count, shares.rank = 3, rank
    found = []
    for there in (False, True):
        torch.manual_seed(2)
        loader = blobs.train_dataloader()
        loader = Resident(loader, torch.device("cpu")) if there else loader
        found.append([[size, *map(Tensor.tolist, rows)] for rows, size in shares.batches(loader)])
    assert found[0] == found[1] and len(found[0]) == 9


def test_a_prepare_batch_of_ones_own_gets_the_batch_from_the_host(on, blobs):
    on("cpu")

    class Own(d2l.Trainer):
        def prepare_batch(self, batch):
            return super().prepare_batch(batch)

    history = Own(1, num_gpus=1).fit(d2l.MLPScratch(6, 3, 5, lr=0.1), blobs)
    assert "prepare_batch" in history.about["train data"]


def test_what_was_measured_is_there_after_ctrl_c_and_an_error(on, blobs):
    on("cpu")
    for what in (KeyboardInterrupt, OverflowError):

        class Stopping(d2l.MLPScratch):
            def training_step(self, batch, what=what):
                if self.trainer.train_batch_idx == 12:
                    raise what
                return super().training_step(batch)

        trainer, model = d2l.Trainer(3, num_gpus=1), Stopping(6, 3, 5, lr=0.1)
        with pytest.raises(what):
            trainer.fit(model, blobs)
        assert len(trainer.history.train_loss) == 12 and trainer.history.epochs[1].steps == 3
        assert all(map(math.isfinite, trainer.history.train_loss))
        assert len(model.board.data["train_loss"]) == 3 and trainer.unread is None


def test_a_checkpoint_within_an_epoch_has_the_losses_until_then(on, blobs, tmp_path):
    on("cpu")
    model = lambda: d2l.MLPScratch(6, 3, 5, lr=0.1, sigma=1)  # noqa: E731
    place = Checkpoints(tmp_path, every=4, keep=99)
    whole = trained(model, lambda: blobs, 1, checkpoint=place)
    (within,) = tmp_path.glob("*12*")
    torch.manual_seed(8)
    going_on = model()
    history = d2l.Trainer(2, num_gpus=1).fit(going_on, blobs, resume=within)
    assert history.train_loss == whole[0].train_loss and history.about["resumed"] == [12]
    assert all(map(torch.equal, going_on.parameters(), whole[1]))


def test_figures_are_read_in_the_order_in_which_they_came_and_as_they_were():
    seen, figures = [], Unread()
    value = torch.tensor(0.1)
    for number in (value, 7, torch.tensor([True]), torch.tensor(2.0, dtype=torch.bfloat16)):
        figures.put(number, seen.append)
    value.fill_(5)  # the next step's
    assert seen == []
    figures.read()
    assert seen == [float(torch.tensor(0.1)), 7.0, 1.0, 2.0]


# What a CUDA graph does, by computing again: into the memory where its outputs lie.


def recomputed(call, given):
    outputs = call(*given)

    def replay():
        for out, new in zip(outputs, call(*given), strict=True):
            out.copy_(new)

    return replay, outputs


def call(w, x):
    return [(w * x).sum(), w * 2 + x]


def test_a_graph_reads_weights_where_they_lie_and_its_outputs_stay(monkeypatch):
    monkeypatch.setattr(graphs, "captured", recomputed)
    w, x = torch.ones(2), torch.tensor([1.0, 2.0])
    step = graphs.graphed(call, [w], [x])
    first = step(w, x)
    w.mul_(3)
    second = step(w, x + 1)
    assert first[0] == 3 and second[0] == 15
    assert first[1].tolist() == [3, 4] and second[1].tolist() == [8, 9]
    assert x.tolist() == [1, 2]
    moved = torch.full((2,), 10.0)
    assert step(moved, x)[0] == 30 and w.tolist() == [3, 3]


@pytest.mark.parametrize("plain, whole", [(1e-5, 2e-5), (2e-5, 1e-5)])
def test_the_graph_is_taken_where_it_is_faster(monkeypatch, plain, whole):
    monkeypatch.setattr(graphs, "captured", recomputed)
    monkeypatch.setattr(graphs, "seconds", lambda step, *given: plain if step is call else whole)
    step, said = graphs.faster(call, [torch.ones(2)], [torch.ones(2)])
    assert (step is call) == (plain < whole)
    assert said == f"{whole * 1e6:.0f} us a step as a CUDA graph, {plain * 1e6:.0f} without"


def test_what_cannot_be_captured_runs_without_a_graph(monkeypatch):
    def refused(call, given):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "captured", refused)
    step, said = graphs.faster(call, [torch.ones(2)], [torch.ones(2)])
    assert step is call
    assert said == "no CUDA graph: operation not permitted when stream is capturing"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler (g++)")
@pytest.mark.filterwarnings("ignore")  # Inductor's own
def test_a_compiled_training_by_graphs_is_the_one_without(on, blobs, monkeypatch):
    on("cpu")
    taken = []
    monkeypatch.setattr(graphs, "captured", recomputed)
    monkeypatch.setattr(graphs, "seconds", lambda step, *given: taken.append(0) or -len(taken))
    model = lambda: d2l.MLPScratch(6, 3, 5, lr=0.1, sigma=1)  # noqa: E731
    there, here = (trained(model, lambda: blobs, count, compile=True) for count in (1, 0))
    assert there[0].train_loss == here[0].train_loss and there[2] == here[2]
    assert all(map(torch.equal, there[1], here[1])) and len(taken) == 4
    assert "as a CUDA graph" in there[0].about["step of 8 examples"]
    assert "as a CUDA graph" in there[0].about["step of 6 examples"]


@pytest.mark.accelerator("torch")
def test_on_a_gpu_an_image_has_the_bits_that_it_has_on_the_cpu():
    k = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1)
    assert torch.equal(d2l.data.to_float(k.cuda()).cpu(), d2l.data.to_float(k))


@pytest.mark.accelerator("torch")
def test_on_a_gpu_no_batch_is_waited_for():
    gpu, data = torch.device("cuda", torch.cuda.current_device()), images()
    there = Resident(data.train_dataloader(), gpu)
    batches = iter(there)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert sum(len(y) for _, y in batches) == 5000
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.accelerator("torch")
def test_on_a_gpu_no_step_is_waited_for(monkeypatch):
    read = Unread.read

    def reading(unread):
        torch.cuda.set_sync_debug_mode("default")
        read(unread)

    class Strict(d2l.MLPScratch):
        def training_step(self, batch):
            torch.cuda.set_sync_debug_mode("error")  # the order has been copied
            return super().training_step(batch)

    monkeypatch.setattr(Unread, "read", reading)
    data = images()
    monkeypatch.setattr(data, "val_dataloader", lambda: None)
    try:
        trainer = d2l.Trainer(1, num_gpus=1, gradient_clip_val=0.1)
        assert len(trainer.fit(Strict(784, 10, 4, lr=0.1), data).train_loss) == 6
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.accelerator("torch")
@pytest.mark.filterwarnings("ignore")  # Inductor's own
@pytest.mark.parametrize("always", [False, True])
def test_on_a_gpu_a_compiled_training_is_the_eager_one_within_rounding(blobs, monkeypatch, always):
    if always:
        monkeypatch.setattr(graphs, "faster", lambda *given: (graphs.graphed(*given), "a graph"))
    model = lambda: d2l.MLPScratch(6, 3, 5, lr=0.1, sigma=1).to(torch.float64)  # noqa: E731
    found = trained(model, lambda: blobs, 1, compile=True)[0]
    eager = trained(model, lambda: blobs, 1)[0]
    assert found.train_loss == pytest.approx(eager.train_loss, rel=1e-9)

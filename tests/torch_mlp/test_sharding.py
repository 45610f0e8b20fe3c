"""Two and four processes that train as one."""

import json
import signal

import pytest
import torch
from launching import together

import torch_mlp as d2l
from mlp_core.processes import ProcessesError

# 70 examples in batches of 23: the last batch is one example, so all processes but one have none.
DATA = """
import torch, torch_mlp as d2l
from mlp_core.processes import part
from torch_mlp import exact

class Rows(torch.utils.data.TensorDataset):
    def __getitem__(self, index):
        read.append(index)
        return super().__getitem__(index)

read = []

def long_sums(rank, count):
    "Sums of more than 2^13 terms are sums of blocks, which are cut elsewhere in each process."
    x = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0))
    own = x[part(9000, rank, count)]
    A, B = (own * 255).to(torch.uint8), own.contiguous()
    sums = exact.summed(B.double(), True), exact.product(A.T, B, True), exact.product(B.T, B, True)
    return [s.tolist() for s in sums]

class Blobs(d2l.DataModule):
    def get_dataloader(self, train):
        made = torch.Generator().manual_seed(0)
        X = torch.randn(90, 6, generator=made)
        y = torch.randint(0, 3, (90,), generator=made)
        rows = slice(0, 70) if train else slice(70, None)
        return torch.utils.data.DataLoader(Rows(X[rows], y[rows]), 23, shuffle=train)

def trained(arithmetic, kind=d2l.Trainer, **options):
    model = d2l.MLPScratch(6, 3, [4], lr=0.1, sigma=1)
    resume = options.pop("resume", False)
    trainer = kind(2, arithmetic=arithmetic, gradient_clip_val=0.5, **options)
    history = trainer.fit(model, Blobs(), resume=resume)
    weights = [p.tolist() for p in model.parameters()]
    return {"losses": history.train_loss, "val": history.epochs[-1].val, "weights": weights,
            "samples": history.epochs[0].samples}
"""
PROGRAM = (
    DATA
    + """
import json, os, signal, time
from mlp_core.processes import ProcessesError
from torch_mlp.processes import connected

rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
found = {}
try:
    trained("native")
except ProcessesError as error:
    found["unconnected"] = str(error)

class Dying(d2l.Trainer):
    def fit_epoch(self):
        if self.epoch == 1 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().fit_epoch()

try:
    with connected(count):
        for arithmetic in ("native", "reproducible"):
            torch.manual_seed(rank)  # process 0 says how it begins
            read.clear()
            found[arithmetic] = trained(arithmetic)
            found["read"] = len(read)
        with exact.over_processes():
            found["long sums"] = long_sums(rank, count)
        print(json.dumps(found), flush=True)
        trained("native", Dying)
except ProcessesError as error:
    print(json.dumps(str(error)))
"""
)


@pytest.fixture
def alone():
    room = {}
    exec(DATA, room)
    found = {}
    for arithmetic in ("native", "reproducible"):
        torch.manual_seed(0)
        found[arithmetic] = room["trained"](arithmetic)
    found["long sums"] = room["long_sums"](0, 1)
    return found


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_as_one_and_end_when_one_is_killed(alone, count):
    ended = together(PROGRAM, count)
    for rank, (code, out, said, seconds) in enumerate(ended):
        assert code in ([-signal.SIGKILL] if rank == 1 else [0, -signal.SIGABRT]), said
        found, *last = map(json.loads, out.splitlines())
        assert f"{count} processes were launched, and this one is not" in found["unconnected"]
        assert found["reproducible"] == alone["reproducible"]
        assert found["long sums"] == alone["long sums"]
        assert found["native"]["samples"] == 70
        for key in ("losses", "val"):
            same = pytest.approx(alone["native"][key], rel=1e-5)
            assert found["native"][key] == same
        # Its part of each batch; of a batch without one, the last row, which counts nothing.
        each = [-(-23 // count)] * 3 + [1]
        if rank < count - 1:
            assert found["read"] == 2 * (sum(each) + -(-20 // count))
        if rank != 1:
            # Now and then a thread of gloo's ends the process, in C++'s words instead of ours.
            words = last[0] if code == 0 else "".join(last) + said
            assert seconds < 30
            assert "has lost another one" in words or code and "terminate called" in words, ended


KILLED = (
    DATA
    + """
import json, os, signal, sys
from mlp_core.checkpoint import Checkpoints
from mlp_core.processes import ProcessesError
from torch_mlp.processes import connected

class Dying(d2l.Trainer):
    def clip_gradients(self, *args):
        if self.train_batch_idx == 6 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        super().clip_gradients(*args)

again, place = sys.argv[1] == "again", Checkpoints(sys.argv[2], every=1)
try:
    with connected(2):
        torch.manual_seed(0)
        kind = d2l.Trainer if again else Dying
        print(json.dumps(trained("reproducible", kind, checkpoint=place, resume=again)))
except ProcessesError as error:
    print(json.dumps(str(error)))
"""
)


@pytest.mark.slow
def test_a_relaunch_after_one_was_killed_goes_on_to_the_same_bits(alone, tmp_path):
    first, second = together(KILLED, 2, "anew", tmp_path)
    assert "has lost another one" in first[1] and second[0] == -signal.SIGKILL
    for code, out, err, _ in together(KILLED, 2, "again", tmp_path):
        assert code == 0, err
        assert json.loads(out) == alone["reproducible"]


def test_more_processes_than_are_connected_are_refused():
    with pytest.raises(ProcessesError, match="2 processes were asked for, and this one is not"):
        d2l.Trainer(1, processes=2).fit(d2l.MLPScratch(6, 3, 4, lr=0.1), d2l.DataModule())


def test_what_is_another_function_of_a_part_of_a_batch_is_refused(monkeypatch):
    from torch_mlp import sharding

    monkeypatch.setattr(sharding, "connected_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    shares = sharding.Shares()
    with pytest.raises(ProcessesError, match="'1' normalises by the mean of the batch"):
        net = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.BatchNorm1d(3))
        shares.prepare(net, compiles=False)
    with pytest.raises(ProcessesError, match="compile=True trains in one process"):
        shares.prepare(torch.nn.Linear(6, 3), compiles=True)

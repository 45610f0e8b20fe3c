"""What users do by mistake, and what they may do: the same on both sides."""

import copy
import importlib
import math
import multiprocessing
import pickle

import jax
import numpy as np
import pytest
import torch

import jax_mlp
import torch_mlp
from mlp_core.forked import Forked
from mlp_core.history import NotFinite
from mlp_core.weights import initial

SIDES = {"jax": jax_mlp, "torch": torch_mlp}
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((20, 4), np.float32), RNG.integers(0, 3, 20)
BOTH = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)


def data_of(side, X=X, y=Y):
    class Data(side.DataModule):
        def __init__(self):
            super().__init__()
            self.batch_size = 8

        def get_dataloader(self, train):
            arrays = X, y
            if side is torch_mlp:
                arrays = [torch.from_numpy(np.asarray(array)) for array in arrays]
            return self.get_tensorloader(arrays, train)

    return Data()


def small(side, lr=0.1, **options):
    side.manual_seed(0)
    return side.MLPScratch(4, 3, 2, lr, **options)


def checkpoint(side):
    return importlib.import_module(f"{side.__name__}.checkpoint")


@BOTH
@pytest.mark.parametrize(
    "wrong",
    [{"max_epochs": -1}, {"gradient_clip_val": -1}, {"gradient_clip_val": math.nan},
     {"num_gpus": -1}, {"at_nan": "pray"}],
    ids=str,
)  # fmt: skip
def test_a_trainer_of_impossible_numbers_is_refused(side, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"Trainer: {name} = "):
        side.Trainer(**{"max_epochs": 1} | wrong)


@BOTH
@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_an_impossible_learning_rate_is_refused_before_the_first_step(side, lr):
    with pytest.raises(ValueError, match=f"MLPScratch: lr = {lr}, expected a finite number"):
        side.Trainer(1).fit(small(side, lr), data_of(side))


@BOTH
@pytest.mark.parametrize("sigma", [-1, math.nan])
def test_an_impossible_spread_of_weights_is_refused(side, sigma):
    with pytest.raises(ValueError, match="MLPScratch: sigma = "):
        small(side, sigma=sigma)
    with pytest.raises(ValueError, match="MLP: sigma = "):
        side.MLP(3, 2, 0.1, sigma=sigma)


@BOTH
def test_a_loss_that_is_not_finite_is_told_with_its_step_and_stops_as_asked(side):
    bad = X.copy()
    bad[:] = np.nan
    for at_nan, epochs in (("warn", 3), ("stop", 1)):
        with pytest.warns(NotFinite, match=r"from step 1 on \(epoch 1\)") as told:
            history = side.Trainer(3, at_nan=at_nan).fit(small(side), data_of(side, bad))
        assert len(told) == 1 and len(history.epochs) == epochs and history.not_finite == 1
        assert "not finite from step 1 on" in str(history)
    history = side.Trainer(2, at_nan="ignore").fit(small(side), data_of(side, bad))
    assert len(history.epochs) == 2


@BOTH
def test_weights_that_the_last_step_breaks_show_in_the_validation(side):
    with pytest.warns(NotFinite):
        history = side.Trainer(1).fit(small(side, 1e38), data_of(side, X[:8] * 1e3, Y[:8]))
    assert math.isfinite(history.train_loss[0]) and history.not_finite == 1


@BOTH
@pytest.mark.parametrize("of", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_trained_model_can_be_copied_and_trained_on(side, of):
    model, get_weights = small(side), checkpoint(side).get_weights
    trainer = side.Trainer(1)
    trainer.fit(model, data_of(side))
    made = of(model)
    assert made.lr == 0.1 and "trainer" not in vars(made) and model.trainer is trainer
    for name, array in get_weights(model).items():
        assert np.array_equal(get_weights(made)[name], array)
    if of is not copy.copy:  # which shares its weights, in Torch
        before = get_weights(model)["W1"].copy()
        side.Trainer(1).fit(made, data_of(side))
        assert np.array_equal(get_weights(model)["W1"], before)
        assert not np.array_equal(get_weights(made)["W1"], before)


@pytest.mark.parametrize(
    "kind, made",
    [
        ("uint8", "MLP"),
        ("float64", "MLPScratch"),
        *(
            pytest.param(kind, made, marks=pytest.mark.slow)
            for kind in ("int32", "bool", "float16")
            for made in ("MLPScratch", "MLP")
        ),
    ],
)
def test_inputs_and_labels_of_any_type_train_alike_on_both_sides(kind, made):
    given, start = np.abs(X * 3).astype(kind), initial((4, 2, 3), seed=0)
    found = []
    for name, side in SIDES.items():
        options = {"num_inputs": 4} if name == "jax" and made == "MLP" else {}
        model = small(side) if made == "MLPScratch" else side.MLP(3, 2, 0.1, **options)
        checkpoint(side).set_weights(model, start)
        whole = data_of(side, given, Y.astype("int32"))
        whole.batch_size = 20  # the order is no matter
        found.append(side.Trainer(2, at_nan="stop").fit(model, whole).train_loss)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@BOTH
@pytest.mark.parametrize("kind", ["float32", "bool"])
def test_labels_that_are_no_integers_are_refused(side, kind):
    with pytest.raises((TypeError, RuntimeError), match="integer|Long|Type-check"):
        side.Trainer(1).fit(small(side), data_of(side, y=(Y % 2).astype(kind)))


@pytest.mark.slow
def test_a_second_fit_trains_on_with_the_same_orders_and_a_new_optimiser():
    start, found = initial((784, 4, 10), seed=0), []
    for side in SIDES.values():
        model = side.MLPScratch(784, 10, 4, 0.1)
        checkpoint(side).set_weights(model, start)
        data = side.FashionMNIST(3000, data="sample", seed=5)
        seen = []
        for _ in range(2):
            loader = data.train_dataloader()
            order = loader.next_order() if side is jax_mlp else np.concatenate([*loader.sampler])
            seen.append(order)
            side.Trainer(1).fit(model, data)
        assert np.array_equal(*seen)
        found.append(checkpoint(side).get_weights(model))
    for name, array in found[0].items():
        assert np.allclose(array, found[1][name], rtol=1e-3, atol=1e-6)
        assert not np.allclose(array, start[name], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@BOTH
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_a_fit_in_a_forked_child_is_refused_and_does_not_hang(side):
    side.Trainer(1).fit(small(side), data_of(side))
    context = multiprocessing.get_context("fork")
    theirs, ours = context.Pipe()

    def child():
        try:
            side.Trainer(1).fit(small(side), data_of(side))
            ours.send("trained")
        except Forked as error:
            ours.send(str(error))

    process = context.Process(target=child)
    process.start()
    assert theirs.poll(60) and "forked from one that had computed" in theirs.recv()
    process.join()


def test_torch_trains_though_gradients_are_off_but_not_a_model_made_so():
    with torch.no_grad():
        before = torch_mlp.Trainer(1).fit(small(torch_mlp), data_of(torch_mlp)).train_loss
    model = small(torch_mlp)
    with torch.inference_mode():
        assert torch_mlp.Trainer(1).fit(model, data_of(torch_mlp)).train_loss == before
        frozen = small(torch_mlp)
    with pytest.raises(ValueError, match="W1, b1, W2, b2 were made under torch.inference_mode"):
        torch_mlp.Trainer(1).fit(frozen, data_of(torch_mlp))


@pytest.mark.slow
def test_jax_trains_without_jit():
    data = data_of(jax_mlp)
    data.batch_size = 20
    compiled = jax_mlp.Trainer(1).fit(small(jax_mlp), data).train_loss
    with jax.disable_jit():
        plain = jax_mlp.Trainer(1).fit(small(jax_mlp), data).train_loss
    assert plain == pytest.approx(compiled, rel=1e-5)

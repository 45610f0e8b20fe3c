from collections import OrderedDict
from types import SimpleNamespace

import equinox as eqx
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity import check
from parity.sides.jax_models import as_module
from parity.sides.usable import as_arrays

CHEAP = ("inputs", "weights", "masks")


class Net(nnx.Module):
    def __init__(self, outputs=4, dropout=0.0):
        rngs = nnx.Rngs(0)
        self.out = nnx.Linear(12, outputs, rngs=rngs)
        self.drop = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, X):
        return self.drop(self.out(X.reshape(len(X), -1)))


def book(dropout=0.0):
    layers = torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.Dropout(dropout)
    return torch.nn.Sequential(*layers)


NAMES = {"out.kernel": "1.weight", "out.bias": "1.bias"}


def linear(params, X):
    return jnp.dot(X.reshape(len(X), -1), params["W1"]) + params["b1"]


def test_a_function_of_parameters_is_a_model(digits):
    params = {"W1": np.zeros((12, 4), np.float32), "b1": np.zeros(4, np.float32)}
    names = {"W1": "1.weight", "b1": "1.bias"}
    levels = ("weights", "logits", "step")
    verdict = check(
        (linear, params), book(), data=digits, weights=names, batch_size=32, levels=levels
    )
    assert verdict.ok, verdict
    wrong = check(
        (lambda params, X: linear(params, X) * 1.000001, params),
        book(), data=digits, weights=names, batch_size=32, levels=levels,
    )  # fmt: skip
    assert not wrong.ok


def test_what_is_no_model_is_refused_by_name():
    with pytest.raises(TypeError, match="builtins.function, expected a flax.nnx.Module"):
        as_module(linear)
    with pytest.raises(TypeError, match="params: .*layer.* expected a tree with arrays of floats"):
        as_module((linear, {"layer": [3]}))
    with pytest.raises(TypeError, match="params: two leaves are called 'a.b'"):
        as_module((linear, {"a.b": np.zeros(3), "a": {"b": np.zeros(3)}}))


def test_the_models_come_in_either_order(digits):
    options = dict(weights=NAMES, batch_size=32, levels=CHEAP[:2])
    for models in ((Net(), book()), (book(), Net())):
        assert check(*models, digits, **options).ok
    for models in ((book(), book()), (Net(), Net())):
        with pytest.raises(TypeError, match="expected one torch.nn.Module, and one JAX model"):
            check(*models, digits, **options)


def test_outputs_of_different_shapes_are_refused_before_any_level(digits):
    names = {"W1": "1.weight", "b1": "1.bias"}
    params = {"W1": np.zeros((12, 4), np.float32), "b1": np.zeros(4, np.float32)}

    def shorter(params, X):
        return linear(params, X)[:, :3]

    with pytest.raises(ValueError, match=r"outputs: jax logits \(8, 3\), torch logits \(8, 4\)"):
        check((shorter, params), book(), data=digits, weights=names, batch_size=32, levels=CHEAP)


@pytest.mark.parametrize("side", ["jax", "torch"])
def test_dropout_is_named_as_what_it_is(digits, side):
    ours, theirs = Net(dropout=0.5 * (side == "jax")), book(0.5 * (side == "torch"))
    with pytest.raises(ValueError, match=f"{side}: two calls .* differ, in training mode"):
        check(ours, theirs, data=digits, weights=NAMES, batch_size=32, levels=CHEAP)


def test_a_dropout_of_rate_0_is_no_dropout(digits):
    levels = CHEAP[:2]
    assert check(Net(), book(), data=digits, weights=NAMES, batch_size=32, levels=levels).ok


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_that_are_not_finite_are_refused_with_their_place(digits, value):
    X, y = digits[0].copy(), digits[1]
    X[3, 0, 1, 2] = value
    with pytest.raises(
        ValueError, match=r"inputs: 1 numbers are not finite, the first at \(3, 0, 1, 2\)"
    ):
        as_arrays((X, y))


def test_what_lies_on_another_device_is_named(digits):
    with pytest.raises(ValueError, match="an array is on meta, expected the CPU or CUDA"):
        as_arrays((torch.zeros(3, device="meta"), digits[1]))
    with pytest.raises(ValueError, match="torch: '1.weight' is on meta, expected the CPU or CUDA"):
        check(Net(), book().to("meta"), data=digits, weights=NAMES, batch_size=32, levels=CHEAP)


def test_arrays_of_jax_and_torch_are_taken(digits):
    X, y = jax.numpy.asarray(digits[0]), torch.from_numpy(digits[1])
    assert all(isinstance(array, np.ndarray) for array in as_arrays((X, y)))


def test_a_level_that_is_none_is_refused_with_those_that_are(digits):
    with pytest.raises(ValueError, match=r"levels: no \['logit'\]; there are \['inputs', "):
        check(Net(), book(), data=digits, weights=NAMES, levels=["logit"])


def test_a_check_that_is_refused_leaves_no_setting_behind(no_folder):
    with pytest.raises(TypeError, match=r"expected one torch\.nn\.Module"):
        check(None, None)
    assert jax.config.jax_compilation_cache_dir is None


class Named(torch.nn.Module):
    """An input in a dict in a dict, by keys that aren't in order, and such outputs."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(6, 4)

    def forward(self, x, mask):
        return {"z": self.a(x["v"] * mask), "b": x["u"]}


def test_keys_of_dicts_have_any_order_in_inputs_targets_and_outputs():
    rng = np.random.default_rng(0)
    v, u, y = (rng.normal(size=(40, n)).astype(np.float32) for n in (6, 2, 4))
    mask = (v > 0).astype(np.float32)
    train = {"x": {"v": v, "u": u}, "mask": mask}, {"t": y, "s": u}
    val = {"mask": mask, "x": {"u": u, "v": v}}, {"s": u, "t": y}
    params = {"w": np.zeros((6, 4), np.float32), "b": np.zeros(4, np.float32)}

    def function(p, x, mask):
        return {"z": jnp.dot(x["v"] * mask, p["w"]) + p["b"], "b": x["u"]}

    def loss(outputs, targets):
        return ((outputs["z"] - targets["t"]) ** 2).mean() + targets["s"].mean()

    options = {"weights": {"w": "a.weight", "b": "a.bias"}, "loss": (loss, loss)}
    for data in ((*train, *val), (*val, *train)):
        model = (function, params)
        levels = ("inputs", "logits", "step", "curve")
        verdict = check(Named(), model, data, **options, levels=levels, epochs=1, batch_size=16)
        assert verdict.ok, verdict


class Two(eqx.Module):
    a: eqx.nn.Linear
    b: eqx.nn.Linear

    def __init__(self):
        one, two = jax.random.split(jax.random.key(0))
        self.a, self.b = eqx.nn.Linear(12, 5, key=one), eqx.nn.Linear(5, 4, key=two)

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x.reshape(-1))))


def test_equinox_with_names_equal_to_torchs_needs_no_weights(digits):
    layers = OrderedDict(f=torch.nn.Flatten(), a=torch.nn.Linear(12, 5), t=torch.nn.Tanh())
    theirs = torch.nn.Sequential(layers | {"b": torch.nn.Linear(5, 4)})
    levels = ("weights", "precision", "probes", "gradients", "step")
    verdict = check(theirs, Two(), digits, levels=levels)
    assert verdict.ok, verdict


class Odd(torch.nn.Module):
    """A model whose outputs, or whose dropout, are what the test says."""

    def __init__(self, after):
        super().__init__()
        self.a, self.after = torch.nn.Linear(12, 4), after

    def forward(self, X):
        return self.after(self.a(X.reshape(len(X), -1)))


ODD = {"W1": "a.weight", "b1": "a.bias"}


def params():
    return {"W1": np.zeros((12, 4), np.float32), "b1": np.zeros(4, np.float32)}


@pytest.mark.parametrize("side", ["jax", "torch"])
def test_outputs_that_are_no_arrays_are_named(digits, side):
    def boxed(p, X):
        return SimpleNamespace(logits=linear(p, X))

    theirs = Odd(lambda z: {"z": SimpleNamespace(logits=z)} if side == "torch" else z)
    words = f"^{side}: outputs: a types.SimpleNamespace, expected (tensors|arrays): one, or a dict"
    with pytest.raises(ValueError, match=words) as error:
        check(theirs, (boxed if side == "jax" else linear, params()), digits, weights=ODD)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_no_scalar_is_refused_by_its_shape(digits):
    losses = (lambda o, t: o.sum(-1)), (lambda o, t: o.sum())
    with pytest.raises(ValueError, match=r"torch: loss: shape \(32,\), expected a scalar"):
        options = {"loss": losses, "batch_size": 32, "levels": ("loss",)}
        check(Odd(lambda z: z), (linear, params()), digits, weights=ODD, **options)


@pytest.mark.parametrize("eval_by", ["mode", "model"])
def test_what_is_random_in_eval_mode_too_is_not_sent_to_eval_mode(digits, eval_by):
    theirs = Odd(lambda z: torch.nn.functional.dropout(z, 0.5))
    mode = "eval" if eval_by == "mode" else None
    theirs.train(eval_by == "mode")
    with pytest.raises(ValueError, match=r"in eval mode too.*training=self.training") as error:
        check(theirs, (linear, params()), digits, weights=ODD, mode=mode)
    assert "mode='eval'" not in str(error.value)


class Dropping(eqx.Module):
    a: eqx.nn.Linear
    d: eqx.nn.Dropout

    def __init__(self):
        self.a, self.d = eqx.nn.Linear(12, 4, key=jax.random.key(0)), eqx.nn.Dropout(0.5)

    def __call__(self, x):
        return self.d(self.a(x.reshape(-1)))


def test_equinox_dropout_is_told_how_to_be_off(digits):
    theirs, options = Odd(lambda z: z), {"mode": "eval", "levels": ("logits",)}
    with pytest.raises(ValueError, match=r"pass eqx.nn.inference_mode\(model\)"):
        check(theirs, Dropping(), digits, **options)
    assert check(theirs, eqx.nn.inference_mode(Dropping()), digits, **options).ok


def test_bfloat16_of_torch_stays_bfloat16():
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.normal(size=(40, 12)).astype(np.float32)).bfloat16()
    y = torch.tensor(rng.integers(0, 4, 40))
    assert as_arrays((X, y))[0].dtype == jnp.bfloat16
    seen = set()

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(12, 4)

        def forward(self, X):
            seen.add(X.dtype)
            return self.a(X.to(self.a.weight.dtype))

    def wide(p, X):
        seen.add(str(X.dtype))
        return linear(p, X.astype(p["W1"].dtype))

    verdict = check(Wide(), (wide, params()), (X, y), weights=ODD, levels=("inputs", "logits"))
    assert verdict.ok and {torch.bfloat16, "bfloat16"} <= seen, (verdict, seen)
    X[1, 2] = float("inf")
    with pytest.raises(ValueError, match=r"not finite, the first at \(1, 2\): inf"):
        as_arrays((X, y))

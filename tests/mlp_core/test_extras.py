import pytest

from mlp_core.extras import FRAMEWORKS, advice, is_there, needs


def test_a_missing_framework_is_named_with_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setitem(FRAMEWORKS, "jax", ("jax", "a_module_that_is_not_there"))
    with pytest.raises(ModuleNotFoundError) as caught:
        needs("jax_mlp", "jax")
    assert str(caught.value) == (
        "jax_mlp needs a_module_that_is_not_there, which is not installed: "
        "pip install 'mlp-parity[jax]'"
    )
    assert caught.value.name == "a_module_that_is_not_there"


def test_what_is_there_is_needed_in_silence_and_what_is_no_framework_gets_no_advice():
    needs("parity")
    assert is_there("numpy") and not is_there("no_such_module")
    assert advice("tyro", "parity") is None and advice(None, "parity") is None


def test_torch_is_enough_without_torchvision(monkeypatch):
    monkeypatch.setitem(FRAMEWORKS, "torch", ("numpy", "torchvision"))
    monkeypatch.setattr("mlp_core.extras.is_there", lambda module: module == "numpy")
    needs("torch_mlp", "torch")

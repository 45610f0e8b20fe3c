"""Frameworks that may be missing, and what installs them."""

import importlib.util

FRAMEWORKS = {
    "jax": ("jax", "jaxlib", "flax", "optax"),
    "torch": ("torch", "torchvision"),
    "ray": ("ray",),
}


def is_there(module: str) -> bool:
    """Whether a top-level module can be imported. Imports nothing."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def needs(package: str, *extras: str) -> None:
    """Raise ModuleNotFoundError, in one line, unless the frameworks of these extras are installed.

    >>> needs("mlp_core")
    """
    for extra in extras:
        for module in FRAMEWORKS[extra]:
            # torch_mlp reads the data itself where there is no torchvision.
            if module != "torchvision" and not is_there(module):
                raise ModuleNotFoundError(advice(module, package), name=module)


def advice(module: str | None, package: str) -> str | None:
    """One line: what is missing, and what installs it; None for a module of no framework's.

    >>> advice("flax.nnx", "jax_mlp")
    "jax_mlp needs flax, which is not installed: pip install 'mlp-parity[jax]'"
    """
    top = (module or "").partition(".")[0]
    for extra, modules in FRAMEWORKS.items():
        if top in modules:
            install = f"pip install 'mlp-parity[{extra}]'"
            return f"{package} needs {top}, which is not installed: {install}"
    return None

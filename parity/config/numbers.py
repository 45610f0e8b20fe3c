"""Numbers that a command line may give, and those that it may not."""


def at_least(config: object, **least: float | int) -> None:
    """Refuse numbers out of range, all at once."""
    wrong = []
    for name, minimum in least.items():
        values = getattr(config, name)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and not value >= minimum:  # so that NaN is refused too
                wrong.append(f"{name} = {value}, expected at least {minimum}")
    if wrong:
        raise ValueError("; ".join(wrong))

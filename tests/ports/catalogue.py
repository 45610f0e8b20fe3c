"""All families of ports, as data."""

from port import Port

FAMILIES: tuple[Port, ...] = ()

"""What a compiled program does in a step of its loop, read from its text (XLA's HLO)."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) (?P<op>[a-z][\w\-]*)"
    r"\((?P<rest>.*)$"
)
INNER = re.compile(r"(?:calls|body|condition|to_apply|computation)=%?([\w.\-]+)")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# These start nothing on the device: names, views, and what stands still.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "after-all",
        "partition-id", "replica-id", "opt-barrier"}  # fmt: skip
PARTS = ("gather", "dynamic-slice", "slice")
NONE: Mapping[int, int] = {}
TYPES = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16", "s8": "int8"}


@dataclass(frozen=True)
class Instruction:
    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    text: str

    @property
    def scalar(self) -> bool:
        return "[]" in self.type and not self.type.startswith("(")


@dataclass(frozen=True)
class Step:
    """Of the loop over the steps of an epoch. launches: operations on arrays, each a kernel on a
    GPU. collectives, products: how many of each; a product is named by how it takes its operands.
    held, near: bytes of arrays that lie there through the loop, and those of them in a TPU's vector
    memory. moved: bytes that a step reads and writes in main memory. count: of steps."""

    launches: int
    collectives: dict[str, int]
    products: dict[str, int]
    held: int
    near: int
    moved: int
    count: int


@dataclass(frozen=True)
class Around:
    """What is done once an epoch: before the loop, after it, or in the place of it."""

    launches: int
    moved: int


class Program:
    """computations: {name: its instructions}. platform: "tpu" or "cuda"."""

    def __init__(self, text: str, platform: str, steps: int = 1, examples: int = 1) -> None:
        """steps, examples: of an epoch; a step takes its share of what has an entry for each."""
        self.platform = platform
        # Where a last batch is smaller, the loop is a step shorter.
        self.shares = {steps: steps, steps - 1: steps - 1, examples: steps}
        self.steps, self.entry = steps, ""
        self.computations: dict[str, list[Instruction]] = {}
        current: list[Instruction] = []
        for line in text.splitlines():
            if head := COMPUTATION.match(line):
                self.entry = head[1] if line.startswith("ENTRY") else self.entry
                current = self.computations.setdefault(head[1], [])
            elif found := INSTRUCTION.match(line):
                inside = found["rest"].split(")", 1)[0]
                operands = tuple(re.findall(r"%([\w.\-]+)", inside))
                current.append(
                    Instruction(found["name"], found["type"], found["op"], operands, line)
                )

    def step(self) -> Step | None:
        """The loop that has most in it; None if there is no loop."""
        loops = [i for body in self.computations.values() for i in body if i.op == "while"]
        bodies = [re.findall(r"body=%?([\w.\-]+)", i.text)[0] for i in loops]
        if not bodies:
            return None
        whole = max(bodies, key=lambda name: len(self._all(name)))
        own, every = self.computations[whole], self._all(whole)
        launched = [i for i in own if _is_launched(i)]
        carry = next(i for i in own if i.op == "parameter").type
        return Step(
            len(launched),
            dict(Counter(i.op.removesuffix("-start") for i in every if _is_collective(i.op))),
            self._products(whole),
            _bytes(carry),
            _bytes(carry, near=True),
            self._moved(launched, own, self.shares),
            self._trips(whole),
        )

    def around(self) -> Around:
        """What isn't in a loop."""
        own = self.computations[self.entry]
        launched = [i for i in own if _is_launched(i) and i.op != "while"]
        return Around(len(launched), self._moved(launched, own, NONE))

    def moved(self) -> int:
        """Bytes that an epoch reads and writes in main memory."""
        step = self.step()
        return self.around().moved + (step.count * step.moved if step else 0)

    def _trips(self, body: str) -> int:
        every = (i.text for own in self.computations.values() for i in own if i.op == "while")
        loop = next(text for text in every if re.search(rf"body=%?{re.escape(body)}\b", text))
        found = re.search(r'known_trip_count":\{"n":"(\d+)"', loop)
        return int(found[1]) if found else self.steps

    def _moved(
        self, launched: Iterable[Instruction], own: Iterable[Instruction], shares: Mapping[int, int]
    ) -> int:
        """Bytes of operands and results in main memory, each read or written once by each launch.

        shares: {length of the first axis: how many parts an array of it has, of which one is
        taken}. Of what is gathered from, or sliced, no more is read than comes out.
        """
        types, total = {i.name: i.type for i in own}, 0

        def far(type_: str) -> int:
            return _bytes(type_, shares=shares) - _bytes(type_, near=True, shares=shares)

        for i in launched:
            operands = [types.get(name, "") for name in i.operands]
            if i.op in ("copy-start", "slice-start"):  # (to, from, ...), ((from), to, ...)
                arrays = re.findall(r"[a-z]\w*\[\d[^\]]*\](?:\{[^}]*\})?", i.type)
                to = min(arrays, key=_bytes, default="")
                total += far(to) + min(far(operands[0]), _bytes(to, shares=shares))
            elif not i.op.endswith("-done"):  # counted where it began
                most = _bytes(i.type, shares=shares) if self._takes_part(i) else math.inf
                total += far(i.type) + sum(int(min(far(one), most)) for one in operands)
        return total

    def _takes_part(self, instruction: Instruction) -> bool:
        inner = (one for name in INNER.findall(instruction.text) for one in self._all(name))
        return any(i.op in PARTS for i in (instruction, *inner))

    def _all(self, name: str) -> list[Instruction]:
        """The instructions of a computation, and of those that it calls."""
        found: list[Instruction] = []
        for instruction in self.computations.get(name, []):
            found.append(instruction)
            for inner in INNER.findall(instruction.text):
                found += self._all(inner)
        return found

    def _products(self, name: str) -> dict[str, int]:
        every = self._all(name)
        types = {i.name: i.type.partition("[")[0] for i in every}
        found: Counter[str] = Counter()
        for i in every:
            if i.op in ("dot", "convolution"):
                kinds = {types.get(operand, "?") for operand in i.operands[:2]}
                asked = re.search(r"operand_precision=\{(\w+)", i.text)
                found[self._taken(kinds, asked[1] if asked else "default")] += 1
        return dict(found)

    def _taken(self, kinds: set[str], asked: str) -> str:
        """How a product takes its operands. Source: JAX's documentation of lax.Precision."""
        if kinds <= {"f32", "bf16"}:
            short = "bfloat16" if self.platform == "tpu" else "TF32"
            passes = {"highest": "float32", "high": f"{short} in three passes"}
            return passes.get(asked, "bfloat16" if kinds == {"bf16"} else short)
        return " x ".join(TYPES.get(kind, kind) for kind in sorted(kinds))


def _is_launched(instruction: Instruction) -> bool:
    return instruction.op not in FREE and not instruction.scalar


def _is_collective(op: str) -> bool:
    return op.removesuffix("-start") in COLLECTIVES


def _bytes(type_: str, near: bool = False, shares: Mapping[int, int] = NONE) -> int:
    """Of the arrays of a type. near: only those in memory space 1, a TPU's VMEM. shares: see
    _moved."""
    total = 0
    for kind, shape, layout in re.findall(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?", type_):
        if near and "S(1)" not in layout:
            continue
        bits = re.search(r"\d+", kind)
        size = int(bits[0]) / 8 if bits else 1
        lengths = [int(n) for n in shape.split(",") if n]
        for n in lengths:
            size *= n
        total += int(size / (shares.get(lengths[0], 1) if lengths else 1))
    return total

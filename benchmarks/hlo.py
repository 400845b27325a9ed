"""Reads the text of a compiled program: its instructions, the bytes that each moves and the FLOPs that it computes.

    program = Program(jitted.lower(*arguments).compile().as_text())

XLA's text after optimisation is a list of computations: one is the entry, the others are loop bodies, branches and the
insides of fusions. What an instruction moves is what it reads of its operands and what it writes:

    slice, dynamic-slice, gather     read the slice, whatever the size of the array
    dynamic-update-slice, scatter    write the update in place; a scatter reads as much as it writes
    a fusion                         as its inside says: of an operand that is only sliced there, the slices
    anything else                    all of every operand, and the whole result

FLOPs are those of products and convolutions, two a multiply-add, of which padding and dilation are no part: a
convolution and both of its gradients count alike.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
_BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0}  # the other types end in their bits
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_SLICES = ("slice", "dynamic-slice", "gather", "slice-start")
_LAYOUT = ("bitcast", "reshape")  # other names of the same bytes
_BY_ELEMENT = {  # each value of the result is made of one of each operand
    *("abs", "add", "and", "compare", "concatenate", "convert", "copy", "divide", "exponential", "is-finite", "log"),
    *("logistic", "maximum", "minimum", "multiply", "negate", "not", "or", "power", "rsqrt", "select", "sqrt"),
    *("subtract", "tanh"),
}
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}  # the operand that holds the update
PRECISIONS = {"bf16": "half", "f16": "half", "f32": "default", "f64": "double"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation. `arguments`: the text in its brackets; `rest`: the attributes behind them."""

    name: str
    shape: str
    op: str
    arguments: str
    rest: str
    root: bool

    @functools.cached_property
    def operands(self) -> list[str]:
        """The names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    @property
    def called(self) -> list[str]:
        """The names of the computations that it runs, but not of those that only combine two numbers."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        names = re.findall(r"(?:calls|true_computation|false_computation)=%?([\w.\-]+)", self.rest)
        if self.op == "call":
            names += re.findall(r"to_apply=%?([\w.\-]+)", self.rest)
        return names + (re.findall(r"[\w.\-]+", listed[1]) if listed else [])

    @property
    def op_name(self) -> str:
        """The functions and transformations of the source that it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """What a custom call calls; "" where it is none."""
        found = re.search(r'custom_call_target="([^"]+)"', self.rest)
        return found[1] if found else ""


def arrays(shape: str) -> list[tuple[str, list[int], str]]:
    """(type, dimensions, layout) of every array of a shape's text."""
    return [(kind, [int(n) for n in dims.split(",") if n], layout) for kind, dims, layout in _ARRAY.findall(shape)]


def dims(shape: str) -> list[int]:
    """The dimensions of the first array of a shape's text."""
    return arrays(shape)[0][1]


def _bits(kind: str) -> int:
    return _BITS[kind] if kind in _BITS else int(re.search(r"\d+", kind)[0])


def bits(shape: str) -> int:
    """Bits of a value of the first array of a shape's text."""
    return _bits(arrays(shape)[0][0])


def size(shape: str) -> int:
    """Bytes of all arrays of a shape's text."""
    return sum(math.prod(dimensions) * _bits(kind) for kind, dimensions, _ in arrays(shape)) // 8


def in_memory(shape: str) -> int:
    """Bytes of the arrays that lie in the device's memory: a TPU's layout T(8,128)S(1) is one on the chip itself."""
    off_chip = [found[0] for found in _ARRAY.finditer(shape) if not re.search(r":T.*S\([1-9]\)", found[0])]
    return size(" ".join(off_chip))


def _closing(text: str) -> int:
    """The index of the bracket that closes the one with which `text` begins."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i
    raise ValueError(f"{text[:80]!r} has a bracket that is not closed; expected the text of a compiled program")


def _instruction(line: str) -> Instruction | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)
    if found is None:
        return None
    text = found[3]
    end = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    op, bracket, _ = text.partition("(")
    text = text[len(op) :]
    end = _closing(text) if bracket else 0
    return Instruction(found[2], shape, op, text[1:end], text[end + 1 :], bool(found[1]))


class Computation:
    """The instructions of a computation in order, by name."""

    def __init__(self, instructions: list[Instruction]):
        self.by_name = {instruction.name: instruction for instruction in instructions}
        self.fused = False
        self.needed: dict[str, int] = {}
        self.root = next((each for each in instructions if each.root), instructions[-1])
        self.parameters = {int(each.arguments): each for each in instructions if each.op == "parameter"}
        self.users: dict[str, list[tuple[Instruction, int]]] = {}
        for user in instructions:
            for position, name in enumerate(user.operands):
                self.users.setdefault(name, []).append((user, position))

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.by_name.values())

    def behind(self, name: str, ops: tuple[str, ...] = _LAYOUT) -> Instruction | None:
        """The instruction `name`, or the one that it is another name of."""
        found = self.by_name.get(name)
        while found is not None and found.op in ops:
            found = self.by_name.get(found.operands[0])
        return found

    def result(self, instruction: Instruction) -> str:
        """The shape of what it gives; of the start of a transfer, what its end gives."""
        users = self.users.get(instruction.name, []) if instruction.op.endswith("-start") else []
        return next((user.shape for user, _ in users if user.op.endswith("-done")), instruction.shape)

    def results(self) -> list[Instruction]:
        """The instructions that give the parts of the result."""
        names = self.root.operands if self.root.op == "tuple" else [self.root.name]
        return [found for found in map(self.behind, names) if found is not None]


class Program:
    """A compiled program by its text.

    Raises ValueError for a text without an entry.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = None
        lines: list[Instruction] = []
        name = None
        for line in text.splitlines():
            head = re.match(r"(ENTRY )?%?([\w.\-]+) .*->.*\{\s*$", line)
            if head and not line.startswith(" "):
                name, lines = head[2], []
                self.entry = name if head[1] else self.entry
            elif line.startswith("}") and name:
                self.computations[name], name = Computation(lines), None
            elif name and (found := _instruction(line)):
                lines.append(found)
        for fusion in [each for scope in self.computations.values() for each in scope if each.op == "fusion"]:
            self.fused(fusion).fused = True
        if self.entry is None:
            raise ValueError("the text has no ENTRY; expected that of a compiled program, compiled.as_text()")
        partitions = re.search(r"num_partitions=(\d+)", text)
        self.devices = int(partitions[1]) if partitions else 1

    def fused(self, instruction: Instruction) -> Computation | None:
        """The inside of a fusion; None for what is none."""
        return self.computations[instruction.called[0]] if instruction.op == "fusion" else None

    def inside(self, instruction: Instruction) -> list[Instruction]:
        """The instructions of which a kernel is made: itself, or all of a fusion's inside."""
        fused = self.fused(instruction)
        return [instruction] if fused is None else [part for each in fused for part in self.inside(each)]

    def moved(self, instruction: Instruction, scope: Computation) -> int:
        """Bytes that a kernel reads from memory and writes to it."""
        read = 0
        for name in dict.fromkeys(instruction.operands):
            whole = in_memory(scope.by_name[name].shape)
            here = [i for i, operand in enumerate(instruction.operands) if operand == name]
            read += min(whole, sum(self._read(instruction, i, scope) for i in here))
        return read + self._written(instruction, scope)

    def _read(self, user: Instruction, position: int, scope: Computation) -> int:
        """Bytes that `user` reads of one of its operands."""
        whole = in_memory(scope.by_name[user.operands[position]].shape)
        if position == 0 and user.op in _SLICES:
            return min(whole, size(scope.result(user)))
        if position == 0 and self._in_place(user, scope):
            update = size(scope.by_name[user.operands[_IN_PLACE[user.op]]].shape)
            return min(whole, update) if user.op == "scatter" else 0
        fused = self.fused(user)
        return whole if fused is None else min(whole, self._read_inside(fused, fused.parameters[position].name))

    def _read_inside(self, scope: Computation, name: str) -> int:
        """Bytes that a fusion reads of a value of its inside: of what is sliced in the end, those of the slices."""
        if name not in scope.needed:
            held = scope.by_name[name]
            asked = 0 if name != scope.root.name else in_memory(held.shape)
            for user, position in scope.users.get(name, []):
                if user.op in _LAYOUT or (user.op in _BY_ELEMENT and user.shape[:1] != "("):
                    asked += self._read_inside(scope, user.name) * bits(held.shape) // bits(user.shape)
                else:
                    asked += self._read(user, position, scope)
            scope.needed[name] = min(asked, in_memory(held.shape))
        return scope.needed[name]

    def _in_place(self, instruction: Instruction, scope: Computation) -> bool:
        """Whether it updates an array where it lies: always but in a fusion, which may compute the array it updates."""
        if instruction.op not in _IN_PLACE or not scope.fused:
            return instruction.op in _IN_PLACE
        updated = scope.behind(instruction.operands[0])
        return updated is not None and updated.op == "parameter" and instruction in scope.results()

    def _written(self, instruction: Instruction, scope: Computation) -> int:
        fused = self.fused(instruction)
        if fused is not None:
            return min(in_memory(instruction.shape), sum(self._written(result, fused) for result in fused.results()))
        if self._in_place(instruction, scope):
            update = scope.by_name[instruction.operands[_IN_PLACE[instruction.op]]]
            return min(in_memory(instruction.shape), size(update.shape))
        if re.search(r"cudnn\$conv|cublas", instruction.target):  # behind the result stands the library's own room
            return in_memory(_ARRAY.search(instruction.shape)[0])
        return in_memory(scope.result(instruction))

    def work(self, instruction: Instruction, scope: Computation) -> list[tuple[str, str, float]]:
        """("product" or "convolution", precision, FLOPs) of everything that a kernel multiplies.

        precision: "half", "double", or of float32 products "default", "high" and "highest".
        """
        if (fused := self.fused(instruction)) is not None:
            return [found for each in fused for found in self.work(each, fused)]
        convolves = instruction.op == "convolution" or "cudnn$conv" in instruction.target
        if not (convolves or instruction.op == "dot" or "cublas" in instruction.target):
            return []
        shapes = [scope.by_name[name].shape for name in instruction.operands[:2]]
        precision = _precision(instruction, shapes)
        if not convolves:
            return [("product", precision, _product_flops(instruction, shapes))]
        spatial = any(character.isdigit() for character in _labels(instruction)[0])
        return [("convolution" if spatial else "product", precision, _convolution_flops(instruction, shapes))]


def _precision(instruction: Instruction, shapes: list[str]) -> str:
    kinds = {arrays(shape)[0][0] for shape in shapes}
    found = {"half" if re.fullmatch(r"[su]8|[su]4|f8\w+", kind) else PRECISIONS.get(kind) for kind in kinds}
    algorithm = re.search(r'\balgorithm=(\w+)|"algorithm":"ALG_(?!UNSET)(\w+)"', instruction.rest)
    if None in found or algorithm:
        what = algorithm[0] if algorithm else f"operands of {', '.join(sorted(kinds))}"
        raise ValueError(f"{instruction.name} multiplies with {what}, whose speed is not known; expected real numbers")
    precision = next(name for name in ("double", "default", "half") if name in found)
    asked = re.search(r'operand_precision=\{([^}]*)\}|"operand_precision":\[([^]]*)\]', instruction.rest)
    words = re.findall(r"\w+", (asked[1] or asked[2]).lower()) if asked else []
    return next((word for word in ("highest", "high") if word in words and precision == "default"), precision)


def _product_flops(instruction: Instruction, shapes: list[str]) -> float:
    contracted = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{[]([^}\]]*)', instruction.rest)
    left = dims(shapes[0])
    inner = math.prod(left[int(i)] for i in re.findall(r"\d+", contracted[1] if contracted else ""))
    return 2.0 * math.prod(dims(instruction.shape)) * inner


def _labels(instruction: Instruction) -> list[str]:
    """What the axes of input, kernel and output are, such as ["b01f", "01io", "b01f"]."""
    return re.split("_|->", re.search(r"dim_labels=([\w?>\-]+)", instruction.rest)[1])


def _convolution_flops(instruction: Instruction, shapes: list[str]) -> float:
    """cuDNN's gradients are written with the window and the axes of the convolution that they are the gradient of."""
    taken = [dims(shape) for shape in shapes]
    given = dims(instruction.shape)
    if "BackwardInput" in instruction.target:
        taken, given = [given, taken[1]], taken[0]
    elif "BackwardFilter" in instruction.target:
        taken, given = [taken[0], given], taken[1]
    labels = _labels(instruction)
    sizes = [dict(zip(label, dimensions)) for label, dimensions in zip(labels, [*taken, given])]
    left, kernel, out = sizes
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    settings = dict(word.split("=") for word in window[1].split()) if window else {}
    axes = [
        _pairs(
            left[axis],
            kernel[axis],
            out[axis],
            **{name: value.split("x")[int(axis)] for name, value in settings.items() if name != "rhs_reversal"},
        )
        for axis in filter(str.isdigit, labels[0])
    ]
    return 2.0 * out["b"] * math.prod(axes) * kernel["i"] * kernel["o"]


def _pairs(left: int, kernel: int, out: int, size="1", stride="1", pad="0_0", lhs_dilate="1", rhs_dilate="1") -> int:
    """How many pairs of an output and a weight meet an input along one axis."""
    before = int(re.match(r"-?\d+", pad)[0])
    places = np.arange(out)[:, None] * int(stride) + np.arange(kernel) * int(rhs_dilate) - before
    inside = (places >= 0) & (places < (left - 1) * int(lhs_dilate) + 1) & (places % int(lhs_dilate) == 0)
    return int(inside.sum())

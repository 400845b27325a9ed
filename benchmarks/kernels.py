"""The kernels of a compiled program: of which kind and origin each is, how often it runs, what it moves and computes.

    for kernel in kernels(compiled.as_text()):
        ...

A loop's kernels run as often as the loop turns. Where the program does not say how often, as with an adaptive solver,
`trips` must: {part of the loop's name: turns}. Of a branch the one that moves most is counted. What a library or a
kernel written by hand computes is not in the text; `charges` must give its seconds: {part of its name: seconds}. The
kernels of `jaxdiff.networks.attention` are known by their names.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from hlo import COLLECTIVES, PRECISIONS, Computation, Instruction, Program, arrays, size

KINDS = "product", "convolution", "attention", "reduction", "elementwise", "copy", "collective", "charged"
ORIGINS = "forward", "backward", "optimizer", "average"
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota", "partition-id"),
    *("replica-id", "opt-barrier", "add-dependency", "domain"),
}
_FREE_CALLS = {"ConcatBitcast", "AllocateBuffer", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}
_MOVES = {
    *("copy", "transpose", "bitcast", "reshape", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate"),
    *("pad", "reverse", "broadcast", "gather", "scatter", "parameter", "constant", "tuple", "iota", "copy-start"),
    *("slice-start", "get-tuple-element"),
}
# products of [queries, keys, width]; the width below which heads are as dear, as it is not the products that take time
_ATTENTION = {"forward": 2, "tangent": 5, "cotangent_of_queries": 3, "cotangent_of_keys": 4}
_NARROW = {"half": 64, "default": 32, "highest": 16}
_OPAQUE = {"sort", "fft", "cholesky", "triangular-solve", "topk"}  # more work than one pass over their bytes


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel and the times it runs. Bytes, FLOPs and seconds are those of one run.

    work: FLOPs of products and convolutions by precision ("half", "default", "high", "highest", "double"). charge: the
    least seconds, given for what the text does not show. A collective has its `op`, and the `devices` that share in it.
    """

    name: str
    op: str
    kind: str
    origin: str
    runs: int
    bytes: int
    work: dict[str, float]
    charge: float = 0.0
    devices: int = 1

    @property
    def flops(self) -> float:
        """FLOPs of products and convolutions."""
        return sum(self.work.values())


def kernels(text: str, trips: Mapping[str, int] = {}, charges: Mapping[str, float] = {}) -> list[Kernel]:
    """Every kernel of a compiled program, by its text.

    Raises ValueError for a loop of unknown turns that is not in `trips`, a call that shows not what it computes and is
    not in `charges`, and for an entry of either that is used for none.
    """
    reader = _Reader(Program(text), trips, charges)
    found = list(reader.walk(reader.program.entry, 1))
    for name, entries in (("trips", trips), ("charges", charges)):
        if unused := sorted(entries.keys() - reader.used):
            raise ValueError(f"{name} has {unused}, which no {_NOUNS[name]} has in its name; leave it out")
    return found


_NOUNS = {"trips": "loop of unknown turns", "charges": "kernel whose inside is unknown"}


class _Reader:
    def __init__(self, program: Program, trips: Mapping[str, int], charges: Mapping[str, float]):
        self.program, self.trips, self.charges = program, trips, charges
        self.used: set[str] = set()
        self.channels: set[str] = set()

    def walk(self, name: str, runs: int) -> Iterator[Kernel]:
        """The kernels of a computation that runs so often."""
        scope = self.program.computations[name]
        for each in scope:
            if each.op in _FREE or each.op.endswith(("-done", "-update")) or each.target in _FREE_CALLS:
                continue
            if each.op == "while":
                yield from self._loop(each, scope, runs)
            elif each.op == "conditional":
                branches = [list(self.walk(branch, runs)) for branch in each.called]
                yield from max(branches, key=lambda branch: sum(one.runs * one.bytes for one in branch))
            elif each.op in ("call", "async-start"):
                yield from self.walk(each.called[0], runs)
            else:
                yield self._kernel(each, scope, runs)

    def _given(self, entries: Mapping, *names: str):
        """The entry that is for one of these names, or None."""
        found = next((part for part in entries if any(part in name for name in names)), None)
        if found is None:
            return None
        self.used.add(found)
        return entries[found]

    def _loop(self, loop: Instruction, scope: Computation, runs: int) -> Iterator[Kernel]:
        body, condition = (re.search(rf"{part}=%?([\w.\-]+)", loop.rest)[1] for part in ("body", "condition"))
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
        turns = int(known[1]) if known else _counted(self.program, loop, scope, body, condition)
        if turns is None:
            turns = self._given(self.trips, loop.name, loop.op_name)
            if turns is None:
                raise ValueError(
                    f"the loop {loop.name} ({loop.op_name}) does not say how often it turns; give it as "
                    f"trips = {{{loop.name!r}: turns}}"
                )
            yield from self.walk(condition, runs * (turns + 1))
        yield from self.walk(body, runs * turns)

    def _kernel(self, each: Instruction, scope: Computation, runs: int) -> Kernel:
        parts = self.program.inside(each)
        ops = {part.op for part in parts}
        origin = _origin([each.op_name, *(part.op_name for part in parts)])
        work = self.program.work(each, scope)
        moved = self.program.moved(each, scope)
        common = {"name": each.name, "origin": origin, "runs": runs, "bytes": moved}
        by_precision: dict[str, float] = {}
        for _, precision, flops in work:
            by_precision[precision] = by_precision.get(precision, 0.0) + flops
        collective = next((part for part in parts if part.op.removesuffix("-start") in COLLECTIVES), None)
        if collective is not None and self._begins(collective):
            op, given_out, devices = self._collective(each, collective, scope)
            common["bytes"] = given_out
            return Kernel(**common, op=op, kind="collective", work=by_precision, devices=devices)
        if (each.op == "custom-call" and not work) or ops & _OPAQUE:
            called = each.target or next(iter(ops & _OPAQUE))
            charge = self._given(self.charges, each.name, each.op_name, called)
            if charge is None and (ours := _attention(each)):
                return Kernel(**common, op=each.op, kind="attention", work=ours)
            if charge is None:
                raise ValueError(
                    f"{each.name} calls {called} ({each.op_name}), and the program does not show what that computes; "
                    f"give its seconds as charges = {{{called!r}: seconds}}"
                )
            return Kernel(**common, op=each.op, kind="charged", work={}, charge=charge)
        if work:
            kind = max(("product", "convolution"), key=lambda kind: sum(f for one, _, f in work if one == kind))
        elif ops & {"reduce", "reduce-window", "select-and-scatter"}:
            kind = "reduction"
        else:
            kind = "copy" if ops <= _MOVES else "elementwise"
        return Kernel(**common, op=each.op, kind=kind, work=by_precision)

    def _begins(self, collective: Instruction) -> bool:
        """Whether its channel is new: a TPU carries one on in several fusions, beside the products of others."""
        channel = re.search(r"channel_id=(\d+)", collective.rest)
        if channel is None:
            return True
        before = len(self.channels)
        self.channels.add(channel[1])
        return len(self.channels) > before

    def _collective(self, each: Instruction, inner: Instruction, scope: Computation) -> tuple[str, int, int]:
        """(which, bytes that it gives out, devices that share in it)."""
        op = inner.op.removesuffix("-start")
        given_out = size(scope.result(each))
        if each.op == "fusion" and op == "all-reduce" and given_out < size(inner.shape):
            op = "reduce-scatter"
        if each.op == "fusion":
            given_out = min(given_out, size(inner.shape))
        return op, given_out, 2 if op == "collective-permute" else _group(inner.rest, self.program.devices)


def _attention(each: Instruction) -> dict[str, float]:
    """FLOPs by precision of a kernel of `jaxdiff.networks.attention`, with heads of 64 at least in bfloat16."""
    found = re.search(r"/attention_([a-z_]+?)(_exact)?/pallas_call", each.op_name)
    if found is None or found[1] not in _ATTENTION:
        return {}
    (kind, (batch, queries, heads, width), _), (_, (_, keys, _, _), _) = arrays(each.rest)[:2]
    precision = "highest" if found[2] else PRECISIONS[kind]
    return {precision: _ATTENTION[found[1]] * 2.0 * batch * heads * queries * keys * max(width, _NARROW[precision])}


def _group(rest: str, devices: int) -> int:
    """How many devices share in a collective, by its replica groups: listed, or the last axes of a mesh."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(listed[1].split(","))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(tiled[1])
    if mesh := re.search(r"replica_groups=\w*\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices


def _origin(names: list[str]) -> str:
    """The last of the origins that a kernel's instructions come from, by the scopes and transformations they name."""
    marks = {"average": "/average/", "optimizer": "/optimizer/", "backward": "transpose("}
    return next((origin for origin, mark in marks.items() if any(mark in name for name in names)), "forward")


def _counted(program: Program, loop: Instruction, scope: Computation, body: str, condition: str) -> int | None:
    """The turns of a loop that counts from one number to another; None for any other loop."""
    copies = "bitcast", "copy", "reshape", "convert"
    turn, asks = program.computations[body], program.computations[condition]
    held = scope.behind(loop.operands[0], copies)
    if held is None or held.op != "tuple" or asks.root.op != "compare" or "direction=LT" not in asks.root.rest:
        return None

    def number(scope: Computation, name: str) -> int | None:
        found = scope.behind(name, copies)
        constant = found and found.op == "constant" and re.fullmatch(r"-?\d+", found.arguments)
        return int(found.arguments) if constant else None

    def place(scope: Computation, name: str) -> int | None:
        """Which part of the loop's state this is."""
        found = scope.behind(name, copies)
        index = re.search(r"\bindex=(\d+)", found.rest) if found and found.op == "get-tuple-element" else None
        return int(index[1]) if index else None

    counter, end = place(asks, asks.root.operands[0]), number(asks, asks.root.operands[1])
    if counter is None or end is None or turn.root.op != "tuple":
        return None
    start, step = number(scope, held.operands[counter]), turn.behind(turn.root.operands[counter], copies)
    if start is None or step is None or step.op != "add" or place(turn, step.operands[0]) != counter:
        return None
    by = number(turn, step.operands[1])
    return None if not by or by < 0 else max(0, math.ceil((end - start) / by))

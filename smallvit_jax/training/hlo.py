"""Reads a compiled program's text: memory traffic and collectives, by line of source.

XLA's own cost analysis counts the body of a loop once and does not name the source. Here, loops
count as often as they run; the loop over the steps of a block, whose length is not known, counts
once, so that figures are of one step (and of what a block does once, before its steps).
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BYTES = {
    **{"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2},
    **{"f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16},
}
# Operations that move nothing through memory by themselves.
_FREE = {
    *("parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all", "iota"),
    *("partition-id", "replica-id", "while", "conditional", "call", "opt-barrier", "domain"),
    *("async-start", "async-update"),  # what they call is counted
}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CYCLES = re.compile(r'estimated_cycles":"(\d+)"')
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    attributes: str


class Figures(NamedTuple):
    """What one step moves.

    Attributes:
      bytes: read and written in the device's memory, by "file:line" of the package.
      collectives: how often each kind runs.
      collective_bytes: size of the results of each kind, per device.
      kernels: how many operations read or write main memory; on a GPU, each is a launch.
      cycles: libtpu's estimate of what operations take, by line; empty for a GPU.
    """

    bytes: Counter[str]
    collectives: Counter[str]
    collective_bytes: Counter[str]
    kernels: int
    cycles: Counter[str]


def read_program(text: str, package: str = "smallvit_jax") -> Figures:
    """Counts what one step of a compiled program moves; `text` is that of the compiled module."""
    return _Program(text, package).figures()


class _Program:
    def __init__(self, text: str, package: str):
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        self._tables: dict[str, dict[int, str]] = {}
        self._package = package
        self._read(text)

    def _read(self, text: str) -> None:
        section, current = "", None
        for line in text.splitlines():
            if current is not None and line.startswith("}"):
                current = None
            elif current is not None:
                if match := _INSTRUCTION.match(line):
                    instruction = _parse(match[1], match[2])
                    current[instruction.name] = instruction
                    for operand in instruction.operands:
                        if "#" in operand and operand not in current:
                            current[operand] = _element(operand, current)
            elif match := _COMPUTATION.match(line):
                current = self._computations.setdefault(match[2], {})
                self._entry = match[2] if match[1] else self._entry
            elif line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                section = line
            elif section and (match := re.match(r"(\d+) (.*)", line)):
                self._tables.setdefault(section, {})[int(match[1])] = match[2]

    def figures(self) -> Figures:
        found = Figures(Counter(), Counter(), Counter(), 0, Counter())
        kernels = 0
        for instruction, inside, times in self._executed(self._entry, 1):
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                found.collectives[kind] += times
                sent = size_in_bytes(_result(instruction), anywhere=True)
                found.collective_bytes[kind] += times * sent
            if moved := self._moved(instruction, inside):
                found.bytes[self._place(instruction)] += times * moved
                kernels += times
            if match := _CYCLES.search(instruction.attributes):
                found.cycles[self._place(instruction)] += times * int(match[1])
        return found._replace(kernels=kernels)

    def _executed(
        self, computation: str, times: int
    ) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        """Every instruction that runs, its computation, and how often it runs in one step."""
        inside = self._computations.get(computation, {})
        for instruction in inside.values():
            yield instruction, inside, times
            if instruction.operation == "while":
                body, condition = (
                    _called(instruction, "body"),
                    _called(instruction, "condition"),
                )
                rounds = times * self._trip_count(instruction, condition)
                yield from self._executed(body, rounds)
            elif instruction.operation in ("conditional", "call", "async-start"):
                for called in _branches(instruction):
                    yield from self._executed(called, times)

    def _trip_count(self, loop: Instruction, condition: str) -> int:
        """How often a loop runs; 1 if it depends on an argument, as the loop over steps does."""
        if match := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(match[1])
        constants = [
            int(match[1])
            for instruction in self._computations.get(condition, {}).values()
            if instruction.operation == "constant"
            and (match := re.match(r"\((\d+)\)", instruction.attributes))
        ]
        return max(constants, default=1)

    def _moved(self, instruction: Instruction, inside: dict[str, Instruction]) -> int:
        operation = instruction.operation
        if operation in _FREE or operation.endswith("-done"):
            return 0
        if operation == "dynamic-update-slice":
            return 2 * self._operand_bytes(instruction, inside, 1)
        if operation in ("dynamic-slice", "gather", "slice"):
            return 2 * size_in_bytes(instruction.shape)
        if operation == "fusion":
            return self._moved_by_fusion(instruction, inside)
        operands = sum(
            self._operand_bytes(instruction, inside, i) for i in range(len(instruction.operands))
        )
        return size_in_bytes(_result(instruction)) + operands

    def _operand_bytes(
        self, instruction: Instruction, inside: dict[str, Instruction], index: int
    ) -> int:
        operand = inside.get(instruction.operands[index])
        return size_in_bytes(operand.shape) if operand else 0

    def _moved_by_fusion(self, fusion: Instruction, inside: dict[str, Instruction]) -> int:
        """Operands and results; of what is only sliced or updated in place, only that part."""
        body = self._computations.get(_called(fusion, "calls"), {})
        parameters = [i for i in body.values() if i.operation == "parameter"]
        parameters.sort(key=lambda i: int(i.attributes.strip("()").split(")")[0] or 0))
        total, updated = 0, 0
        for index, parameter in enumerate(parameters[: len(fusion.operands)]):
            users = [i for i in body.values() if parameter.name in i.operands]
            operations = {user.operation for user in users}
            whole = self._operand_bytes(fusion, inside, index)
            if users and operations <= {"dynamic-slice", "gather"}:
                total += min(whole, sum(size_in_bytes(user.shape) for user in users))
            elif users and operations == {"dynamic-update-slice"}:
                updates = [body[u.operands[1]] for u in users if u.operands[1] in body]
                total += sum(size_in_bytes(update.shape) for update in updates)
                updated += whole
            else:
                total += whole
        return total + max(0, size_in_bytes(fusion.shape) - updated)

    def _place(self, instruction: Instruction) -> str:
        """The innermost line of the package that an instruction, or its fusion's body, is from."""
        for text in self._attributes(instruction):
            match = re.search(r"stack_frame_id=(\d+)", text)
            if match and (place := self._line(int(match[1]))):
                return place
        if instruction.operation.startswith("copy"):
            return "copies between memories"
        return "elsewhere"

    def _attributes(self, instruction: Instruction) -> Iterator[str]:
        yield instruction.attributes
        if instruction.operation == "fusion":
            for inner in reversed(
                self._computations.get(_called(instruction, "calls"), {}).values()
            ):
                yield inner.attributes

    @functools.cache  # noqa: B019 as long as the program
    def _line(self, frame: int) -> str:
        frames, locations = (
            self._tables.get("StackFrames", {}),
            self._tables.get("FileLocations", {}),
        )
        files = self._tables.get("FileNames", {})
        seen = set()
        while frame in frames and frame not in seen:
            seen.add(frame)
            fields = dict(re.findall(r"(\w+)=(\d+)", frames[frame]))
            location = dict(
                re.findall(r"(\w+)=(\d+)", locations.get(int(fields["file_location_id"]), ""))
            )
            file = files.get(int(location.get("file_name_id", 0)), "").strip('"')
            _, found, path = file.rpartition(f"/{self._package}/")
            if found:
                return f"{path}:{location['line']}"
            frame = int(fields.get("parent_frame_id", 0))
        return ""


def size_in_bytes(shape: str, *, anywhere: bool = False) -> int:
    """Bytes of a shape in the device's main memory, or `anywhere`: "f32[2,3]{1,0}" has 24.

    Tuples are the sum of their parts. Other memory spaces are written S(1), as a TPU's vector
    memory.
    """
    total = 0
    for kind, dimensions, layout in _SHAPE.findall(shape):
        if kind in _BYTES and (anywhere or not re.search(r"S\([1-9]", layout)):
            sides = [int(side) for side in dimensions.split(",") if side]
            total += _BYTES[kind] * math.prod(sides)
    return total


def _result(instruction: Instruction) -> str:
    """The shape of what an instruction writes.

    That of an asynchronous start also names the operand: copy-start after the result, collectives
    before it.
    """
    parts = [match[0] for match in _SHAPE.finditer(instruction.shape)]
    if instruction.operation == "copy-start":
        return parts[0]
    if instruction.operation in ("all-gather-start", "collective-permute-start"):
        return parts[1]
    return instruction.shape


def _parse(name: str, text: str) -> Instruction:
    shape, rest = _split(text)
    operation, _, rest = rest.partition("(")
    arguments, attributes = _until_closed(rest)
    if operation in ("parameter", "constant"):
        return Instruction(name, shape, operation, (), f"({arguments}){attributes}")
    operands = tuple(re.findall(r"%([\w.\-]+(?:#\d+)?)", arguments))
    return Instruction(name, shape, operation.strip(), operands, attributes)


def _element(name: str, inside: dict[str, Instruction]) -> Instruction:
    """The part of a tuple that newer compilers write as "tuple#3"."""
    whole, _, index = name.partition("#")
    parts = _parts(inside[whole].shape) if whole in inside else []
    shape = parts[int(index)] if int(index) < len(parts) else ""
    return Instruction(name, shape, "get-tuple-element", (whole,), "")


def _parts(shape: str) -> list[str]:
    """The elements of a tuple's shape."""
    depth, parts = 0, [""]
    for character in shape:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _split(text: str) -> tuple[str, str]:
    """Splits "TYPE operation(...)", where TYPE may be a tuple, after the type."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    inner, rest = _until_closed(text[1:])
    return inner, rest.strip()


def _until_closed(text: str) -> tuple[str, str]:
    """Splits the text after an opening bracket at the one that closes it."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return text[: match.start()], text[match.end() :]
    return text, ""


def _called(instruction: Instruction, role: str) -> str:
    match = re.search(rf"{role}=%?([\w.\-]+)", instruction.attributes)
    return match[1] if match else ""


def _branches(instruction: Instruction) -> list[str]:
    text = instruction.attributes
    if match := re.search(r"branch_computations=\{([^}]*)\}", text):
        return re.findall(r"%?([\w.\-]+)", match[1])
    names = re.findall(r"(?:true_computation|false_computation|to_apply|calls)=%?([\w.\-]+)", text)
    return names

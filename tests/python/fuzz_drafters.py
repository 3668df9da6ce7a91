"""Loads damaged drafters and generates with those that load. Run by test_drafter_files.py in a process of its own.

usage: fuzz_drafters.py TARGET DRAFTER WORK_FILE {truncate|flip|values|types} [FIRST LAST]

Prints every case before it is tried, so that after a crash the last line names it. Exit code 1 if a case raised
something else than ValueError or RuntimeError, or if a text changed.
"""

import itertools
import random
import struct
import sys
from pathlib import Path

import gguf

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))

from damage import Gguf

from llama_dflash import DFlashDraft, Llama, MTPDraft
from llama_dflash._engine import Engine

PROMPT = list(b"the digits: 0123")


def boundaries(path):
    """Byte offsets at which the header, a key, a value, a tensor's description or its data begins or ends."""
    reader = gguf.GGUFReader(str(path))
    found = set(range(0, 25))
    for field in reader.fields.values():
        offset = field.offset
        for part in field.parts:
            found.add(offset)
            offset += part.nbytes
        found.add(offset)
    for tensor in reader.tensors:
        offset = tensor.field.offset
        for part in tensor.field.parts:
            found.add(offset)
            offset += part.nbytes
        found |= {offset, tensor.data_offset, tensor.data_offset + tensor.n_bytes}
    return sorted(found)


def truncated(path):
    """(name, bytes) for every boundary, one byte to either side of it, and a sample of what lies between."""
    data = path.read_bytes()
    marks = boundaries(path)
    # the vocabulary has a boundary per token, all alike: some of them will do
    some = marks[:200] + marks[200:-120:37] + marks[-120:]
    lengths = {m + d for m in some for d in (-1, 0, 1)} | set(range(0, len(data), max(1, len(data) // 150)))
    for n in sorted(n for n in lengths if 0 <= n < len(data)):
        yield f"first {n} of {len(data)} bytes", data[:n]


def flipped(path, first, last):
    """(name, bytes) with random bytes changed: mostly in the metadata, where they matter most."""
    data = path.read_bytes()
    marks = boundaries(path)
    data_start = min(t.data_offset for t in gguf.GGUFReader(str(path)).tensors)
    for seed in range(first, last):
        rng = random.Random(seed)
        damaged = bytearray(data)
        where = []
        for _ in range(rng.choice([1, 1, 2, 5])):
            kind = rng.random()
            if kind < 0.45:
                at = rng.choice(marks) + rng.randrange(8)
            elif kind < 0.9:
                at = rng.randrange(data_start)
            else:
                at = rng.randrange(data_start, len(data))
            at = min(at, len(data) - 1)
            damaged[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF, damaged[at] ^ (1 << rng.randrange(8))])
            where.append(at)
        yield f"flip {seed} at {where}", bytes(damaged)


# a scalar's GGUF type to how it is packed
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
VALUES = [0, 1, 2, 3, 7, 127, 255, 1 << 15, 1 << 31, (1 << 32) - 1, -1, -(1 << 31), 1 << 62, float("nan"), float("inf"), -1e30]


def strange_values(path):
    """(name, bytes) with every number of the metadata, and every number of a tensor's shape, replaced by strange ones."""
    data = path.read_bytes()
    reader = gguf.GGUFReader(str(path))
    spots = []
    for field in reader.fields.values():
        offsets = list(itertools.accumulate((part.nbytes for part in field.parts), initial=field.offset))
        kinds = [int(t) for t in field.types]
        if len(kinds) == 1 and kinds[0] in SCALARS and not field.name.startswith("GGUF."):
            spots.append((field.name, offsets[field.data[0]], SCALARS[kinds[0]]))
        elif len(kinds) == 2 and kinds[1] in SCALARS and not field.name.startswith("tokenizer"):
            spots += [(f"{field.name}[{i}]", offsets[index], SCALARS[kinds[1]]) for i, index in enumerate(field.data)]
    for tensor in reader.tensors:
        offsets = list(itertools.accumulate((part.nbytes for part in tensor.field.parts), initial=tensor.field.offset))
        names = ["name_length", "name", "n_dims", "dims", "type", "offset"]
        for name, offset, part in zip(names, offsets, tensor.field.parts):
            if name in ("n_dims", "type"):
                spots.append((f"{tensor.name} {name}", offset, "<I"))
            elif name == "offset":
                spots.append((f"{tensor.name} {name}", offset, "<Q"))
            elif name == "dims":
                spots += [(f"{tensor.name} {name}[{i}]", offset + 8 * i, "<Q") for i in range(len(part))]
    for name, offset, form in spots:
        size = struct.calcsize(form)
        for value in VALUES:
            if form in ("<f", "<d"):
                packed = struct.pack(form, value)
            elif isinstance(value, float):
                continue
            else:
                packed = (value % (1 << 64)).to_bytes(8, "little")[:size]
            if packed != data[offset : offset + size]:
                yield f"{name} = {value}", data[:offset] + packed + data[offset + size :]


def other_types(path):
    """(name, bytes) with one tensor of another type, in a file that is otherwise right."""
    file = Gguf(path)
    for i, tensor in enumerate(file.tensors):
        for kind in gguf.GGMLQuantizationType:
            if kind != tensor.tensor_type:
                yield f"{tensor.name} as {kind.name}", file.with_type(i, kind)


def main():
    target, drafter, work = map(Path, sys.argv[1:4])
    mode, limits = sys.argv[4], list(map(int, sys.argv[5:7]))
    cases = {"truncate": truncated, "flip": flipped, "values": strange_values, "types": other_types}[mode]
    llm = Llama(str(target), n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, verbose=False)
    expected = list(itertools.islice(llm.generate(PROMPT, temp=0.0), 12))
    kind = MTPDraft if drafter.stem.endswith("-mtp") else DFlashDraft
    loaded = refused = 0
    for number, (name, data) in enumerate(cases(drafter, *(limits if mode == "flip" else ()))):
        if mode == "values" and limits and number % limits[1] != limits[0]:
            continue
        print(f"case {number}: {name}", flush=True)
        work.write_bytes(data)
        try:
            draft = kind(work, budget=8, context=64)
            draft = draft.ready_for(str(target))
            llm._memory.engine = Engine(llm.ctx, [draft], n_gpu_layers=0)
        except ValueError as error:
            assert str(error).startswith("draft_model: "), error
            refused += 1
            continue
        assert mode != "truncate", "a truncated file was loaded"
        loaded += 1
        llm.reset()
        try:
            text = list(itertools.islice(llm.generate(PROMPT, temp=0.0), 12))
            assert text == expected, f"{text}, expected {expected}"
        except RuntimeError as error:
            print(f"  {error}")
        finally:
            llm.reset()
            llm._engine.close()
            llm._memory.engine = None
    llm.reset()
    assert list(itertools.islice(llm.generate(PROMPT, temp=0.0), 12)) == expected
    print(f"done: {refused} refused, {loaded} loaded")


if __name__ == "__main__":
    main()

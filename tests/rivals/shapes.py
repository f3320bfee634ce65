"""Writes a model of another's shape with random weights of one type: `shapes.py BASE TYPE OUT`.

Rows that are not whole blocks of 256 get Q5_0 in the place of Q4_K, and the embedding, which is the
head, too, Q8_0: as llama.cpp's own quantizer does at this width.
"""

import struct
import sys

import gguf
import numpy

base, kind, out = sys.argv[1:]
TYPES = gguf.GGMLQuantizationType
luck = numpy.random.default_rng(5)


def halves(blocks, size):
    """A scale for each block, about so large."""
    return (size * (0.5 + luck.random((blocks, 1)))).astype("<f2").view(numpy.uint8)


def bytes_of(blocks, count):
    return luck.integers(0, 256, (blocks, count), dtype=numpy.uint8)


def random(kind, blocks):
    """Blocks whose values are spread as a model's are, about 0.02."""
    if kind == TYPES.Q8_0:
        return numpy.hstack([halves(blocks, 3e-4), bytes_of(blocks, 32)])
    if kind == TYPES.Q4_0:
        return numpy.hstack([halves(blocks, 4e-3), bytes_of(blocks, 16)])
    if kind == TYPES.Q5_0:
        return numpy.hstack([halves(blocks, 2e-3), bytes_of(blocks, 20)])
    if kind == TYPES.Q4_K:
        return numpy.hstack([halves(blocks, 1e-4), halves(blocks, 7e-4), bytes_of(blocks, 12 + 128)])
    raise SystemExit(f"no random weights of type {kind.name}; ask for Q4_0, Q8_0 or Q4_K")


def kind_of(tensor):
    if len(tensor.shape) == 1:
        return TYPES.F32
    if tensor.name == "token_embd.weight":
        return TYPES.Q8_0
    wanted = TYPES[kind]
    return wanted if tensor.shape[0] % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else TYPES.Q5_0


reader = gguf.GGUFReader(base)
head = reader.data[: reader.tensors[0].field.offset].tobytes()
infos, data = bytearray(), bytearray()
for tensor in reader.tensors:
    own = kind_of(tensor)
    length, _ = gguf.GGML_QUANT_SIZES[own]
    name = tensor.name.encode()
    infos += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.shape))
    infos += struct.pack(f"<{len(tensor.shape)}Q", *map(int, tensor.shape)) + struct.pack("<IQ", own, len(data))
    elements = int(tensor.n_elements)
    weights = numpy.ones(elements, "<f4") if own == TYPES.F32 else random(own, elements // length)
    data += weights.tobytes()
    data += bytes(-len(data) % reader.alignment)
start = head + infos
with open(out, "wb") as file:
    file.write(start + bytes(-len(start) % reader.alignment) + data)

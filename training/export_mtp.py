"""Write a trained MTP head as GGUF files that unpatched llama.cpp loads, with the names that its converter gives.

usage: export_mtp.py --checkpoint head.pt --target T.gguf -o mtp.gguf [--type Q4_0] [--embd-type Q5_0]
       export_mtp.py --join mtp.gguf --target T.gguf -o target-with-mtp.gguf
The first is a file of the head alone (`llama-server -m T.gguf -md mtp.gguf --spec-type draft-mtp`): one layer behind the
target's, and a copy of the target's embeddings, which are the head's input and output. --join writes the target with the
layer inside, as converters of published models do (`llama-server -m target-with-mtp.gguf --spec-type draft-mtp`). The join
copies tensors as they are stored and needs no torch.
"""
import argparse

ARCH = "qwen35"
LAYER = "blk.{}."


def read(path, gguf_py):
    if gguf_py:
        import sys
        sys.path.insert(0, gguf_py)
    from gguf import GGUFReader
    return GGUFReader(path)


def copy_keys(w, reader, changed):
    """every key of a file, with `changed` {key: value} in place of the file's own; a value of None leaves a key out"""
    import gguf
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = changed.get(name, field.contents())
        if value is not None:
            kind = field.types[0]
            w.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)


def layers_of(reader):
    """(layers of the target, layers of the head): block_count counts both"""
    value = lambda key: reader.fields[f"{ARCH}.{key}"].contents() if f"{ARCH}.{key}" in reader.fields else 0
    heads = value("nextn_predict_layers")
    return value("block_count") - heads, heads


def writer(path, reader, changed):
    import gguf
    w = gguf.GGUFWriter(path, ARCH)
    n_layer, _ = layers_of(reader)
    copy_keys(w, reader, {f"{ARCH}.block_count": n_layer + 1, **changed})
    w.add_nextn_predict_layers(1)
    return w


def copy_tensor(w, tensor):
    w.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)


def write_head(state, reader, path, kind, embd_kind):
    """state: {name: float tensor} of the head; reader: the target's file"""
    import torch
    from gguf.quants import dequantize
    from export_gguf import quantised, write_gguf
    from mtp import tensors
    from qwen35 import Shape, tensor_name
    n_layer, _ = layers_of(reader)
    name = reader.fields["general.name"].contents()
    w = writer(path, reader, {"general.name": f"{name} MTP", "general.description": f"Next-token-prediction head of {name}, trained on text written by it",
                              "tokenizer.ggml.merges": reader.fields["tokenizer.ggml.merges"].contents()[:1], "tokenizer.chat_template": None})

    def put(name, weight, kind):
        if weight.dim() == 1 or kind == "F32":
            return w.add_tensor(name, weight.float().numpy())
        raw, qtype = quantised(weight, kind)
        w.add_tensor(name, raw, raw_dtype=qtype)
    raw = {t.name: t for t in reader.tensors}
    embd = raw["token_embd.weight"]
    put("token_embd.weight", torch.from_numpy(dequantize(embd.data, embd.tensor_type)), embd_kind)
    copy_tensor(w, raw["output_norm.weight"])
    for name in tensors(Shape()):
        put(tensor_name(n_layer, name), state[name], kind)
    write_gguf(w)


def join(target, head, path, gguf_py=None):
    """the target's file with the layer of a head's file behind its own"""
    target, head = read(target, gguf_py), read(head, gguf_py)
    n_layer, _ = layers_of(target)
    if layers_of(head) != (n_layer, 1):
        raise ValueError(f"the head is layer {layers_of(head)[0]} of {sum(layers_of(head))}, the target has {n_layer} layers")
    w = writer(path, target, {})
    for tensor in [*target.tensors, *(t for t in head.tensors if t.name.startswith(LAYER.format(n_layer)))]:
        copy_tensor(w, tensor)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--target", required=True)
    what = ap.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint")
    what.add_argument("--join", metavar="MTP")
    ap.add_argument("--type", default="Q4_0", choices=["Q4_0", "Q8_0", "F16", "F32"], help="of the head's matrices")
    ap.add_argument("--embd-type", default="Q5_0", choices=["Q4_0", "Q5_0", "Q8_0", "F16", "F32"], help="of the embeddings in a file of the head alone")
    ap.add_argument("--gguf-py")
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    if args.join:
        return join(args.target, args.join, args.out, args.gguf_py)
    import torch
    write_head(torch.load(args.checkpoint, weights_only=True), read(args.target, args.gguf_py), args.out, args.type, args.embd_type)


if __name__ == "__main__":
    main()

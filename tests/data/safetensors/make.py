#!/usr/bin/env python3
"""Makes the files of this folder with Python's safetensors and huggingface_hub, as test_safetensors.c expects.

Needs torch, safetensors and huggingface_hub. Run it from anywhere; it writes beside itself.
"""

import json
import pathlib

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i8": torch.int8,
    "u8": torch.uint8,
    "bool": torch.bool,
}


def every_dtype():
    tensors = {name: torch.arange(6).reshape(3, 2).to(dtype) for name, dtype in DTYPES.items()}
    tensors["empty"] = torch.zeros(0, 4)
    tensors["scalar"] = torch.tensor(0.5)
    tensors['odd "name"\\ \n\x01\x1f\x7f é/'] = torch.ones(3, dtype=torch.uint8)
    save_file(tensors, HERE / "every_dtype.safetensors", metadata={"format": "pt"})


def shards():
    """Six tensors of 8, 40, 8, 8, 16 and 4 bytes in shards of at most 20."""
    sizes = {"c": 2, "big": 10, "a": 2, "b": 2, "e": 4, "d": 1}
    state = {name: torch.full((n,), float(n)) for name, n in sizes.items()}
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=20
    )
    folder = HERE / "shards"
    folder.mkdir(exist_ok=True)
    for file, names in split.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_parameters": sum(sizes.values()), **split.metadata},
        "weight_map": split.tensor_to_filename,
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "model.safetensors.index.json").write_text(text)


def half_precision():
    """Values of f32 around every rounding boundary as f16 and bf16."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, (4000,), generator=generator).to(torch.int32)
    near = torch.randint(0x30000000, 0x48000000, (4000,), generator=generator).to(torch.int32)
    ties = (near & ~0x1FFF) | 0x1000
    edges = torch.tensor([0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x387FFFFF, 0x7F7FFFFF, 0x7F800000])
    values = torch.cat([bits, near, ties, edges.to(torch.int32)]).view(torch.float32)
    values = values[~values.isnan()]
    tensors = {
        "values": values,
        "f16": values.to(torch.float16),
        "bf16": values.to(torch.bfloat16),
    }
    save_file(tensors, HERE / "half.safetensors", metadata={"format": "pt"})


every_dtype()
shards()
half_precision()

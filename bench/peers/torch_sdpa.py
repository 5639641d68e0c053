#!/usr/bin/env python3
"""torch_sdpa.py - times what a user would pick instead of libkascade: PyTorch's scaled_dot_product_attention with its
flash and cuDNN backends, at the shapes of `kascade bench`. Needs PyTorch with CUDA.

    torch_sdpa.py [--rounds N] prefill:1:32768 decode:64:131072 ...

A shape is phase:batch:keys. Prints one line a shape and backend: the median of CUDA event times over random normal
f16 inputs, with its rate; first the rate of a copy within the device, which bounds decode.
"""
import argparse
import statistics

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def median_ms(call, rounds):
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    return statistics.median(times)


def replayed(call):
    """The call as a CUDA graph, so that a short one is not timed by its launch."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def tensor(batch, tokens, heads):
    return torch.randn(batch, tokens, heads, HEAD_DIM, dtype=torch.float16, device="cuda").transpose(1, 2)


def time_copy(rounds):
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    ms = median_ms(lambda: target.copy_(source), rounds)
    print(f"copy, bytes read and written: {2 * source.numel() / ms * 1e-9:.2f} TB/s")


def time_shape(phase, batch, keys, rounds):
    decode = phase == "decode"
    q = tensor(batch, 1 if decode else keys, HEADS)
    k, v = tensor(batch, keys, KV_HEADS), tensor(batch, keys, KV_HEADS)
    for name, backend in BACKENDS.items():
        def call():
            return functional.scaled_dot_product_attention(q, k, v, is_causal=not decode, enable_gqa=True)
        with sdpa_kernel(backend):
            ms = median_ms(replayed(call) if decode else call, rounds)
        if decode:
            rate = f"{2 * k.numel() * k.element_size() / ms * 1e-9:.2f} TB/s"
        else:
            rate = f"{batch * HEADS * HEAD_DIM * 2 * keys * (keys + 1) / ms * 1e-9:.0f} TFLOP/s"
        print(f"{phase}, batch {batch}, {keys} keys, {name}: {ms:.4f} ms, {rate}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Times PyTorch's attention at the shapes of kascade bench.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("shapes", nargs="+", metavar="PHASE:BATCH:KEYS")
    args = parser.parse_args()
    torch.manual_seed(1)
    time_copy(args.rounds)
    for shape in args.shapes:
        phase, batch, keys = shape.split(":")
        if phase not in ("prefill", "decode"):
            parser.error(f"{shape}: the phase is prefill or decode")
        time_shape(phase, int(batch), int(keys), args.rounds)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

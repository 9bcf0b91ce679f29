"""What a cell needs of a GPU, by arithmetic that can be done by hand."""

from __future__ import annotations

import dataclasses

import torch
from test_fit import made_examples

from kd.footprint import _FIXED, _kept_by_a_step, gpu_bytes


def test_a_step_of_wrn_16_2_keeps_each_norm_s_input_and_output() -> None:
    batch = 8
    # 16 channels once, 32 four times at 32x32; 64 four times at 16x16; 128 four times at 8x8
    units = 16 * 32**2 + 4 * (32 * 32**2 + 64 * 16**2 + 128 * 8**2)
    activations = 4 * batch * 2 * units
    weights = 3 * 4 * 703_284
    assert abs(_kept_by_a_step("wrn-16-2", 100, (batch, 3, 32, 32)) / (activations + weights) - 1) < 0.03


def test_it_grows_with_the_batch_the_data_and_the_bank() -> None:
    small = made_examples()
    need = gpu_bytes("resnet8", 10, small, batch=16)
    assert need > _FIXED
    assert gpu_bytes("resnet8", 10, small, batch=64) > need
    assert gpu_bytes("resnet8", 10, small, 16, rows=1000) == need + 1000 * (20 + 8)
    larger = dataclasses.replace(small, images=torch.zeros(1000, 8, 8, 1, dtype=torch.uint8))
    assert gpu_bytes("resnet8", 10, larger, batch=16) == need + larger.images.nbytes - small.images.nbytes

"""A matching-pursuit autoencoder (MP-SAE, Costa et al. 2025, arXiv 2506.03093), written out.

Rows of length 1 encode and decode. Each of k steps adds the unit whose row has the largest product
with what is left of the sample, and subtracts it. Gradients go through all steps.
"""

import torch
from task import Task, measure
from torch import Tensor
from torch.nn.functional import normalize

task = Task.given()
torch.manual_seed(task.seed)
samples_ND = task.samples()[0]
weight_KD = torch.randn(task.units, samples_ND.shape[1], device=task.device).requires_grad_()
bias_D = samples_ND[:10_000].mean(0).clone().requires_grad_()
optimizer = torch.optim.Adam([weight_KD, bias_D], lr=task.rate)


def left_of(x_BD: Tensor) -> Tensor:
    """Return what k steps leave of samples."""
    rows_KD, left_BD = normalize(weight_KD), x_BD - bias_D
    for _ in range(task.active):
        with torch.no_grad():
            unit_B = (left_BD @ rows_KD.mT).argmax(1)
        row_BD = rows_KD[unit_B]
        left_BD = left_BD - (left_BD * row_BD).sum(1, keepdim=True) * row_BD
    return left_BD


def step(batch: Tensor) -> None:
    """Take a step."""
    optimizer.zero_grad()
    left_of(batch).square().sum(1).mean().backward()
    torch.nn.utils.clip_grad_norm_([weight_KD, bias_D], 1.0)
    optimizer.step()


measure(task, step, lambda x_BD: x_BD - left_of(x_BD))

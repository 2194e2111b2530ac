"""TopK by SAELens, through its own trainer."""

import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from task import Task, measure

task = Task.given()
torch.manual_seed(task.seed)
sae = TopKTrainingSAE(
    TopKTrainingSAEConfig(
        d_in=task.samples()[0].shape[1],
        d_sae=task.units,
        k=task.active,
        apply_b_dec_to_input=True,
        device=task.device,
        dtype="float32",
    )
)
settings = SAETrainerConfig(
    total_training_samples=task.steps * task.batch_size,
    train_batch_size_samples=task.batch_size,
    lr=task.rate,
    lr_end=task.rate,
    device=task.device,
)
trainer = SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))


def step(batch: torch.Tensor) -> None:
    """Do what the trainer's loop does in a step without checkpoints and W&B."""
    trainer.maybe_reset_sparsity()
    trainer.step(batch)
    trainer.n_training_steps += 1


measure(task, step, sae.forward)

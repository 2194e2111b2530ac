"""TopK by dictionary_learning, through its own trainer."""

from dictionary_learning.trainers.top_k import TopKTrainer
from task import Task, measure

task = Task.given()
trainer = TopKTrainer(
    steps=task.steps,
    activation_dim=task.samples()[0].shape[1],
    dict_size=task.units,
    k=task.active,
    layer=0,
    lm_name="none",
    lr=task.rate,
    warmup_steps=0,
    seed=task.seed,
    device=task.device,
)
done = iter(range(task.steps))
measure(task, lambda batch: trainer.update(next(done), batch), trainer.ae.forward)

"""TRL's GRPOTrainer in an environment of m2gym.

    pip install 'm2gym[tasks]' trl jmespath
    python examples/trl_grpo.py Qwen/Qwen3-0.6B

The model needs a chat template with tools that TRL knows (Qwen3's, for example).
"""

import sys

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from m2gym.backends.trl_environment import environment_factory, rows

TASKS = {"taskset": "reasoning-gym", "families": ["chain_sum", "products"]}
PROMPT = "Use the calculator, then give the result with the tool `answer`.\n\n"

trainer = GRPOTrainer(
    model=sys.argv[1],
    args=GRPOConfig(
        output_dir="runs/trl",
        max_steps=100,
        per_device_train_batch_size=8,
        num_generations=8,
        max_completion_length=512,
        chat_template_kwargs={"enable_thinking": False},
    ),
    train_dataset=Dataset.from_list(rows("tool-use", prompt=PROMPT, **TASKS)),
    environment_factory=environment_factory("tool-use", tools=["calculator", "answer"], **TASKS),
)
trainer.train()

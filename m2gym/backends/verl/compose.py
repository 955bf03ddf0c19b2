"""verl's whole configuration, composed from its own files and our fields over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2gym.backends.train_config import TrainConfig
from m2gym.backends.verl.translate import flat, known, verl_config
from m2gym.core.errors import InputError


def compose(ours: Mapping[str, Any], config: TrainConfig) -> Any:
    """An OmegaConf tree: verl's defaults, and the translated fields over them.

    Raises:
        InputError: a field that verl does not know, or a value that it refuses.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from m2gym.backends.verl.api import (
        OmegaConf,
        need_reference_policy,
        trainer_base,
        validate_config,
    )

    place = Path(trainer_base.__file__).parents[2] / "config"
    with initialize_config_dir(str(place), version_base=None):
        tree = hydra_compose("ppo_trainer")
    OmegaConf.set_struct(tree, False)
    plain = OmegaConf.to_container(tree, resolve=False)
    asked = dict(flat(verl_config(config.backend).verl))
    wrong = [reason for name in asked if (reason := known(plain, name)) is not None]
    if wrong:
        raise InputError("backend.verl: " + "; ".join(wrong))
    for name, value in ours.items():
        OmegaConf.update(tree, name, value, merge=True, force_add=True)
    try:
        validate_config(
            config=tree,
            use_reference_policy=need_reference_policy(tree),
            use_critic=False,
        )
    except (AssertionError, ValueError, TypeError) as error:
        raise InputError(f"verl refuses the configuration: {error}") from error
    return tree

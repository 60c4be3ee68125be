"""The configurations of configs/, composed as fairseq-hydra-train does."""

from functools import lru_cache

from console import ROOT
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import omegaconf_no_object_check
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import fairseq_taskmoe  # noqa: F401

CONFIGS = ROOT / "configs"


def from_yaml(row, size, *more):
    """Return the configuration that fairseq-hydra-train makes of a row, a size, and overrides."""
    with omegaconf_no_object_check():
        return OmegaConf.create(composed(row, size, *more))


@lru_cache(maxsize=None)  # tests compare each row with others
def composed(row, size, *more):
    """Return the configuration as a dictionary."""
    GlobalHydra.instance().clear()
    hydra_init(row)
    with initialize_config_dir(str(CONFIGS), version_base="1.1"):
        overrides = [f"size={size}", *more]
        if row == "bilingual":
            overrides.append("task.lang_pairs=en-de")
        cfg = compose(row, overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        add_defaults(cfg)
        return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)

"""The public builder of hybrid models: `build_config` and `load_model` live in `model.hybrid`."""

from model.hybrid import build_config, load_model

__all__ = ["build_config", "load_model"]

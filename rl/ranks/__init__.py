"""Preferences on the trainer core: DPO, KTO and reward models in processes that share the model."""

"""Three-stage supervised fine-tuning."""

"""What a GRPO run would take on so many cards, before anybody pays for it: a discrete-event model. No torch."""

"""Reinforcement learning: rollouts, rewards into advantages, and the policy update."""

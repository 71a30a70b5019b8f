"""Preferences that are given: DPO on pairs and KTO on labelled replies, without sampling."""

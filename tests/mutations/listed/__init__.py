"""The list: important lines by what they belong to."""

from tests.mutations.listed import (
    answers,
    conversations,
    data,
    environments,
    fp8,
    hybrid,
    policy,
    preferences,
    rollouts,
    runs,
    synthetic,
    training,
    weight_sync,
)
from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    *hybrid.MUTATIONS,
    *fp8.MUTATIONS,
    *data.MUTATIONS,
    *training.MUTATIONS,
    *policy.MUTATIONS,
    *rollouts.MUTATIONS,
    *weight_sync.MUTATIONS,
    *preferences.MUTATIONS,
    *answers.MUTATIONS,
    *conversations.MUTATIONS,
    *runs.MUTATIONS,
    *environments.MUTATIONS,
    *synthetic.MUTATIONS,
)

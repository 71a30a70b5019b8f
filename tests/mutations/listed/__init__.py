"""The list: important lines by what they belong to."""

from tests.mutations.listed import (
    answers,
    conversations,
    data,
    environments,
    fp8,
    hybrid,
    policy,
    runs,
    synthetic,
    training,
)
from tests.mutations.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (
    *hybrid.MUTATIONS,
    *fp8.MUTATIONS,
    *data.MUTATIONS,
    *training.MUTATIONS,
    *policy.MUTATIONS,
    *answers.MUTATIONS,
    *conversations.MUTATIONS,
    *runs.MUTATIONS,
    *environments.MUTATIONS,
    *synthetic.MUTATIONS,
)

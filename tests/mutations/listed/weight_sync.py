"""Weights that arrive in the engine, and the proofs of it."""

from tests.mutations.mutation import Mutation

_DRIFT = "Trainer and engine drift apart"
_SYNC = ("tests/unit/engine/test_sync_check.py",)

MUTATIONS = (
    Mutation(
        "changed tensors arrive",
        "engine/sync_check.py",
        'elif found[name] != digests[name] and name not in wrong["changed"]:',
        "elif False:",
        "a sync that changed a tensor on its way counts as proved",
        _SYNC,
        _DRIFT,
    ),
    Mutation(
        "a digest of a tensor's first bytes",
        "engine/sync_check.py",
        "made.update(flat.view(torch.uint8).numpy())",
        "made.update(flat[:1].view(torch.uint8).numpy())",
        "most bits of a tensor are not proved",
        _SYNC,
        _DRIFT,
    ),
    Mutation(
        "probes that are no number pass",
        "engine/sync_check.py",
        "for what, error in says.items() if not error <= limit]",
        "for what, error in says.items() if error > limit]",
        "an engine that answers NaN holds the policy",
        _SYNC,
        _DRIFT,
    ),
    Mutation(
        "missing tensors of a sync pass",
        "model/weights.py",
        "missing = sorted(expected.keys() - named.keys())",
        "missing = list[str]()",
        "an engine keeps old tensors that the trainer did not send",
        ("tests/unit/workbench/test_weights.py",),
        "Trainer and engine drift apart",
    ),
    Mutation(
        "other shapes arrive",
        "model/weights.py",
        "        if shape != spec.shape:\n",
        "        if len(shape) != len(spec.shape):\n",
        "a tensor of another size is loaded, or cut",
        ("tests/unit/workbench/test_weights.py",),
        "Trainer and engine drift apart",
    ),
    Mutation(
        "what is read back may be no number",
        "engine/readback.py",
        "if not error <= tolerances[name]]",
        "if error > tolerances[name]]",
        "an engine that holds NaN holds the policy",
        ("tests/unit/workbench/test_weights.py",),
        "Trainer and engine drift apart",
    ),
    Mutation(
        "tensors are not compared",
        "engine/readback.py",
        "self._note([name], 0.0 if same else relative_error(found, tensor), 0.0)",
        "self._note([name], 0.0, 0.0)",
        "whatever an engine holds is taken for what it was given",
        ("tests/unit/workbench/test_weights.py",),
        "Trainer and engine drift apart",
    ),
    Mutation(
        "an adapter is left out of a sync",
        "model/lora.py",
        "merged = whole.float() + _delta(layers[owner], gather)",
        "merged = whole.float()",
        "the engine samples from the frozen base for ever",
        ("tests/unit/rl/test_grpo_lora.py", "tests/unit/model/test_lora.py"),
        _DRIFT,
    ),
    Mutation(
        "the reference has the adapters",
        "model/lora.py",
        "layer.enable_adapters(False)",
        "layer.enable_adapters(True)",
        "the KL to where the stage started from is always 0",
        ("tests/unit/rl/test_grpo_lora.py",),
    ),
)

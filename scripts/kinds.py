"""Anneal's own stage kinds, in the order of the work: the entry point `anneal.kinds`."""

import data_mix.kinds
import evals.kinds
import pretrain.kinds
import rl.kinds
import sft.kinds

KINDS = {
    **data_mix.kinds.KINDS,
    **pretrain.kinds.KINDS,
    **sft.kinds.KINDS,
    **rl.kinds.KINDS,
    **evals.kinds.KINDS,
}

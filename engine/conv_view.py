"""The weights that a Mamba-2 mixer of vLLM convolves with, which a reload can leave behind.

The mixer reads them through a buffer of its own, made once as a view of its layer's weight. On a CPU with
bfloat16 instructions vLLM packs that weight into other memory, at the first load and at every reload; the view
then holds what the engine was born with.
"""

from typing import Any

import torch


def renew_conv_views(model: Any) -> None:
    """Copy the weights that have just been loaded into each view that has lost them."""
    for mixer in model.modules():
        view, layer = getattr(mixer, "conv_weights", None), getattr(mixer, "conv1d", None)
        if view is None or layer is None:
            continue
        # Beside what it packs vLLM keeps the plain weights, for paths that cannot read the packed ones.
        plain = getattr(layer, "_cpu_unpacked_conv_weight", layer.weight)
        if plain.data_ptr() != view.data_ptr():
            with torch.inference_mode():
                view.copy_(plain.view_as(view))

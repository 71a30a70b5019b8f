"""The stage kinds that build and compress a base model. Imports no torch."""

from workbench.panels import MetricPanel
from workbench.registry import Kind

KINDS = {
    "tokenizer": Kind(
        config="pretrain.config:TokenizerConfig",
        run="pretrain.tokenizer_stage:run",
        plan="pretrain.plan:plan_tokenizer",
        about="train a byte-level BPE tokenizer with the chat format's special tokens",
        takes=(),
        makes=("tokenizer",),
        version=1,
        on_card=False,
        inputs="data_mix.inputs:check_data",
    ),
    "convert": Kind(
        config="pretrain.convert.config:ConvertConfig",
        run="pretrain.convert.stage:run",
        plan="pretrain.convert.plan:plan_convert",
        about="a GGUF file or a Hugging Face checkpoint becomes the run's base model",
        takes=("a checkpoint folder, a hub id or a GGUF file",),
        version=1,
        on_card=False,
        inputs="pretrain.convert.inputs:check_origin",
        reads="pretrain.convert.inputs:package_file",
    ),
    "pretrain": Kind(
        config="pretrain.config:PretrainConfig",
        run="pretrain.stage:run",
        plan="pretrain.plan:plan_pretrain",
        about="pretrain the hybrid base model on a phased blend",
        takes=("tokenizer",),
        version=1,
        inputs="data_mix.inputs:check_data",
        panels=(MetricPanel("loss", "Loss", x="tokens"),),
    ),
    "prune": Kind(
        config="pretrain.compress.config:PruneConfig",
        run="pretrain.compress.stage:run",
        plan="pretrain.compress.plan:plan_prune",
        about="cut layers and widths of a hybrid by importance, without training",
        version=1,
        inputs="data_mix.inputs:check_data",
    ),
    "distill": Kind(
        config="pretrain.compress.config:DistillConfig",
        run="pretrain.compress.distill:run",
        plan="pretrain.compress.plan:plan_distill",
        about="a student learns the next-token distributions of a teacher",
        version=1,
        inputs="data_mix.inputs:check_data",
        panels=(MetricPanel("loss", "Loss", x="tokens"),),
    ),
}

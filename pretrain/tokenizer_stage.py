"""Stage kind `tokenizer`: learn the vocabulary from the blend."""

from collections.abc import Iterator

from data_mix.config import BlendConfig
from data_mix.documents import trainable
from data_mix.shards import characters
from data_mix.sources import open_source
from model.tokenizer import take_tokenizer, train_tokenizer
from pretrain.config import TokenizerConfig
from workbench.chat import as_text
from workbench.conversation import Conversation
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Train the tokenizer on an equal number of documents of each source, or take one."""
    config: TokenizerConfig = context.config
    if config.from_pretrained:
        folder = context.stage_dir / "tokenizer"
        tokenizer = take_tokenizer(config.from_pretrained, folder, config.revision)
        context.keep(vocab_size=len(tokenizer))
        return
    assert config.blend is not None  # the configuration has exactly one of the two
    context.progress(message="learning the vocabulary")
    texts = _texts(config.blend, config.sample_documents, context.seed)
    tokenizer = train_tokenizer(texts, config.vocab_size, context.stage_dir / "tokenizer")
    context.keep(vocab_size=len(tokenizer))


def _texts(blend: BlendConfig, num_documents: int, seed: int) -> Iterator[str]:
    per_source = max(num_documents // len(blend.sources), 1)
    for name, source in blend.sources.items():
        for document in open_source(source, name=name, seed=seed).take(per_source):
            plain = trainable(document)
            yield characters(as_text(plain) if isinstance(plain, Conversation) else plain)

"""What a stage keeps of its engine."""

from engine.protocol import Engine
from workbench.stage import StageContext


def keep_engine(context: StageContext, engine: Engine) -> None:
    """How it answers."""
    context.keep(engine=engine.describe())
    tell_restarts(context, engine)


def tell_restarts(context: StageContext, engine: Engine) -> None:
    """A warning, once, where an actor of the engine died and was made again."""
    if getattr(engine, "restarts", 0):
        context.warn(
            "an engine died and was made again; its prompts were asked again with their seeds"
        )

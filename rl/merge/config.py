"""Recipe section of the stage kind `merge`. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from workbench import registry
from workbench.errors import UserError
from workbench.recipe import StageConfig
from workbench.schema import StageKeys


class MergeConfig(StageConfig):
    """Stage kind `merge`: (1 - alpha) * the first of `needs` + alpha * the second.

    The paper merges a reasoning-strong and a chat-strong RL checkpoint linearly on all weights,
    sweeps alpha over 0.1 to 0.9 in steps of 0.1, and takes about 0.5.
    """

    kind: Literal["merge"]
    alphas: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], min_length=1
    )
    """Weights of the second model to try. 0 and 1 are the two models themselves, bit for bit."""
    metric: str = "accuracy"
    """Metric of results.json that decides; its mean over all benchmarks below."""
    endpoints: bool = True
    """Measure the two models too, to compare with; they are never picked unless in `alphas`."""
    evals: StageKeys
    """What is measured at each alpha: the keys of a stage of kind `evals`, without kind, needs and
    models. Take other questions than those of the final evaluation: the pick is made on these."""

    @field_validator("alphas")
    @classmethod
    def _rise(cls, alphas: list[float]) -> list[float]:
        if sorted(set(alphas)) != alphas:
            raise ValueError(f"got {alphas}; alphas must rise and none may stand twice")
        return alphas

    @field_validator("evals")
    @classmethod
    def _is_evals(cls, values: dict[str, Any]) -> dict[str, Any]:
        # By name: the evals package stands beside this one, and neither imports the other.
        config = registry.resolve(registry.kind("evals").config)
        try:
            read = config.read({**values, "kind": "evals"}, where="evals")
        except UserError as error:
            raise ValueError(str(error).removeprefix("recipe: ")) from None
        whole: dict[str, Any] = read.model_dump(mode="json")
        return {k: v for k, v in whole.items() if k not in ("kind", "needs", "models", "gpus")}

    def evals_config(self) -> Any:
        """`evals`, as the configuration of a stage of that kind."""
        config = registry.resolve(registry.kind("evals").config)
        return config.read({**self.evals, "kind": "evals"}, where="evals")

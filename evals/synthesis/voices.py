"""The recipe's models as voices: a served model, a stage's, or a checkpoint's."""

from collections.abc import Callable, Mapping
from pathlib import Path

from engine.protocol import Engine, Sampling
from evals.endpoint import EndpointResponder
from evals.responder import LocalResponder, Responder, checkpoint_digest, context_of
from evals.synthesis.config import SynthesizeConfig, Writer
from evals.synthesis.drive import Voice
from workbench.errors import UserError
from workbench.provenance import digest
from workbench.served import ServedModel


def voices_of(
    config: SynthesizeConfig, inputs: Mapping[str, Path]
) -> tuple[dict[str, Voice], dict[str, str], list[str]]:
    """(name -> voice, role -> name, names of the writers). A model that plays two parts is one voice,
    where its settings are the same."""
    voices: dict[str, Voice] = {}
    known: dict[str, str] = {}

    def add(writer: Writer, name: str) -> str:
        key = writer.model_dump_json()
        if key not in known:
            known[key] = name
            voices[name] = voice_of(writer, name, inputs)
        return known[key]

    writers = [add(writer, writer.place) for writer in config.models]
    roles = {
        role: add(writer, f"{writer.place} as {role}") for role, writer in config.roles.items()
    }
    return voices, {str(role): name for role, name in roles.items()}, writers


def voice_of(writer: Writer, name: str, inputs: Mapping[str, Path]) -> Voice:
    """A model and how it is sampled; its engine starts with the first reply that is missing.

    Raises: UserError where a stage has made no model, or a checkpoint is not on this machine.
    """
    sampling = Sampling(
        writer.max_tokens, temperature=writer.temperature, top_p=writer.top_p, logprobs=False
    )
    if writer.endpoint is not None:
        return Voice(
            name, digest({"endpoint": writer.endpoint}), sampling, writer.thinking, _served(writer)
        )
    folder = _folder(writer, inputs)
    identity = digest([checkpoint_digest(folder), writer.engine.dtype])
    return Voice(name, identity, sampling, writer.thinking, _local(writer, folder, identity))


def _served(writer: Writer) -> Callable[[], Responder]:
    def start() -> Responder:
        assert writer.endpoint is not None
        told = {"endpoint": writer.endpoint, "parallel": writer.open_requests}
        more = {"thinking": writer.switch, "api_key_env": writer.api_key_env}
        responder = EndpointResponder(
            writer.endpoint, ServedModel.read({**told, **more}, where="models")
        )
        responder.must_answer()
        return responder

    return start


def _local(writer: Writer, folder: Path, identity: str) -> Callable[[], Responder]:
    def start() -> Responder:
        from engine.remote import start_engine  # noqa: PLC0415 - heavy
        from model.checkpoint import check_files  # noqa: PLC0415 - heavy
        from model.tokenizer import read_tokenizer  # noqa: PLC0415 - heavy

        check_files(folder)

        def engine(longest: int) -> Engine:
            return start_engine(folder, writer.engine)

        return LocalResponder(
            tokenizer=read_tokenizer(folder), identity=identity, start=engine,
            context=min(context_of(folder), writer.engine.max_model_len),
            shortest=writer.engine.max_model_len,
        )  # fmt: skip

    return start


def _folder(writer: Writer, inputs: Mapping[str, Path]) -> Path:
    if writer.stage is not None:
        folder = inputs.get(writer.stage, Path(writer.stage)) / "model"
        if not (folder / "config.json").is_file():
            raise UserError(f"model {writer.place!r}: that stage has made no model")
        return folder
    folder = Path(str(writer.checkpoint)).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model {writer.checkpoint!r} is not a checkpoint folder on this machine; download it and give "
            "the folder, or serve it and give {endpoint: http://host:port/v1#name}"
        )
    return folder

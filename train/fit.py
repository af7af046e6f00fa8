"""Whether the rows of a phase, its objective and its model go together; every refusal names the field."""

from __future__ import annotations

import importlib.util
from typing import Any

from configs.schema import parse
from data.config import TextConfig
from data.conversations import ConversationsConfig, PreferencesConfig
from data.problems import ArithmeticConfig, QuestionsConfig
from data.robots import EpisodesConfig
from model.config import ModelConfig
from train.config import PhaseConfig
from train.objectives import OBJECTIVES
from train.sections import Sections


def options_of(where: str, phase: PhaseConfig) -> dict[str, Any]:
    """The settings that the objective takes besides model, batch and key."""
    module = OBJECTIVES[phase.objective]
    if hasattr(module, "Options"):
        return {"options": parse(module.Options, phase.options, f"{where}.options")}
    if phase.options:
        raise ValueError(f"{where}.options are {phase.options}; objective {phase.objective!r} has none, remove them")
    return {}


def check_fit(where: str, phase: PhaseConfig, sections: Sections) -> None:
    """Raises ValueError where the rows of a phase, its objective and its model do not go together."""
    if phase.quantize is not None and importlib.util.find_spec("qwix") is None:
        raise ValueError(f"{where}.quantize needs the package qwix; install the extra `quantize`")
    model, pipeline, num_embodiments = sections.models[phase.model], phase.pipeline, len(sections.embodiments)
    image = (model.image.height, model.image.width) if model.image else None
    robot = (model.robot.width, model.robot.chunk) if model.robot else None
    if model.num_codes and model.num_codes + model.num_other_codes != sections.vocabulary.num_codes:
        given = f"{model.num_codes}" + (f" + {model.num_other_codes} others" if model.num_other_codes else "")
        raise ValueError(
            f"{where}.model has num_codes {given}, config.vocabulary {sections.vocabulary.num_codes}; make "
            "them equal, or 0 where codes are no numbers in order"
        )
    if pipeline.images and pipeline.image_size != image:
        raise ValueError(
            f"{where}.pipeline.image_size is {pipeline.image_size}, its model takes {image or 'no images'}; make them "
            "equal, or set pipeline.images to 0"
        )
    local = phase.objective == "local_decoder"  # its chunks are of control steps
    if pipeline.vectors and robot and (pipeline.width, robot[1] if local else pipeline.chunk or robot[1]) != robot:
        raise ValueError(
            f"{where}.pipeline width and chunk are {pipeline.width, pipeline.chunk}, its model has {robot}; make them "
            "equal"
        )
    if phase.teacher_store is not None and phase.options.get("temperature", 1) != 1:
        raise ValueError(
            f"{where}.options.temperature is {phase.options['temperature']}, a store holds the teacher at 1; set it to "
            "1, or name a model as teacher"
        )
    if pipeline.vectors and not robot:
        raise ValueError(f"{where}.pipeline.vectors is {pipeline.vectors}, its model takes none; give it `robot`")
    if model.robot and model.robot.num_embodiments != num_embodiments:
        raise ValueError(
            f"{where}.model has robot.num_embodiments {model.robot.num_embodiments}, config.embodiments has "
            f"{num_embodiments}; make them equal"
        )
    if local:
        _check_local_decoder(where, phase, model)
    if phase.objective == "flow" and phase.teacher is None and phase.options.get("alpha", 1) != 1:
        raise ValueError(
            f"{where}.options.alpha is {phase.options['alpha']} and weighs a teacher, of which there is none; name a "
            "teacher or remove it"
        )
    if phase.objective in ("bins", "l1", "flow"):
        if getattr(model, phase.objective) is None:
            raise ValueError(
                f"{where}.objective is {phase.objective!r}, its model has no such head; give "
                f"config.models.{phase.model} the section {phase.objective}"
            )
        if not pipeline.chunk:
            raise ValueError(f"{where}.pipeline.chunk is 0, objective {phase.objective!r} needs actions; set it")
    _check_pairs(where, phase, sections)
    for name in phase.mixture:
        source = sections.sources[name]
        num_slots = 0 if isinstance(source, TextConfig | ArithmeticConfig | QuestionsConfig) else source.num_slots
        if model.image and num_slots not in (0, model.image.num_slots):
            raise ValueError(
                f"config.sources.{name}.num_slots is {num_slots}, the model of {where} makes "
                f"{model.image.num_slots} vectors of an image; make them equal"
            )
        if isinstance(source, EpisodesConfig) and source.continuous and source.chunk != pipeline.chunk:
            raise ValueError(
                f"config.sources.{name}.chunk is {source.chunk}, {where}.pipeline.chunk is {pipeline.chunk}; make them "
                "equal"
            )


def check_teacher(where: str, phase: PhaseConfig, model: ModelConfig, teacher: ModelConfig) -> None:
    """Raises ValueError where a policy cannot learn its velocities from the teacher's; tokens say so themselves."""
    if phase.objective != "flow":
        return
    if teacher.flow is None:
        raise ValueError(
            f"{where}.teacher has no action expert, objective 'flow' learns from one; name a teacher that was trained "
            "with objective 'flow'"
        )
    for field in ("robot", "image"):
        ours, theirs = (_seen_by(config, field) for config in (model, teacher))
        if ours != theirs:
            raise ValueError(
                f"{where}.teacher has {field} {theirs}, the model of this phase {ours}; make them equal, as both see "
                "the same rows"
            )


def _seen_by(model: ModelConfig, field: str) -> Any:
    """What rows hold for this part of a model."""
    part = getattr(model, field)
    return (part.height, part.width, part.num_slots) if part and field == "image" else part


def _check_pairs(where: str, phase: PhaseConfig, sections: Sections) -> None:
    """Rows of pairs hold nothing else, as an objective tells the halves by their place in a row."""
    needs = phase.objective in ("dpo", "reward")
    for name in phase.mixture:
        source = sections.sources[name]
        if isinstance(source, PreferencesConfig) != needs:
            kinds = "preferences alone" if needs else "no preferences; use dpo or reward for them"
            raise ValueError(
                f"{where}.objective is {phase.objective!r}, config.sources.{name} is of kind {source.kind!r}; "
                f"it takes {kinds}"
            )
        talk = isinstance(source, ConversationsConfig | PreferencesConfig)
        if talk and source.num_slots and not phase.pipeline.images:
            raise ValueError(
                f"{where}.pipeline.images is 0, config.sources.{name} has images (num_slots {source.num_slots}); set "
                "images and image_size, or num_slots to 0"
            )
    if phase.objective == "reward" and not sections.models[phase.model].reward:
        raise ValueError(f"{where}.objective is 'reward'; set config.models.{phase.model}.reward to True")


def _check_local_decoder(where: str, phase: PhaseConfig, model: ModelConfig) -> None:
    if model.local_decoder is None or model.robot is None:
        raise ValueError(
            f"{where}.objective is 'local_decoder', its model has none; give config.models.{phase.model} the section "
            "local_decoder"
        )
    if not phase.pipeline.chunk_proprio:
        raise ValueError(f"{where}.pipeline.chunk_proprio is False, a local decoder needs it; set it to True")
    most = model.robot.chunk * model.local_decoder.steps
    if phase.pipeline.chunk > most:
        raise ValueError(
            f"{where}.pipeline.chunk is {phase.pipeline.chunk} control steps, the chunks of its model last {most} "
            "(robot.chunk x local_decoder.steps); make it smaller"
        )

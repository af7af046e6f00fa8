"""Instructions in many wordings. "test" are new sentences made of words that the training ones use; "rephrased" say the
same in other words, "spanish" in another language."""

from __future__ import annotations

import numpy as np

from eval.envs.tabletop.scene import Layout
from eval.envs.tabletop.tasks import Goal

WORDINGS = {
    "train": {
        "reach": (
            "reach the {object}",
            "reach for the {object}",
            "go to the {object}",
            "move to the {object}",
            "move the gripper over the {object}",
            "bring the gripper above the {object}",
            "hold the gripper above the {object}",
            "stop over the {object}",
            "find the {object} and go there",
            "go over to the {colour} object",
            "reach the object that is {colour}",
            "put the gripper over the {colour} {shape} and wait",
        ),
        "push": (
            "push the {object} into the {zone}",
            "push the {object} to the {zone}",
            "push the {object} onto the {zone}",
            "slide the {object} into the {zone}",
            "slide the {object} over to the {zone}",
            "shove the {object} into the {zone}",
            "use the gripper to push the {object} to the {zone}",
            "the {object} belongs in the {zone} so push it there",
            "move the {object} to the {zone} by pushing",
            "push the {colour} object into the {zone}",
            "push the object that is {colour} onto the {zone_colour} area",
            "slide the {object} to the {zone_colour} area",
        ),
        "lift": (
            "lift the {object}",
            "lift up the {object}",
            "pick up the {object}",
            "pick the {object} up",
            "take the {object}",
            "grasp the {object} and lift it",
            "grasp the {object} and hold it up",
            "raise the {object} above the table",
            "raise the {colour} object",
            "lift the object that is {colour}",
        ),
        "stack": (
            "stack the {object} on the {support}",
            "put the {object} on the {support}",
            "put the {object} on top of the {support}",
            "place the {object} on the {support}",
            "pick up the {object} and place it on the {support}",
            "set the {object} on top of the {support}",
            "stack the {colour} object on the {support_colour} object",
            "take the {object} and put it on the {support}",
        ),
        "sort": (
            "sort the objects by colour",
            "sort all objects into the zones of their colour",
            "put every object into the zone of its colour",
            "place each object in the zone that has its colour",
            "move every object to its zone",
            "match the objects and the zones by colour",
            "bring each object to the area of its colour",
        ),
    },
    "test": {
        "reach": (
            "bring the gripper to the {object}",
            "go and stop above the {object}",
            "move over to the {colour} {shape}",
            "find the {colour} object and reach it",
        ),
        "push": (
            "shove the {object} over to the {zone}",
            "use the gripper to slide the {object} onto the {zone}",
            "push the {object} over into the {zone_colour} area",
            "the {colour} {shape} belongs in the {zone} so slide it there",
        ),
        "lift": (
            "take the {object} and raise it",
            "pick up the object that is {colour}",
            "grasp the {object} and hold it above the table",
        ),
        "stack": (
            "set the {object} on the {support}",
            "lift the {object} and place it on top of the {support}",
            "take the {colour} object and stack it on the {support}",
        ),
        "sort": (
            "sort every object by its colour",
            "bring all objects into the zones that match their colour",
            "place every object in the area of its colour",
        ),
    },
    "rephrased": {
        "reach": (
            "hover over the {object}",
            "guide your hand towards the {object} and stay there",
            "get as close as you can to the {colour} one",
        ),
        "push": (
            "nudge the {object} until it sits inside the {zone}",
            "get the {object} across to the {zone} without lifting",
            "the {zone} is where the {object} should end up",
        ),
        "lift": (
            "hoist the {object}",
            "grab the {colour} {shape} and carry it upwards",
            "let me see the {object} in the air",
        ),
        "stack": (
            "build a tower with the {object} above the {support}",
            "balance the {object} upon the {support}",
            "the {support} should carry the {object}",
        ),
        "sort": (
            "tidy up so that colours agree",
            "everything goes where its own colour is",
            "group these items with the matching circles",
        ),
    },
    "spanish": {
        "reach": ("lleva la pinza hasta el {object}", "acércate al {object}", "ve al {object} y espera"),
        "push": (
            "empuja el {object} a la {zone}",
            "lleva el {object} hasta la {zone}",
            "desliza el {object} a la {zone}",
        ),
        "lift": ("levanta el {object}", "coge el {object}", "alza el {object} de la mesa"),
        "stack": ("pon el {object} sobre el {support}", "apila el {object} en el {support}"),
        "sort": ("ordena los objetos por color", "pon cada objeto en la zona de su color"),
    },
}

# Names of shapes and zones, and of colours as each of them takes them; English where a wording is not here.
NAMES = {
    "spanish": {
        "shape": {"cube": "cubo", "cylinder": "cilindro", "disc": "disco"},
        "colour": {
            "red": "rojo", "green": "verde", "blue": "azul", "yellow": "amarillo", "purple": "morado", "cyan": "cian",
        },
        "zone": {
            "red": "zona roja", "green": "zona verde", "blue": "zona azul", "yellow": "zona amarilla",
            "purple": "zona morada", "cyan": "zona cian",
        },
    },
}  # fmt: skip


def instruction(rng: np.random.Generator, wording: str, task: str, layout: Layout, goal: Goal) -> str:
    """One sentence for an episode, drawn from a wording of `WORDINGS`."""
    sentences = WORDINGS[wording][task]
    sentence = sentences[rng.integers(len(sentences))]
    return sentence.format(**_words(NAMES.get(wording), layout, goal))


def _words(names: dict[str, dict[str, str]] | None, layout: Layout, goal: Goal) -> dict[str, str]:
    """What the braces of a sentence stand for."""
    target, support = layout.objects[goal.target], layout.objects[goal.support]
    zone = layout.zones[goal.zone] if layout.zones else None
    if names is None:
        words = {"object": target.name, "support": support.name}
        words |= {"colour": target.colour, "shape": target.shape, "support_colour": support.colour}
        return words | ({"zone": zone.name, "zone_colour": zone.colour} if zone else {})
    named = lambda item: f"{names['shape'][item.shape]} {names['colour'][item.colour]}"  # noqa: E731
    words = {"object": named(target), "support": named(support)}
    return words | ({"zone": names["zone"][zone.colour]} if zone else {})

"""What OGBench's robot is asked for. Places of cubes are shown by their marks, translucent cubes of the same colour.

The held-out wordings are new sentences made of words that the training ones use.
"""

_CUBE = (
    "move the {colour} cube to its mark",
    "pick up the {colour} cube and put it on its mark",
    "put the {colour} cube where its mark is",
    "bring the {colour} cube to its mark",
    "take the {colour} cube and move it where its mark is",
)
_BOTH = (
    "put both cubes on their marks",
    "move the cubes to their marks",
    "bring every cube to its mark",
    "move both cubes to their marks",
)
_SINGLE = {f"cube-single-task{i}": _CUBE for i in range(1, 6)}
_DOUBLE = {"cube-double-task1": _CUBE} | {f"cube-double-task{i}": _BOTH for i in range(2, 6)}
_SCENE = {
    "scene-task1": (
        "open the drawer and the window",
        "pull the drawer open and slide the window open",
        "open both the drawer and the window",
        "slide the window open and open the drawer",
    ),
    "scene-task2": (
        "close the drawer and the window and lock both",
        "unlock the drawer and the window, close them and press both buttons again",
        "push the drawer shut, close the window and lock them",
        "close the window and the drawer and lock them",
    ),
    "scene-task3": (
        "open the drawer, close the window and put the cube on its mark",
        "put the cube on its mark, pull the drawer open and slide the window shut",
        "move the cube to its mark, close the window and open the drawer",
        "close the window, move the cube to its mark and pull the drawer open",
    ),
    "scene-task4": (
        "put the cube into the drawer and close it",
        "unlock the drawer, put the cube in it and push it shut",
        "pick up the cube, put it into the drawer and close the drawer",
        "unlock the drawer, pick up the cube, put it in and close it",
    ),
    "scene-task5": (
        "put the cube into the closed drawer, open the window and lock both",
        "put the cube into the drawer and close it, slide the window open and press both buttons again",
        "put the cube in the drawer, close it, open the window and lock the drawer and the window",
        "put the cube into the drawer, open the window and lock both again",
    ),
    "scene-button": (
        "press the {side} button",
        "push the {side} button down",
        "push down the button on the {side}",
        "press the button on the {side}",
    ),
    "scene-drawer": (
        "{verb} the drawer",
        "{verb} the drawer by its handle",
        "take the handle and {verb} the drawer",
        "take the drawer by its handle and {verb} it",
    ),
    "scene-window": (
        "{verb} the window",
        "{verb} the window by its handle",
        "take the handle and {verb} the window",
        "take the window by its handle and {verb} it",
    ),
}

WORDINGS = {
    task: {"train": sentences[:-1], "test": sentences[-1:]}
    for task, sentences in {
        "cube-single": _CUBE,
        "cube-double": _CUBE,
        "scene-cube": _CUBE,
        **_SCENE,
        **_SINGLE,
        **_DOUBLE,
    }.items()
}

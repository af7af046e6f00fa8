"""What Fetch's tasks ask for. The held-out wordings are new sentences made of words that the training ones use."""

WORDINGS = {
    "reach": {
        "train": ("reach the red ball", "move the gripper to the red ball", "bring the gripper to the red mark"),
        "test": ("move to the red ball with the gripper", "reach the red mark"),
    },
    "push": {
        "train": (
            "push the block to the red ball",
            "slide the black block across the table to the red mark with the gripper",
            "push the black block to the red mark",
        ),
        "test": ("slide the block to the red ball", "push the black block across the table to the red ball"),
    },
    "slide": {
        "train": (
            "hit the puck so that it slides to the red ball",
            "slide the black puck across the table to the red mark",
            "push the puck so that it stops at the red mark",
        ),
        "test": ("slide the puck to the red ball", "hit the black puck so that it stops at the red ball"),
    },
    "pick-and-place": {
        "train": (
            "pick up the block and bring it to the red ball",
            "lift the black block and hold it at the red mark",
            "take the block to the red mark",
        ),
        "test": ("pick up the black block and hold it at the red ball", "lift the block to the red mark"),
    },
}

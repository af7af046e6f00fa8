"""What ALOHA's tasks ask for. The held-out wordings are new sentences made of words that the training ones use."""

WORDINGS = {
    "transfer-cube": {
        "train": (
            "pick up the cube with the right arm and hand it to the left arm",
            "hand the red cube over to the left arm",
            "pass the cube from the right to the left gripper",
        ),
        "test": (
            "pass the red cube from the right arm to the left arm",
            "pick up the red cube and hand it over to the left gripper",
        ),
    },
    "insertion": {
        "train": (
            "insert the red peg into the blue socket",
            "pick up the peg and the socket and put the peg into the socket",
            "put the peg into the socket in the air",
        ),
        "test": (
            "insert the peg into the socket in the air",
            "pick up the red peg and the blue socket and insert the peg",
        ),
    },
}

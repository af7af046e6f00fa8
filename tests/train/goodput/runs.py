"""Event files of made-up runs."""

import json


def line(time, kind, seconds, **fields):
    return json.dumps({"time": time, "kind": kind, "seconds": seconds, **fields})


def steps(time, seconds, first, last, data=0.0, blocked=0.0):
    return line(time, "steps", seconds, first=first, last=last, data=data, blocked=blocked)


def write_run(folder):
    """A run of 40 steps of a second each, in 102 seconds: killed after step 27, goes on after step 20."""
    first = [
        line(1005, "start", 5, pid=1, processes=2),
        line(1008, "state", 3, step=0),
        line(1012, "compile", 4, step=1),
        steps(1022, 10, 1, 10, data=2),
        line(1023, "checkpoint", 1, step=10),
        steps(1033, 10, 11, 20),
        line(1034, "checkpoint", 1, step=20),
        steps(1041, 7, 21, 27),
        '{"time": 1042, "ki',  # cut off by the kill
    ]
    second = [
        line(1061, "start", 6, pid=2, processes=2),
        line(1065, "state", 4, step=20),
        line(1069, "compile", 4, step=21),
        steps(1089, 20, 21, 40, blocked=12),
        line(1094, "evaluation", 5, step=40),
        line(1101, "checkpoint", 7, step=40),
        line(1102, "end", 1),
    ]
    events = folder / "pretrain" / "events"
    events.mkdir(parents=True)
    (events / "0.jsonl").write_text("\n".join([*first, "", *second]) + "\n")
    slow = [second[0], second[1], second[2], steps(1089, 20, 21, 40, blocked=2), second[-1]]
    (events / "1.jsonl").write_text("\n".join(slow) + "\n")

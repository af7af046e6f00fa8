"""Records episodes of simulated robots as LeRobotDataset v3.0, one dataset a robot.

    python -m eval.rollout --suite metaworld --tasks reach-v3 push-v3 --episodes 50 --out data/demos --processes 8
    python -m eval.rollout --suite metaworld --tasks reach-v3 --episodes 50 --out data/own --policy runs/mw/specialise

Without `--policy` a scripted expert acts. Episodes go to OUT/robot with the features `observation.images.CAMERA`,
`observation.state`, `action` (what the expert meant to do, without the disturbance), `next.success` and, of robots that
have one, `annotation.plan` (see `Environment.plan`); all sentences to OUT/instructions.txt. What is recorded depends on
the seed and not on the number of processes; seeds of evaluation episodes are refused.
"""

from __future__ import annotations

import argparse
import dataclasses

from eval.envs import registry
from eval.envs.registry import SUITES
from eval.rollout.collect import progress
from eval.rollout.play import Job, Scene
from eval.rollout.record import jobs_of, rollout


def main() -> None:
    args = _arguments()
    suite = registry.check(
        args.suite, args.tasks or (), args.robots or (), args.wording, args.cameras or (), args.image_size
    )
    cameras = tuple(args.cameras) if args.cameras else suite.cameras[:1]
    scene = Scene(args.suite, "", "", args.wording, cameras, args.image_size or suite.image_size)
    tasks, robots = args.tasks or list(suite.tasks), args.robots or list(suite.robots)
    names = ("seed", "noise", "hold", "anywhere", "skip", "steps", "policy", "execute")
    settings = {name: getattr(args, name) for name in names}
    jobs = jobs_of(scene, tasks, robots, **settings)
    with progress("episodes", args.episodes * len(tasks) * len(robots)) as on_progress:
        summary = rollout(args.out, jobs, args.episodes, args.processes, args.keep_failures, on_progress)
    for name, count in summary.episodes.items():
        print(f"{name}: {count.successes} of {count.attempts} attempts succeeded, {count.frames} frames")
    frames = sum(count.frames for count in summary.episodes.values())
    print(f"{frames} frames in {summary.seconds:.1f} s, {frames / summary.seconds:.0f} a second")


def _arguments() -> argparse.Namespace:
    defaults = {field.name: field.default for field in dataclasses.fields(Job)}
    parser = argparse.ArgumentParser(prog="python -m eval.rollout", description="Records episodes of simulated robots.")
    parser.add_argument("--suite", required=True, choices=list(SUITES))
    parser.add_argument("--out", required=True, help="folder for the datasets, one a robot")
    parser.add_argument("--tasks", nargs="+", help="all of the suite unless given")
    parser.add_argument("--robots", nargs="+", help="all of the suite unless given")
    parser.add_argument("--episodes", type=int, default=50, help="of every task and robot")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode of each task")
    parser.add_argument("--wording", default="train", help="sentences that the robot is told: train or test")
    parser.add_argument("--cameras", nargs="+", help="the first of the suite unless given")
    parser.add_argument("--image-size", type=int, help="pixels a side; the suite's usual unless given")
    parser.add_argument("--noise", type=float, default=0.0, help="largest disturbance, in the units of the actions")
    parser.add_argument("--hold", type=int, default=0, help="steps recorded after success")
    parser.add_argument("--anywhere", action="store_true", help="robots start anywhere, as in the midst of a task")
    parser.add_argument("--skip", type=int, default=0, help="0 to so many steps of the expert, drawn, go unrecorded")
    parser.add_argument(
        "--steps", type=int, help="control steps of an episode, at most; as the task has it if not given"
    )
    parser.add_argument("--policy", help="checkpoint that acts in place of the expert")
    parser.add_argument("--execute", type=int, default=defaults["execute"], help="control steps of each chunk")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep-failures", action="store_true", help="write failed episodes too")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None

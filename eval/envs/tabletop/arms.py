"""Three arms as data: 5, 6 and 7 revolute joints of capsules, each with the same parallel gripper.

At zero every arm stands straight up. A joint turns about an axis of its own frame and is followed by a link along that
frame's z axis; the chain ends in a hand whose z axis is the pointing direction. The hand is worked pointing down.
"""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np

ARM_ROOT = "base"  # the first body of an arm
ARM_GROUP = 2  # geom group of everything that belongs to the arm
AXES = {"y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}

FINGER_TRAVEL = 0.038  # metres each finger moves from closed to open
FINGER_HALF = (0.018, 0.011, 0.035)  # closed, the two fingers are a paddle of 3.6 x 4.4 cm
FINGER_COLOUR = (1.0, 0.5, 0.1, 1.0)  # orange, which no object is
TIP_OFFSET = 0.140  # last joint to fingertip, metres

JOINT_BANDWIDTH = 45.0  # rad/s: a target 0.1 s away is reached to within 6 %


@dataclasses.dataclass(frozen=True)
class Joint:
    """A revolute joint and the link after it: length in metres, range and rest posture in radians."""

    name: str
    axis: str
    link: float
    rest: float
    limits: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm: its joints from the base up, where it stands on the table, and how it looks."""

    joints: tuple[Joint, ...]
    base: tuple[float, float, float]
    radius: float
    grey: float

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Absolute joint targets in radians, then the gripper opening (0 closed, 1 open)."""
        return (*(joint.name for joint in self.joints), "gripper")

    @property
    def proprio_names(self) -> tuple[str, ...]:
        """Joint positions in radians, gripper opening, fingertip position on the table in metres."""
        return (*self.action_names, "tip_x", "tip_y", "tip_z")


TURN, PITCH, ELBOW, ROLL = (-2.9, 2.9), (-1.6, 1.9), (0.1, 2.9), (-2.0, 2.0)

ARMS = {
    "arm5": Arm(
        joints=(
            Joint("yaw", "z", 0.22, 0.0, TURN),
            Joint("shoulder", "y", 0.40, 0.0, PITCH),
            Joint("elbow", "y", 0.38, 1.9, ELBOW),
            Joint("wrist", "y", 0.05, 1.2, PITCH),
            Joint("turn", "z", 0.0, 0.0, TURN),
        ),
        base=(-0.46, 0.0, 0.0),
        radius=0.018,
        grey=0.30,
    ),
    "arm6": Arm(
        joints=(
            Joint("yaw", "z", 0.26, 0.0, TURN),
            Joint("shoulder", "y", 0.42, 0.0, PITCH),
            Joint("elbow", "y", 0.20, 1.9, ELBOW),
            Joint("forearm", "z", 0.20, 0.0, ROLL),
            Joint("wrist", "y", 0.06, 1.2, PITCH),
            Joint("turn", "z", 0.0, 0.0, TURN),
        ),
        base=(-0.48, 0.0, 0.0),
        radius=0.020,
        grey=0.42,
    ),
    "arm7": Arm(
        joints=(
            Joint("yaw", "z", 0.24, 0.0, TURN),
            Joint("shoulder", "y", 0.20, 0.0, PITCH),
            Joint("upper", "z", 0.20, 0.0, ROLL),
            Joint("elbow", "y", 0.20, 1.9, ELBOW),
            Joint("forearm", "z", 0.20, 0.0, ROLL),
            Joint("wrist", "y", 0.05, 1.2, PITCH),
            Joint("turn", "z", 0.0, 0.0, TURN),
        ),
        base=(-0.46, 0.0, 0.0),
        radius=0.016,
        grey=0.54,
    ),
}


def add_arm(spec: mujoco.MjSpec, arm: Arm) -> None:
    """Adds joints, links, gripper, the site "tip" and one position actuator per joint and finger to `spec`."""
    spec.compiler.degree = False
    body = spec.worldbody.add_body(name=ARM_ROOT, pos=arm.base)
    for joint in arm.joints:
        body = body.add_body(name=joint.name, gravcomp=1)
        # A geared motor: its reflected inertia outweighs the light links, so tracking hardly depends on the posture.
        inertia = 0.05 if joint.axis == "z" and joint.link == 0 else 0.3
        body.add_joint(name=joint.name, axis=AXES[joint.axis], range=joint.limits, limited=True, armature=inertia)
        if joint.link:
            _add_capsule(body, arm, joint.link)
            body = body.add_body(pos=(0, 0, joint.link))
        _add_servo(spec, joint.name, inertia, JOINT_BANDWIDTH)
    _add_gripper(spec, body, arm)


def _add_capsule(body: mujoco.MjsBody, arm: Arm, length: float) -> None:
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=(0, 0, 0, 0, 0, length),
        size=(arm.radius, 0, 0),
        rgba=(arm.grey, arm.grey, arm.grey, 1),
        group=ARM_GROUP,
        density=200,
        contype=0,
        conaffinity=0,
    )


def _add_servo(spec: mujoco.MjSpec, joint: str, inertia: float, bandwidth: float, max_force: float = 0.0) -> None:
    """Critically damped position control of a joint whose inertia is mostly its motor's."""
    stiffness, damping = inertia * bandwidth**2, 2 * inertia * bandwidth
    actuator = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.set_to_position(kp=stiffness, kv=damping)
    if max_force:
        actuator.forcerange, actuator.forcelimited = (-max_force, max_force), True


def _add_gripper(spec: mujoco.MjSpec, wrist: mujoco.MjsBody, arm: Arm) -> None:
    hand = {"type": mujoco.mjtGeom.mjGEOM_BOX, "group": ARM_GROUP, "density": 300}
    # Fingers and palm touch objects (whose conaffinity is 1) and nothing else.
    touch = {"contype": 1, "conaffinity": 0, "friction": (1.5, 0.01, 0.001)}
    dark, knuckle_z = (0.08, 0.08, 0.09, 1), TIP_OFFSET - 2 * FINGER_HALF[2]
    wrist.add_geom(pos=(0, 0, knuckle_z - 0.007), size=(0.012, 0.046, 0.007), rgba=dark, **hand, **touch)
    wrist.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=(0, 0, 0, 0, 0, knuckle_z), size=(arm.radius, 0, 0),
        rgba=(arm.grey, arm.grey, arm.grey, 1), group=ARM_GROUP, density=200, contype=0, conaffinity=0,
    )  # fmt: skip
    wrist.add_site(name="tip", pos=(0, 0, TIP_OFFSET))
    for name, side in (("left", 1.0), ("right", -1.0)):
        finger = wrist.add_body(name=name, pos=(0, side * FINGER_HALF[1], knuckle_z + FINGER_HALF[2]), gravcomp=1)
        finger.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, side, 0), armature=0.3,
            range=(0, FINGER_TRAVEL), limited=True,
        )  # fmt: skip
        finger.add_geom(size=FINGER_HALF, rgba=FINGER_COLOUR, **hand, **touch)
        _add_servo(spec, name, 0.3, 35.0, max_force=12.0)


def opening_to_travel(opening: float) -> float:
    """Gripper opening in [0, 1] to the position of each finger in metres."""
    return float(np.clip(opening, 0.0, 1.0)) * FINGER_TRAVEL


def weaken(model: mujoco.MjModel, arm: str, share: float) -> None:
    """Lets the joints' motors follow their targets with `share` of their bandwidth, damped as before."""
    for joint in ARMS[arm].joints:
        servo = model.actuator(joint.name)
        servo.gainprm[0] *= share**2
        servo.biasprm[1] *= share**2
        servo.biasprm[2] *= share

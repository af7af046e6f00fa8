"""LeRobotDataset: v3.0 written and read, v2.1 read, with pyarrow and PyAV alone."""

from data.lerobot.png import decode_png, encode_png
from data.lerobot.reader import LeRobotDataset
from data.lerobot.writer import LeRobotWriter

__all__ = ["LeRobotDataset", "LeRobotWriter", "decode_png", "encode_png"]

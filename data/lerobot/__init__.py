"""LeRobotDataset: v3.0 and v2.1 written and read, v2.0 read, with pyarrow and PyAV alone."""

from data.lerobot.png import decode_png, encode_png
from data.lerobot.reader import LeRobotDataset
from data.lerobot.writer import LeRobotWriter
from data.lerobot.writer_v21 import LeRobotWriterV21

__all__ = ["LeRobotDataset", "LeRobotWriter", "LeRobotWriterV21", "decode_png", "encode_png"]

"""Episodes as animated GIFs, a readable choice of them, each with what was asked and how it went."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from eval.report.charts import data_address
from eval.report.load import Episode

MAX_VIDEOS = 12
MAX_FRAMES = 60
SECONDS = 4.0  # a loop's length, without the pause at its end
PAUSE_MS = 1200
COLOURS = 96
SIDE = 128  # pixels that smaller frames are enlarged to by interpolation; the page enlarges the rest


def video_cards(episodes: Sequence[Episode]) -> str:
    return "".join(_card(episode) for episode in choose(episodes))


def choose(episodes: Sequence[Episode], count: int = MAX_VIDEOS) -> list[Episode]:
    """Up to `count` episodes: every task's successes and failures in turn, over as many arms as there are."""
    groups: dict[tuple[str, bool], list[Episode]] = {}
    for episode in episodes:
        groups.setdefault((episode.task, episode.success), []).append(episode)
    for key, group in groups.items():
        groups[key] = _alternate_arms(group)
    order = [task for task, _ in groups]
    longest = max((len(group) for group in groups.values()), default=0)
    turns = [group[i] for i in range(longest) for group in groups.values() if i < len(group)]
    return sorted(turns[:count], key=lambda episode: (order.index(episode.task), not episode.success))


def gif(frames: np.ndarray) -> bytes:
    """An endless animation of uint8[n,H,W,3] with one palette for all frames, so that still pixels stay still."""
    frames = frames[np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int)]
    scale = max(1, SIDE // frames.shape[2])
    size = (frames.shape[2] * scale, frames.shape[1] * scale)
    images = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
    palette = Image.fromarray(np.concatenate(frames)).quantize(COLOURS)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [max(round(1000 * SECONDS / len(images)), 40)] * len(images)
    times[-1] += PAUSE_MS
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)
    return file.getvalue()


def _card(episode: Episode) -> str:
    kind, word = ("good", "success") if episode.success else ("bad", "failure")
    source = data_address("image/gif", gif(episode.frames))
    about = (episode.task, episode.arm, *([] if episode.condition == "normal" else [episode.condition]))
    return (
        f'<figure class="video"><img src="{source}" alt="{html.escape(episode.instruction)}: {word}">'
        f'<figcaption><p>“{html.escape(episode.instruction)}”</p><p class="{kind}">{word}</p>'
        f'<p class="quiet">{html.escape(" · ".join(about))}</p></figcaption></figure>'
    )


def _alternate_arms(episodes: list[Episode]) -> list[Episode]:
    """The same episodes, each arm's first one before any arm's second."""
    seen: dict[str, int] = {}
    turn = []
    for episode in episodes:
        seen[episode.arm] = seen.get(episode.arm, 0) + 1
        turn.append(seen[episode.arm])
    return [episode for _, episode in sorted(zip(turn, episodes, strict=True), key=lambda pair: pair[0])]

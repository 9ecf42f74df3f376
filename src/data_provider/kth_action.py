"""KTHAction: clips of the KTH Actions data set, read from a tree of frames or from the videos themselves.

    root/<action>/personNN_<action>_dD_uncomp/image_0001.jpg ...    (scripts/prepare_kth.py makes it)
    root/<action>/personNN_<action>_dD_uncomp.avi

Persons 01-16 train, 17-25 test; some of those who train may be kept out for validation. Only names are read at the
start; a frame is decoded when its clip is asked for. Of videos the frames are those of root/00sequences.txt, as in a
prepared tree; without that list all of them.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from src.config import Config
from src.data_provider.clips import (
    DEFAULT_CACHE,
    ClipDataset,
    Recording,
    nearby_root,
    numbered_pictures,
    recording_of_video,
)
from src.data_provider.kth_sequences import (
    ACTIONS,
    FRAME_NAME,
    PICTURE_SUFFIXES,
    SEQUENCES_FILE,
    Ranges,
    frame_numbers,
    read_sequences,
    recording_of,
)
from src.data_provider.videos import is_video
from src.errors import UserError
from src.flag_values import TRAINING_PERSONS

# Frames from the end of one clip of a recording back to the end of the next. A person crosses the picture in a few
# frames when jogging or running, so clips of these overlap; those of the other actions do not.
CLIP_STRIDE = {"jogging": 3, "running": 3}
TEST_PERSONS = range(17, 26)
MODES = ("train", "valid", "test")
PERSON_DIGITS = slice(6, 8)  # personNN_...


class KTHAction(ClipDataset):
    """Clips of KTH; ``dataset[i]`` is float32 ``[T, H, W, 1]``, luminance in [0, 1].

    Args:
        root: folder that holds the folders of the six actions (some may be missing).
        mode: "train" (persons 01-16 but those of validation), "valid" (those) or "test" (persons 17-25).
        seq_length: frames of a clip.
        img_width: frames are resized to img_width x img_width pixels.
        cache_bytes: memory for decoded videos.
        validation: persons of 01-16 that are kept out of training.

    Raises:
        UserError: no KTH folders in root, no recordings of the mode's persons, no clip long enough; and what
            :class:`ClipDataset` raises.
    """

    def __init__(
        self,
        root: str,
        mode: str,
        seq_length: int,
        img_width: int,
        cache_bytes: int = DEFAULT_CACHE,
        validation: Collection[int] = (),
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be train, valid or test, got {mode!r}")
        self.root, self.mode = str(root), mode
        train = [person for person in TRAINING_PERSONS if person not in validation]
        self.persons = {"train": train, "valid": validation, "test": TEST_PERSONS}[mode]
        recordings = _find_recordings(self.root, self.persons)
        super().__init__(recordings, seq_length, img_width, strides=CLIP_STRIDE, cache_bytes=cache_bytes)
        if not self.clips:
            raise UserError(self._why_no_clip())

    @classmethod
    def from_config(cls, config: Config, paths: str, mode: str) -> KTHAction:
        """The clips of a run's flags; ``paths`` is the root."""
        return cls(paths, mode, config.total_length, config.img_width, config.cache_bytes, config.validation)

    @property
    def actions(self) -> list[str]:
        """The action of each clip."""
        return [clip.category for clip in self.clips]

    def _why_no_clip(self) -> str:
        if not self.recordings:
            unread = _unread_picture(self.root, self.persons)
            if unread:
                return (
                    f"{self.root}: {unread} is not read; names are read as image_0001.jpg: image, a number, and "
                    f".{', .'.join(PICTURE_SUFFIXES)}; rename the frames (--dataset_name folder reads other names)"
                )
            numbers = [f"{person:02d}" for person in self.persons]
            persons = ", ".join(numbers) if self.mode == "valid" else f"{numbers[0]} to {numbers[-1]}"
            return (
                f"{self.root}: nothing of the persons {persons} that {self.mode} uses (folders "
                "personNN_<action>_dD* with frames image_0001.jpg ..., or videos of that name); check the tree"
            )
        longest, path = self.longest_run()
        return (
            f"{self.root}: no clip of {self.seq_length} consecutive frames for {self.mode}; the longest run is "
            f"{longest}, in {path}; lower --total_length or prepare longer recordings"
        )


def _find_recordings(root: str, persons: Collection[int]) -> list[Recording]:
    try:
        actions = [action for action in ACTIONS if os.path.isdir(os.path.join(root, action))]
        if not actions:
            raise UserError(_why_no_action(root))
        sequences = None
        recordings = []
        for action in actions:
            folder = os.path.join(root, action)
            names = sorted(os.listdir(folder))
            for name in names:
                if not _is_of(persons, name):
                    continue
                path = os.path.join(folder, name)
                if os.path.isdir(path):
                    recording = numbered_pictures(path, action, FRAME_NAME)
                elif is_video(name) and os.path.splitext(name)[0] not in names:  # its frames are not there
                    if sequences is None:
                        sequences = _sequences_of(root)
                    recording = _video(path, action, sequences)
                else:
                    continue
                if recording is not None and recording.frames:
                    recordings.append(recording)
        return recordings
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check the data set's folder") from None


def _is_of(persons: Collection[int], name: str) -> bool:
    person = name[PERSON_DIGITS]
    return person.isdecimal() and int(person) in persons


def _unread_picture(root: str, persons: Collection[int]) -> str | None:
    """A picture in the folder of a recording whose name is not one of a frame."""
    for action in ACTIONS:
        for path, _, names in sorted(os.walk(os.path.join(root, action))):
            for name in sorted(names):
                if _is_of(persons, os.path.basename(path)) and name.lower().endswith(PICTURE_SUFFIXES):
                    return os.path.join(path, name)
    return None


def _sequences_of(root: str) -> dict[str, Ranges]:
    """The list in the root; empty where it has none."""
    path = os.path.join(root, SEQUENCES_FILE)
    return read_sequences(path) if os.path.exists(path) else {}


def _video(path: str, action: str, sequences: dict[str, Ranges]) -> Recording | None:
    """The frames of one video, None where the list has none of it."""
    found = recording_of(os.path.splitext(os.path.basename(path))[0])
    if found is None:
        return None
    if not sequences:
        return recording_of_video(path, action)
    numbers = frame_numbers(sequences.get(found[0], []))
    return recording_of_video(path, action, numbers) if numbers else None


def _why_no_action(root: str) -> str:
    if not os.path.isdir(root):
        return f"{root}: not a folder; give the folder that holds {', '.join(ACTIONS)}"
    right = nearby_root(root, ACTIONS)
    if right:
        return f"{root}: none of the folders {', '.join(ACTIONS)} is in it, but {right} holds them; give {right}"
    videos = sorted(name for name in os.listdir(root) if is_video(name) or name.lower().endswith(".zip"))
    if videos:
        return (
            f"{root}: holds videos ({videos[0]}), expected the folders {', '.join(ACTIONS)}; put the videos into "
            "these, or make frames of them with scripts/prepare_kth.py --videos DIR --out DIR (see docs/data.md)"
        )
    return (
        f"{root}: none of the folders {', '.join(ACTIONS)} is in it; give the root of the KTH frame tree "
        "(scripts/make_sample_data.py makes a small one)"
    )

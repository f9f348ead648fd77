"""The sounds of training, as the feature extractor makes them.

Shape legend: M mel bins (128), F mel frames of 10 ms.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from deployments.demo.synth.sounds import Sound, random_sound, waveform


@dataclass(frozen=True, slots=True)
class Audible:
    """A sound and its log-mel features."""

    sound: Sound
    mel_MF: NDArray[np.float16]


def random_audible(rng: np.random.Generator, extractor: WhisperFeatureExtractor) -> Audible:
    """Draw and transform; half of them last up to eight seconds, like the sound track of a clip."""
    sound = random_sound(rng, beeps=int(rng.choice([1, 2, 3, 3, 4, 4])))
    if rng.random() < 0.5:
        longest = max(sound.duration_s, 0.8)
        sound = random_sound(
            rng, sound.pitch, sound.beeps, float(rng.uniform(max(0.8, 0.35 * sound.beeps), longest + 4))
        )
    rate_hz = extractor.sampling_rate
    wave = waveform(sound, rate_hz, rng)
    # Half a second of silence stands for the extractor's padding, which it would compute to thirty seconds.
    padded = np.concatenate((wave, np.zeros(rate_hz // 2, np.float32)))
    features = extractor(padded, sampling_rate=rate_hz, padding="longest", return_tensors="np")["input_features"][0]
    frames = -(-len(wave) // extractor.hop_length)
    return Audible(sound, features[:, :frames].astype(np.float16))

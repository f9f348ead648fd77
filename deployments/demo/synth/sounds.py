"""What a sound plays: one to four beeps, all high or all low; and its waveform."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Pitch(StrEnum):
    HIGH = "high"
    LOW = "low"


HZ: dict[Pitch, tuple[float, float]] = {Pitch.HIGH: (900.0, 1700.0), Pitch.LOW: (180.0, 400.0)}
MAX_BEEPS = 4


@dataclass(frozen=True, slots=True)
class Sound:
    """Equal beeps with equal pauses between them; silence before and after."""

    pitch: Pitch
    beeps: int
    hz: float
    beep_s: float
    pause_s: float
    lead_s: float
    """Silence before the first beep."""
    duration_s: float
    """Of all, silence included."""
    level: float
    """Peak, 0 to 1."""
    overtone: float
    """Strength of the octave above, as a share of the tone itself."""
    noise: float
    """Standard deviation of the hiss below it all."""


def random_sound(
    rng: np.random.Generator,
    pitch: Pitch | None = None,
    beeps: int | None = None,
    duration_s: float | None = None,
) -> Sound:
    """Draw a sound; what is given is kept, as long as the beeps fit: 0.35 s each are enough."""
    pitch = pitch or Pitch(rng.choice(list(Pitch)))
    beeps = beeps or int(rng.integers(1, MAX_BEEPS + 1))
    # A lone beep may be a long tone.
    beep_s = float(rng.uniform(0.12, 0.9) if beeps == 1 else rng.uniform(0.12, 0.32))
    pause_s = float(rng.uniform(0.14, 0.4))
    played_s = beeps * beep_s + (beeps - 1) * pause_s
    if duration_s is None:
        duration_s = played_s + float(rng.uniform(0.2, 1.8))
    elif played_s > 0.95 * duration_s:
        shrink = 0.95 * duration_s / played_s
        beep_s, pause_s, played_s = beep_s * shrink, pause_s * shrink, played_s * shrink
    return Sound(
        pitch=pitch,
        beeps=beeps,
        hz=float(np.exp(rng.uniform(*np.log(HZ[pitch])))),
        beep_s=beep_s,
        pause_s=pause_s,
        lead_s=float(rng.uniform(0, min(1.0, duration_s - played_s))),
        duration_s=duration_s,
        level=float(rng.uniform(0.15, 0.9)),
        overtone=float(rng.uniform(0, 0.3)),
        noise=float(rng.choice([0.0, 0.0, 0.001, 0.003])),
    )


def waveform(sound: Sound, rate_hz: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Mono samples (duration_s * rate_hz,) within -1 and 1; `rng` makes the hiss."""
    wave = rng.normal(0, 1, round(sound.duration_s * rate_hz)).astype(np.float32) * np.float32(sound.noise)
    time_s = np.arange(round(sound.beep_s * rate_hz), dtype=np.float32) / rate_hz
    tone = np.sin(2 * np.pi * sound.hz * time_s) + sound.overtone * np.sin(4 * np.pi * sound.hz * time_s)
    # Ramps of 8 ms keep the edges from clicking.
    ramp = np.minimum(1, np.minimum(time_s, time_s[::-1]) / 0.008)
    beep = (tone * ramp * sound.level / (1 + sound.overtone)).astype(np.float32)
    for number in range(sound.beeps):
        first = round((sound.lead_s + number * (sound.beep_s + sound.pause_s)) * rate_hz)
        room = wave[first : first + len(beep)]
        room += beep[: len(room)]
    return np.clip(wave, -1, 1, out=wave)

"""Second stage: the audio tower alone, told by a throwaway head what each token of 40 ms plays.

Shape legend: N tokens of a batch of sounds, one after another.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from deployments.demo.blueprint import new_feature_extractor
from deployments.demo.synth.sounds import MAX_BEEPS, Pitch, Sound
from deployments.demo.training.audibles import Audible, random_audible
from deployments.demo.training.optimiser import Kept, Pace, optimise
from deployments.demo.training.towers import hear

TOKEN_S = 0.04
HEAD_PARTS = [1 + len(Pitch), 1 + MAX_BEEPS, MAX_BEEPS, len(Pitch)]
"""What plays now (or nothing), how many beeps have begun, how many there are in all, how high they are."""
PEAK_RATE = 2e-3
BATCH, BATCHES = 24, 6
"""Sounds of a step, and steps whose sounds are drawn together and sorted by length: less padding."""


def audio_head(model: Qwen2_5OmniThinkerForConditionalGeneration) -> nn.Linear:
    return nn.Linear(model.config.audio_config.output_dim, sum(HEAD_PARTS))


def train_audio(
    model: Qwen2_5OmniThinkerForConditionalGeneration, head: nn.Linear, kept: Kept, pace: Pace, seed: int
) -> None:
    """Train `model`'s audio tower in place on sounds that it meets once: of a fixed pool it would learn each by heart.

    To make them takes a fifth of a step on a CPU.
    """
    rng, extractor = np.random.default_rng(seed), new_feature_extractor()
    torch.manual_seed(seed)
    waiting: list[list[Audible]] = []

    def loss_of_step() -> tuple[Tensor, dict[str, Tensor]]:
        if not waiting:
            drawn = sorted((random_audible(rng, extractor) for _ in range(BATCH * BATCHES)), key=mel_frames)
            waiting.extend(drawn[number * BATCH : (number + 1) * BATCH] for number in rng.permutation(BATCHES))
        batch = waiting.pop()
        features, lengths = stack_mels(batch)
        tokens = hear(model, features.to(model.device), lengths)
        truth = [token_truth(one.sound, len(heard)) for one, heard in zip(batch, tokens, strict=True)]
        return dense_loss(head(torch.cat(tokens)), torch.cat(truth).to(model.device))

    optimise("audio", kept, loss_of_step, pace, PEAK_RATE)


def mel_frames(audible: Audible) -> int:
    return int(audible.mel_MF.shape[1])


def stack_mels(batch: Sequence[Audible]) -> tuple[Tensor, list[int]]:
    """Features (B, M, F) padded to the longest, and the mel frames of each."""
    lengths = [mel_frames(one) for one in batch]
    features = np.zeros((len(batch), batch[0].mel_MF.shape[0], max(lengths)), np.float32)
    for row, (one, length) in enumerate(zip(batch, lengths, strict=True)):
        features[row, :, :length] = one.mel_MF
    return torch.as_tensor(features), lengths


def token_truth(sound: Sound, tokens: int) -> Tensor:
    """Classes (N, 4) of the head's parts for each token of a sound."""
    middle = (np.arange(tokens) + 0.5) * TOKEN_S - sound.lead_s
    period = sound.beep_s + sound.pause_s
    begun = np.clip(np.floor(middle / period) + 1, 0, sound.beeps)
    inside = (begun > 0) & (middle - (begun - 1) * period < sound.beep_s)
    pitch = list(Pitch).index(sound.pitch)
    classes = (np.where(inside, 1 + pitch, 0), begun, np.full(tokens, sound.beeps - 1), np.full(tokens, pitch))
    return torch.as_tensor(np.stack(classes, 1).astype(np.int64))


def dense_loss(answers: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the head's answers (N, sum of HEAD_PARTS) and the share of right ones."""
    parts = list(zip(torch.split(answers, HEAD_PARTS, dim=1), truth.unbind(1), strict=True))
    loss = torch.stack([F.cross_entropy(part, column) for part, column in parts]).sum()
    right = [(part.argmax(1) == column).float().mean() for part, column in parts]
    return loss, {"loss": loss.detach(), **dict(zip(("now", "begun", "beeps", "pitch"), right, strict=True))}

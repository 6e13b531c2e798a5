"""Made-up activations and targets that the tests of probes share."""

import torch


def noisy_mixtures(members=2, units=6, targets=3, states=2, seed=0, samples=3000):
    """Activations `(S, U, B)` that follow the targets `(S, T, B)` more or less.

    The first target has an uneven prior.
    """
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(states, (members, targets, samples), generator=generator)
    z[:, 0] *= (torch.rand(members, samples, generator=generator) < 0.6).long()
    mix = torch.randn(members, units, targets, generator=generator)
    a = mix @ z.float() + torch.randn(members, units, samples, generator=generator)
    return a, z.to(torch.uint8)


def noise_and_latents(draw, noisy=5, seed=0):
    """Units `(…, B, U)`: noise, every latent itself, a copy of the root and a constant."""
    generator = torch.Generator().manual_seed(seed)
    z = draw.states[..., : len(draw.topology.latents)].float()
    noise = torch.randn(*z.shape[:-1], noisy, generator=generator)
    return torch.cat([noise, z, z[..., :1], torch.full_like(z[..., :1], 3.0)], dim=-1)


def streamed(accumulator, *arrays, sizes=None):
    """An accumulator that was given arrays `(…, B)` in parts of these sizes, at once by default."""
    parts = (array.split(sizes or array.shape[-1], -1) for array in arrays)
    for part in zip(*parts, strict=True):
        accumulator.update(*part)
    return accumulator

"""Seeds of the streams of random numbers."""

from ssl_diffusion.seeding import derive_seed


def test_derived_seeds_are_distinct_repeatable_and_63_bit() -> None:
    parts = [(seed, name, step) for seed in range(5) for name in ("pretraining", "training") for step in range(50)]
    seeds = [derive_seed(*p) for p in parts]
    assert len(set(seeds)) == len(parts)
    assert seeds == [derive_seed(*p) for p in parts]
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, 23) != derive_seed(12, 3)

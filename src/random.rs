//! Seeded random numbers, the same on every machine: ChaCha8, and normals by Box-Muller.

use std::{f64::consts::TAU, iter};

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// The generator of one of a seed's streams, none of which overlaps another.
pub fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    generator
}

/// N(0, 1) without end: from two uniforms u, v in [0, 1) the pair √(-2 ln (1 - u)) (cos 2πv, sin
/// 2πv).
pub fn normals(seed: u64, stream: u64) -> impl Iterator<Item = f64> {
    let mut generator = generator(seed, stream);
    let mut uniform = move || generator.random::<f64>();
    iter::repeat_with(move || {
        let (radius, angle) = ((-2.0 * (1.0 - uniform()).ln()).sqrt(), TAU * uniform());
        [radius * angle.cos(), radius * angle.sin()]
    })
    .flatten()
}

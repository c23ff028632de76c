//! Random generators whose numbers follow from a key alone: never from a thread, a clock, or what was
//! drawn before.
//!
//! Each function has a hash of its own, for what it has given so far must stay: streams, first weights
//! and generated pictures are compared bit for bit. None is the standard library's, whose values may
//! change from one release to the next.

use rand::SeedableRng as _;
use rand_xoshiro::Xoshiro256PlusPlus;
use xxhash_rust::xxh3::Xxh3;

/// For a node of a run: keyed by the recipe's seed, the node's name, a purpose, and numbers such as the
/// epoch. (XXH3.)
pub fn random(seed: u64, node: &str, purpose: &str, numbers: &[u64]) -> Xoshiro256PlusPlus {
    let mut key = Xxh3::with_seed(seed);
    for name in [node, purpose] {
        key.update(&(name.len() as u64).to_le_bytes());
        key.update(name.as_bytes());
    }
    for number in numbers {
        key.update(&number.to_le_bytes());
    }
    Xoshiro256PlusPlus::seed_from_u64(key.digest())
}

/// For the first values of a network's tensor: keyed by a seed and the tensor's name. (FNV-1a.)
pub fn for_tensor(seed: u64, name: &str) -> Xoshiro256PlusPlus {
    let bytes = seed.to_le_bytes();
    let bytes = bytes.iter().chain(name.as_bytes());
    let key = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Xoshiro256PlusPlus::seed_from_u64(key)
}

/// For a generated picture: keyed by a seed and the picture's numbers. (A step of SplitMix64 for each
/// number: every bit of the key depends on every bit of all of them.)
pub fn for_picture(seed: u64, numbers: &[u64]) -> Xoshiro256PlusPlus {
    let key = numbers.iter().fold(seed, |key, number| {
        let mut z = (key ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    });
    Xoshiro256PlusPlus::seed_from_u64(key)
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;

    #[test]
    fn the_numbers_stay() {
        let first = [
            random(3, "crop", "area", &[1, 2, 0]),
            for_tensor(3, "conv1.weight"),
            for_picture(3, &[0, 1, 2]),
        ]
        .map(|mut generator| generator.next_u64());
        let expected = [
            203_293_639_586_909_927,
            9_244_585_299_246_015_152,
            6_886_393_942_286_360_894,
        ];
        assert_eq!(first, expected);
    }
}

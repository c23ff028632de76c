//! One process's part of a source's samples, where several processes train together.

use crate::context::World;

/// Every `world`-th position of an epoch's order, from `rank` on.
///
/// What all shards read in one step is then what a single process reads in one step of the same
/// (global) batch, whatever `world` is. The default is the whole order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which shard it is: less than `world`.
    pub rank: u32,
    /// How many there are: at least 1.
    pub world: u32,
    /// Makes all shards equally long where the order cannot be shared out evenly: the last ones start
    /// again at its beginning. Without it they are one sample shorter, and no sample is read twice.
    pub pad: bool,
}

impl Default for Shard {
    fn default() -> Self {
        Shard::of(World::default(), false)
    }
}

impl Shard {
    /// That of one process.
    pub(crate) fn of(world: World, pad: bool) -> Self {
        Shard {
            rank: world.rank,
            world: world.size.max(1),
            pad,
        }
    }

    /// How many of `samples` consecutive positions are in it, the first of which is rank 0's.
    pub(crate) fn items(&self, samples: u64) -> u64 {
        let before = if self.pad { 0 } else { self.rank };
        let rest = samples.saturating_sub(before.into());
        rest.div_ceil(self.world.into())
    }

    /// The position in the whole order of the item at `index` of the shard, where the order is dealt
    /// out from position `start` on. Those that pad the shard lie beyond the order's end.
    pub(crate) fn position(&self, start: u64, index: u64) -> u64 {
        start + index * u64::from(self.world) + u64::from(self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_out_every_position_once_from_any_start() {
        for (samples, world) in [(0, 3), (1, 4), (7, 1), (12, 4), (13, 4), (15, 4)] {
            for start in 0..=samples {
                let left = samples - start;
                let shards = |pad| (0..world).map(move |rank| Shard { rank, world, pad });
                let positions =
                    |shard: Shard| (0..shard.items(left)).map(move |i| shard.position(start, i));
                let mut all: Vec<u64> = shards(false).flat_map(positions).collect();
                all.sort_unstable();
                let case = format!("{samples} {world} {start}");
                assert_eq!(all, (start..samples).collect::<Vec<_>>(), "{case}");

                let mut all: Vec<u64> = shards(true).flat_map(positions).collect();
                all.sort_unstable();
                let padded = left.next_multiple_of(world.into());
                assert_eq!(all, (start..start + padded).collect::<Vec<_>>(), "{case}");
                let length = padded / u64::from(world);
                assert!(shards(true).all(|shard| shard.items(left) == length));
            }
        }
    }
}

//! One process's part of a source's samples, where several processes train together.

/// Every `world`-th position of an epoch's order, from `rank` on.
///
/// What the shards read in one step is then what a single process reads in one step of a batch
/// `world` times as large, whatever `world` is. The default is the whole order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which shard it is: less than `world`.
    pub rank: u32,
    /// How many there are: at least 1.
    pub world: u32,
    /// Makes all shards equally long where the order cannot be shared out evenly: the last ones go
    /// on at its beginning. Without it they are one sample shorter, and no sample is read twice.
    pub pad: bool,
}

impl Default for Shard {
    fn default() -> Self {
        Shard {
            rank: 0,
            world: 1,
            pad: false,
        }
    }
}

impl Shard {
    /// How many of `samples` are in it.
    pub(crate) fn items(&self, samples: u64) -> u64 {
        let before = if self.pad { 0 } else { self.rank };
        let rest = samples.saturating_sub(before.into());
        rest.div_ceil(self.world.max(1).into())
    }

    /// The position in the whole order of the item at `index` in this shard. Those that pad the
    /// shard lie beyond the order's end.
    pub(crate) fn position(&self, index: u64) -> u64 {
        index * u64::from(self.world) + u64::from(self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_out_every_position_once() {
        for (samples, world) in [(0, 3), (1, 4), (7, 1), (12, 4), (13, 4), (15, 4)] {
            let shards = |pad| (0..world).map(move |rank| Shard { rank, world, pad });
            let positions =
                |shard: Shard| (0..shard.items(samples)).map(move |i| shard.position(i));
            let mut all: Vec<u64> = shards(false).flat_map(positions).collect();
            all.sort_unstable();
            assert_eq!(all, (0..samples).collect::<Vec<_>>(), "{samples} {world}");

            let mut all: Vec<u64> = shards(true).flat_map(positions).collect();
            all.sort_unstable();
            let padded = samples.next_multiple_of(world.into());
            assert_eq!(all, (0..padded).collect::<Vec<_>>(), "{samples} {world}");
            let length = padded / u64::from(world);
            assert!(shards(true).all(|shard| shard.items(samples) == length));
        }
    }
}

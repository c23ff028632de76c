//! One process's part of a source's samples, where several processes train together.

use crate::context::World;

/// Blocks of consecutive positions of an epoch's order, dealt out to the processes in turn: with blocks of
/// one, every `world`-th position from `rank` on. Where the order ends, positions that do not fill a block for
/// each process are dealt out one by one.
///
/// What all shards read in one step is then what a single process reads in one step of the same
/// (global) batch, whatever `world` is. The default is the whole order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which shard it is: less than `world`.
    pub rank: u32,
    /// How many there are: at least 1.
    pub world: u32,
    /// Positions in a block: at least 1.
    pub block: u32,
    /// Makes all shards equally long where the order cannot be shared out evenly: the last ones start
    /// again at its beginning. Without it they are one sample shorter, and no sample is read twice.
    pub pad: bool,
}

impl Default for Shard {
    fn default() -> Self {
        Shard::of(World::default(), 1, false)
    }
}

impl Shard {
    /// That of one process.
    pub(crate) fn of(world: World, block: u32, pad: bool) -> Self {
        Shard {
            rank: world.rank,
            world: world.size.max(1),
            block: block.max(1),
            pad,
        }
    }

    /// How many of `samples` consecutive positions are in it, the first of which begins rank 0's block.
    pub(crate) fn items(&self, samples: u64) -> u64 {
        let before = if self.pad { 0 } else { self.rank };
        let rest = samples - self.in_blocks(samples) * u64::from(self.world);
        let of_rest = rest
            .saturating_sub(before.into())
            .div_ceil(self.world.into());
        self.in_blocks(samples) + of_rest
    }

    /// The position in the whole order of the item at `index` of the shard, where `samples` positions of the
    /// order are dealt out from position `start` on. Those that pad the shard lie beyond the order's end.
    pub(crate) fn position(&self, start: u64, samples: u64, index: u64) -> u64 {
        let (rank, world) = (u64::from(self.rank), u64::from(self.world));
        let in_blocks = self.in_blocks(samples);
        if index < in_blocks {
            let block = u64::from(self.block);
            return start + (index / block * world + rank) * block + index % block;
        }
        start + in_blocks * world + (index - in_blocks) * world + rank
    }

    /// Where the order is dealt out from, if the item at `first` is the shard's first and the order has so many
    /// `samples`: what [`Shard::position`] gives for index 0, the other way round.
    pub(crate) fn start(&self, first: u64, samples: u64) -> u64 {
        let rank = u64::from(self.rank);
        let of_a_block = first.saturating_sub(rank * u64::from(self.block));
        let left = samples.saturating_sub(of_a_block);
        match self.position(of_a_block, left, 0) == first {
            true => of_a_block,
            false => first.saturating_sub(rank),
        }
    }

    /// How many of each process's items of `samples` positions come in whole blocks.
    fn in_blocks(&self, samples: u64) -> u64 {
        let block = u64::from(self.block);
        samples / (block * u64::from(self.world)) * block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_out_every_position_once_from_any_start() {
        for (samples, world, block) in [
            (0, 3, 1),
            (1, 4, 1),
            (7, 1, 1),
            (12, 4, 1),
            (13, 4, 1),
            (15, 4, 1),
            (7, 1, 4),
            (24, 3, 4),
            (29, 3, 4),
            (5, 2, 4),
        ] {
            for start in 0..=samples {
                let left = samples - start;
                let shards = |pad| {
                    (0..world).map(move |rank| Shard {
                        rank,
                        world,
                        block,
                        pad,
                    })
                };
                let positions = |shard: Shard| {
                    (0..shard.items(left)).map(move |i| shard.position(start, left, i))
                };
                for shard in shards(false).filter(|shard| shard.items(left) > 0) {
                    let first = shard.position(start, left, 0);
                    // A run starts at a multiple of its batches, which are whole blocks but for the last one.
                    if start % (u64::from(world) * u64::from(block)) == 0 {
                        assert_eq!(shard.start(first, samples), start, "{shard:?}");
                    }
                }
                let mut all: Vec<u64> = shards(false).flat_map(positions).collect();
                all.sort_unstable();
                let case = format!("{samples} {world} {block} {start}");
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

    /// A block has the same positions for any number of processes.
    #[test]
    fn blocks_do_not_depend_on_the_number_of_processes() {
        let blocks = |world: u32| {
            let mut all = Vec::new();
            for rank in 0..world {
                let shard = Shard {
                    rank,
                    world,
                    block: 4,
                    pad: true,
                };
                let of_shard = |index| shard.position(8, 32, index);
                let positions: Vec<u64> = (0..shard.items(32)).map(of_shard).collect();
                all.extend(positions.chunks(4).map(<[u64]>::to_vec));
            }
            all.sort();
            all
        };
        assert_eq!(blocks(1).len(), 8);
        assert_eq!(blocks(1), blocks(2));
        assert_eq!(blocks(1), blocks(8));
    }
}

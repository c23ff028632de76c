//! Which of a run's processes this is, as launchers such as torchrun say in the environment.

use anyhow::{Result, ensure};
use rsflow_graph::World;

use crate::commands::usage::Usage;

/// What the variables are called, as torchrun sets them.
const RANK: &str = "RANK";
const WORLD_SIZE: &str = "WORLD_SIZE";
const LOCAL_RANK: &str = "LOCAL_RANK";

/// This process's place, from the environment; a run of one process where nothing is set.
///
/// # Errors
/// A variable that is no number, or numbers that contradict each other.
pub fn world() -> Result<World> {
    world_of(|name| std::env::var(name).ok())
}

fn world_of(variable: impl Fn(&str) -> Option<String>) -> Result<World> {
    let number = |name: &str| -> Result<Option<u32>> {
        let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let number = text.parse().ok();
        ensure!(
            number.is_some(),
            Usage(format!(
                "the environment variable {name} must be a whole number, not {text:?}"
            ))
        );
        Ok(number)
    };
    let (rank, size) = (number(RANK)?, number(WORLD_SIZE)?);
    let world = World {
        rank: rank.unwrap_or(0),
        size: size.unwrap_or(1),
        local_rank: number(LOCAL_RANK)?.unwrap_or(0),
    };
    ensure!(
        world.rank < world.size,
        Usage(format!(
            "{RANK}={} needs a {WORLD_SIZE} above it, which is {}: ranks count from 0",
            world.rank,
            size.map_or_else(|| "not set".to_owned(), |size| size.to_string())
        ))
    );
    Ok(world)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_says_which_process_this_is() {
        let world = |rank, size, local_rank| World {
            rank,
            size,
            local_rank,
        };
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<World, &'a str>);
        let cases: [Case; 7] = [
            (&[], Ok(world(0, 1, 0))),
            (&[("RANK", "0"), ("WORLD_SIZE", "1")], Ok(world(0, 1, 0))),
            (
                &[("RANK", "9"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "1")],
                Ok(world(9, 16, 1)),
            ),
            (&[("RANK", ""), ("WORLD_SIZE", "")], Ok(world(0, 1, 0))),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], Err("RANK=2 needs")),
            (&[("RANK", "1")], Err("which is not set")),
            (
                &[("RANK", "one"), ("WORLD_SIZE", "2")],
                Err("must be a whole number, not \"one\""),
            ),
        ];
        for (set, expected) in cases {
            let variable = |name: &str| {
                let found = set.iter().find(|(set, _)| *set == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            match (world_of(variable), expected) {
                (Ok(world), Ok(expected)) => assert_eq!(world, expected, "{set:?}"),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{set:?}: {error}");
                }
                (result, _) => panic!("{set:?}: {result:?}"),
            }
        }
    }
}

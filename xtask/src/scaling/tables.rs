//! The tables: the model's results as Markdown.

use super::inputs::{Fabric, Inputs, Tag};
use super::model::{Exchange, Network, all_reduce_s, efficiency, exposed_s, volume};
use super::simulation::{self, Run};

/// Numbers of GPUs.
const WORLDS: [u32; 4] = [1, 8, 64, 1024];
/// Images per GPU and step.
const BATCHES: [u32; 2] = [32, 256];
/// GPUs and images per step of all of them.
const PLANS: [(u32, u32); 4] = [(8, 2048), (64, 8192), (1024, 8192), (1024, 32768)];
/// Steps between two exchanges.
const EVERY: [u32; 4] = [1, 10, 50, 500];
/// The network of tables that show one, if the inputs have it; else the first.
const SHOWN: &str = "ResNet50";

/// A table in Markdown.
pub struct Table {
    pub name: &'static str,
    pub text: String,
}

/// All tables, in the order in which they are printed.
pub fn all(inputs: &Inputs) -> Vec<Table> {
    let networks = &inputs.networks;
    let shown = networks.iter().find(|network| network.name == SHOWN);
    let network = shown.unwrap_or(&networks[0]);
    [
        ("volume", volumes(networks)),
        ("exchange", exchanges(inputs, network)),
        ("efficiency", efficiencies(inputs)),
        ("node", node_limits(inputs)),
        ("plans", plans(inputs, network)),
        ("stragglers", stragglers(inputs, network)),
        ("averaging", averaging(inputs, network)),
        ("assumed", assumed(inputs)),
    ]
    .map(|(name, text)| Table { name, text })
    .into()
}

/// Bytes that a GPU sends in a step.
fn volumes(networks: &[Network]) -> String {
    let mut header = words([
        "network",
        "gradients, MB",
        "statistics, MB",
        "multiply-adds, to 224 alone",
    ]);
    let worlds = &WORLDS[1..];
    header.extend(
        worlds
            .iter()
            .map(|&world| format!("sent, {} GPUs, MB", count(f64::from(world)))),
    );
    let rows = networks.iter().map(|network| {
        let mut row = vec![
            network.name.clone(),
            format!("{:.1}", network.gradients / 1e6),
            format!("{:.2}", network.statistics / 1e6),
            format!("{:.2}", network.ratio),
        ];
        let bytes = network.gradients + network.statistics;
        let volumes = worlds.iter().map(|&world| volume(bytes, world));
        row.extend(volumes.map(|bytes| format!("{:.1}", bytes / 1e6)));
        row
    });
    markdown(&header, rows)
}

/// Times of exchanges, whole and exposed, and the same network trained at one resolution.
fn exchanges(inputs: &Inputs, network: &Network) -> String {
    let [small, large] = BATCHES;
    let mut header = words(["GPUs", "between nodes", "all-reduce, ms"]);
    header.extend(BATCHES.map(|images| format!("exposed, ms, {images} images")));
    header.push(format!("of the step, {large} images"));
    header.push(format!("of a step of 224 alone, {large} images"));
    let one = network.at_one_resolution();
    let bytes = network.gradients + network.statistics;
    let rows = scenarios(inputs).skip(1).map(|(world, fabric, mut row)| {
        let cluster = &fabric.cluster;
        let exposed_s =
            |network, images| exposed_s(network, images, world, cluster, Exchange::Float32);
        row.extend([
            ms(all_reduce_s(bytes, world, cluster)),
            ms(exposed_s(network, small)),
            ms(exposed_s(network, large)),
            percent(exposed_s(network, large) / network.step_s(large)),
            percent(exposed_s(&one, large) / one.step_s(large)),
        ]);
        row
    });
    markdown(&header, rows)
}

/// Efficiency of every network in every scenario, with gradients in float32 and in bfloat16.
fn efficiencies(inputs: &Inputs) -> String {
    let mut header = words(["GPUs", "between nodes"]);
    for network in &inputs.networks {
        header.extend(BATCHES.map(|images| format!("{}, {images} images", network.name)));
    }
    let rows = scenarios(inputs).skip(1).map(|(world, fabric, mut row)| {
        for network in &inputs.networks {
            row.extend(BATCHES.map(|images| {
                let [float32, bfloat16] = [Exchange::Float32, Exchange::BFloat16].map(|exchange| {
                    let cluster = &fabric.cluster;
                    let exposed_s = exposed_s(network, images, world, cluster, exchange);
                    100.0 * efficiency(network.step_s(images), exposed_s)
                });
                format!("{float32:.0} / {bfloat16:.0} %")
            }));
        }
        row
    });
    markdown(&header, rows)
}

/// Limits of a node, which do not depend on the number of nodes.
fn node_limits(inputs: &Inputs) -> String {
    let cores = inputs.data.cores_per_node;
    let header = [
        "network".to_owned(),
        "images per GPU that take as long as the launches".to_owned(),
        "read per node, MB/s".to_owned(),
        format!("cores to decode, of {cores:.0} in a node"),
    ];
    let gpus_per_node = f64::from(inputs.fabrics[0].cluster.gpus_per_node);
    let rows = inputs.networks.iter().map(|network| {
        let images_per_s = network.images_per_s * gpus_per_node;
        vec![
            network.name.clone(),
            format!("{:.0}", network.launch_s * network.images_per_s),
            count(images_per_s * inputs.data.image_bytes / 1e6),
            format!("{:.0}", images_per_s / inputs.data.images_per_core_s),
        ]
    });
    markdown(&header, rows)
}

/// What limits runs, in the order in which it does.
fn plans(inputs: &Inputs, network: &Network) -> String {
    let mut header = words(["limit"]);
    header.extend(
        PLANS.map(|(world, batch)| format!("{} GPUs x {}", count(f64::from(world)), batch / world)),
    );
    let fabric = &inputs.fabrics[0];
    // Of each plan: images per GPU, the step of one GPU, and with jitter and exchange.
    let steps = PLANS.map(|(world, batch)| {
        let images = batch / world;
        let step_s = network.step_s(images);
        let exposed_s = exposed_s(network, images, world, &fabric.cluster, Exchange::Float32);
        (images, step_s, exposed_s)
    });
    let speeds: Vec<f64> = PLANS
        .iter()
        .zip(steps)
        .map(|(&(world, batch), (_, step_s, exposed_s))| {
            let share = simulate(inputs, world, step_s, 1, exposed_s);
            f64::from(batch) / step_s * share
        })
        .collect();
    let row = |label: &str, cell: &dyn Fn(usize) -> String| {
        let cells = (0..PLANS.len()).map(cell);
        std::iter::once(label.to_owned()).chain(cells).collect()
    };
    let rows: [Vec<String>; 9] = [
        row("global batch", &|plan| count(f64::from(PLANS[plan].1))),
        row("1. images per batch norm", &|plan| {
            steps[plan].0.to_string()
        }),
        row("2. GPU waits for launches", &|plan| {
            let (images, step_s, _) = steps[plan];
            percent(1.0 - network.compute_s(images) / step_s)
        }),
        row("3. images read, GB/s", &|plan| {
            format!("{:.1}", speeds[plan] * inputs.data.image_bytes / 1e9)
        }),
        row("3. images decoded per second", &|plan| {
            count((speeds[plan] / 100.0).round() * 100.0)
        }),
        row("4. lost to stragglers", &|plan| {
            let (_, step_s, _) = steps[plan];
            percent(1.0 - simulate(inputs, PLANS[plan].0, step_s, 1, 0.0))
        }),
        row("5. lost to the network", &|plan| {
            let (_, step_s, exposed_s) = steps[plan];
            percent(1.0 - efficiency(step_s, exposed_s))
        }),
        row("step with all of these, ms", &|plan| {
            ms(f64::from(PLANS[plan].1) / speeds[plan])
        }),
        row("efficiency, with all of these", &|plan| {
            percent(speeds[plan] / (f64::from(PLANS[plan].0) * network.images_per_s))
        }),
    ];
    markdown(&header, rows)
}

/// Efficiency with and without jitter.
fn stragglers(inputs: &Inputs, network: &Network) -> String {
    let mut header = words(["GPUs"]);
    for images in BATCHES {
        header.push(format!("{images} images, no jitter"));
        header.push("with jitter".to_owned());
    }
    let fabric = &inputs.fabrics[0];
    let rows = WORLDS.map(|world| {
        let mut row = vec![count(f64::from(world))];
        for images in BATCHES {
            let step_s = network.step_s(images);
            let exposed_s = exposed_s(network, images, world, &fabric.cluster, Exchange::Float32);
            row.push(percent(efficiency(step_s, exposed_s)));
            row.push(percent(simulate(inputs, world, step_s, 1, exposed_s)));
        }
        row
    });
    markdown(&header, rows)
}

/// Efficiency if weights are averaged every few steps, with jitter.
fn averaging(inputs: &Inputs, network: &Network) -> String {
    let mut header = words(["between nodes"]);
    header.extend(EVERY.map(|every| match every {
        1 => "gradients in every step".to_owned(),
        every => format!("weights every {every} steps"),
    }));
    let (world, images) = (64, 256);
    let step_s = network.step_s(images);
    let rows = inputs.fabrics.iter().map(|fabric| {
        let mut row = vec![fabric.name.clone()];
        row.extend(EVERY.map(|every| {
            let exchange_s = if every == 1 {
                exposed_s(network, images, world, &fabric.cluster, Exchange::Float32)
            } else {
                // Weights have as many bytes as gradients, and no backward pass hides them.
                let bytes = network.gradients + network.statistics;
                all_reduce_s(bytes, world, &fabric.cluster)
            };
            percent(simulate(inputs, world, step_s, every, exchange_s))
        }));
        row
    });
    markdown(&header, rows)
}

/// Inputs that nobody measured or counted. Equal fields with the same source share a row.
fn assumed(inputs: &Inputs) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let entries = inputs.entries.iter();
    for entry in entries.filter(|entry| entry.tag == Tag::Assumed) {
        let (field, value) = (format!("`{}`", entry.field), &entry.value);
        let value = format!("{} {value}", entry.owner).trim().to_owned();
        let same = rows
            .iter_mut()
            .find(|row| row[0] == field && row[2] == entry.source);
        match same {
            Some(row) => row[1] = format!("{}, {value}", row[1]),
            None => rows.push(vec![field, value, entry.source.clone()]),
        }
    }
    markdown(&words(["input", "value", "source"]), rows)
}

fn simulate(inputs: &Inputs, world: u32, step_s: f64, every: u32, exchange_s: f64) -> f64 {
    let run = Run {
        world,
        steps: inputs.steps,
        step_s,
        every,
        exchange_s,
    };
    simulation::efficiency(&run, &inputs.jitter, inputs.seed)
}

/// Every number of GPUs with every fabric, and the first two cells of its row. Within a node the fabric
/// does not matter.
fn scenarios(inputs: &Inputs) -> impl Iterator<Item = (u32, &Fabric, Vec<String>)> {
    WORLDS.into_iter().flat_map(move |world| {
        let one_node = world <= inputs.fabrics[0].cluster.gpus_per_node;
        let fabrics = if one_node { 1 } else { inputs.fabrics.len() };
        inputs.fabrics[..fabrics].iter().map(move |fabric| {
            let between = if one_node { "one node" } else { &fabric.name };
            let row = vec![count(f64::from(world)), between.to_owned()];
            (world, fabric, row)
        })
    })
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Milliseconds with one decimal, or with none from 10 on.
fn ms(seconds: f64) -> String {
    match 1e3 * seconds {
        ms if ms < 9.95 => format!("{ms:.1}"),
        ms => count(ms),
    }
}

/// Percent with one decimal, or with none from 100 on.
fn percent(share: f64) -> String {
    match 100.0 * share {
        percent if percent < 99.95 => format!("{percent:.1} %"),
        percent => format!("{} %", count(percent)),
    }
}

/// A whole number in groups of three digits.
fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

/// A table. Columns of numbers are aligned to the right.
fn markdown(header: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let is_number = |cell: &String| cell.chars().all(|sign| "0123456789,. /%".contains(sign));
    let rule = (0..header.len()).map(|column| {
        let numbers = rows.iter().all(|row| is_number(&row[column]));
        if numbers { "---:" } else { "---" }.to_owned()
    });
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header) + &line(&rule.collect::<Vec<_>>());
    text.extend(rows.iter().map(|row| line(row)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.4, "0"),
            (999.0, "999"),
            (1024.0, "1,024"),
            (1e6, "1,000,000"),
        ] {
            assert_eq!(count(number), text);
        }
        for (seconds, text) in [
            (0.0, "0.0"),
            (0.00994, "9.9"),
            (0.01, "10"),
            (1.64, "1,640"),
        ] {
            assert_eq!(ms(seconds), text);
        }
        for (share, text) in [(0.9994, "99.9 %"), (0.9996, "100 %"), (18.65, "1,865 %")] {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn a_table_is_markdown() {
        let row = |cells| words::<3>(cells);
        let rows = [row(["a", "1", "one node"]), row(["b", "2 %", "1 NIC"])];
        assert_eq!(
            markdown(&words(["x", "y", "z"]), rows),
            "| x | y | z |\n| --- | ---: | --- |\n| a | 1 | one node |\n| b | 2 % | 1 NIC |\n"
        );
    }
}

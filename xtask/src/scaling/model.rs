//! The analytic model: what a step computes, what it exchanges, and what of that is not hidden.
//!
//! All quantities are in SI units: seconds, bytes, bytes per second.

/// Resolutions of the networks in the inputs: 224, 192, 160, 128 and 96.
const RESOLUTIONS: f64 = 5.0;

/// What the model knows of a network.
#[derive(Clone, Debug)]
pub struct Network {
    pub name: String,
    /// Bytes of all gradients in float32.
    pub gradients: f64,
    /// Bytes of running statistics and losses, exchanged in float32 in each step.
    pub statistics: f64,
    /// Multiply-adds of all resolutions over those of the largest one.
    pub ratio: f64,
    /// Speed of one GPU that does not wait for the host; an image counts once for all resolutions.
    pub images_per_s: f64,
    /// Time of the host to launch the kernels of a step.
    pub launch_s: f64,
    /// Share of the step that is the backward pass, in (0, 1].
    pub backward: f64,
    /// In the order of the backward pass; their shares of the bytes add up to 1.
    pub buckets: Vec<Bucket>,
}

/// Gradients that are exchanged together.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Share of the bytes of all gradients.
    pub bytes: f64,
    /// Share of the backward pass after which all of them are known.
    pub ready: f64,
}

/// A link as in the alpha-beta model: a message of n bytes takes `hop_s + n / bytes_per_s`.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub hop_s: f64,
    pub bytes_per_s: f64,
}

/// Nodes of several GPUs.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub gpus_per_node: u32,
    /// Between the GPUs of a node; the bandwidth is that of one GPU.
    pub inside: Link,
    /// Between nodes; the bandwidth is that of one node, over all of its network adapters.
    pub between: Link,
}

/// Format of exchanged gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exchange {
    Float32,
    BFloat16,
}

impl Network {
    /// Time of one step on one GPU that waits for nobody: the host launches while the GPU computes.
    pub fn step_s(&self, images: u32) -> f64 {
        self.compute_s(images).max(self.launch_s)
    }

    /// Time of one step's kernels.
    pub fn compute_s(&self, images: u32) -> f64 {
        f64::from(images) / self.images_per_s
    }

    /// The same network trained at its largest resolution alone.
    ///
    /// Its backward pass is that of the largest resolution, so gradients become ready as long before its
    /// end as they do with all resolutions. The private batch norms of the others count as gradients
    /// still: at most 4 % of the bytes in these networks.
    pub fn at_one_resolution(&self) -> Network {
        let ready = |ready: f64| (1.0 - (1.0 - ready) * self.ratio).max(0.0);
        let buckets = self.buckets.iter();
        Network {
            statistics: self.statistics / RESOLUTIONS,
            ratio: 1.0,
            images_per_s: self.images_per_s * self.ratio,
            launch_s: self.launch_s / RESOLUTIONS,
            buckets: buckets
                .map(|bucket| Bucket {
                    bytes: bucket.bytes,
                    ready: ready(bucket.ready),
                })
                .collect(),
            ..self.clone()
        }
    }
}

/// Bytes that each rank sends, and receives, in a ring all-reduce of so many bytes.
pub fn volume(bytes: f64, world: u32) -> f64 {
    2.0 * share_of_others(world) * bytes
}

/// (n - 1) / n: what a rank does not have itself.
fn share_of_others(n: u32) -> f64 {
    f64::from(n - 1) / f64::from(n)
}

/// Time of a hierarchical all-reduce: reduce-scatter inside each node, all-reduce between nodes,
/// all-gather inside each node.
///
/// A ring of n has n - 1 hops each way. Between nodes NCCL may take a double binary tree, which moves the
/// same bytes in log2(n) hops, so the smaller number counts.
pub fn all_reduce_s(bytes: f64, world: u32, cluster: &Cluster) -> f64 {
    let local = world.min(cluster.gpus_per_node);
    let nodes = world.div_ceil(cluster.gpus_per_node);
    let tree = nodes.next_power_of_two().ilog2();
    let time = |ranks: u32, hops: u32, link: &Link| {
        2.0 * f64::from(hops) * link.hop_s + volume(bytes, ranks) / link.bytes_per_s
    };
    time(local, local - 1, &cluster.inside) + time(nodes, tree.min(nodes - 1), &cluster.between)
}

/// Time of a step's exchange that is left when the backward pass has ended.
///
/// Exchanges run one after the other. The statistics are first: they are known before the backward pass.
pub fn exposed_s(
    network: &Network,
    images: u32,
    world: u32,
    cluster: &Cluster,
    exchange: Exchange,
) -> f64 {
    let backward_s = network.backward * network.step_s(images);
    let gradients = match exchange {
        Exchange::Float32 => network.gradients,
        Exchange::BFloat16 => network.gradients / 2.0,
    };
    let mut done_s = all_reduce_s(network.statistics, world, cluster);
    for bucket in &network.buckets {
        let start_s = done_s.max(bucket.ready * backward_s);
        done_s = start_s + all_reduce_s(bucket.bytes * gradients, world, cluster);
    }
    (done_s - backward_s).max(0.0)
}

/// Speed of a GPU among others over that of one alone, both with as many images.
pub fn efficiency(step_s: f64, exposed_s: f64) -> f64 {
    step_s / (step_s + exposed_s)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// 1 s a step at 100 images, 0.5 s of it backward, and 1000 bytes of gradients.
    pub fn network(buckets: &[(f64, f64)]) -> Network {
        let buckets = buckets.iter();
        Network {
            name: "test".to_owned(),
            gradients: 1000.0,
            statistics: 0.0,
            ratio: 2.5,
            images_per_s: 100.0,
            launch_s: 0.1,
            backward: 0.5,
            buckets: buckets
                .map(|&(bytes, ready)| Bucket { bytes, ready })
                .collect(),
        }
    }

    fn cluster(gpus_per_node: u32, inside: (f64, f64), between: (f64, f64)) -> Cluster {
        let link = |(hop_s, bytes_per_s)| Link { hop_s, bytes_per_s };
        Cluster {
            gpus_per_node,
            inside: link(inside),
            between: link(between),
        }
    }

    #[track_caller]
    fn close(value: f64, expected: f64) {
        let off = (value - expected).abs();
        assert!(off < 1e-9, "{value} in place of {expected}");
    }

    #[test]
    fn an_all_reduce_takes_what_was_computed_by_hand() {
        let (free, slow) = ((0.0, f64::INFINITY), (0.0, 100.0));
        for (world, cluster, seconds) in [
            // Nobody to exchange with.
            (1, cluster(8, (1.0, 1.0), (1.0, 1.0)), 0.0),
            // 2 * 1/2 * 1000 bytes; 2 * 3/4 * 1000 bytes.
            (2, cluster(8, slow, free), 10.0),
            (4, cluster(8, slow, free), 15.0),
            // Two nodes of four: the same again inside, and 2 * 1/2 * 1000 bytes between.
            (8, cluster(4, slow, slow), 25.0),
            // Hops: 2 * 3 inside, and between four nodes 2 * 2, as in a tree.
            (4, cluster(4, (1.0, f64::INFINITY), free), 6.0),
            (4, cluster(1, free, (1.0, f64::INFINITY)), 4.0),
            (1024, cluster(1, free, (1.0, f64::INFINITY)), 20.0),
            // Half a node more is a third node.
            (20, cluster(8, free, slow), 2.0 * 2.0 / 3.0 * 10.0),
        ] {
            close(all_reduce_s(1000.0, world, &cluster), seconds);
        }
    }

    #[test]
    fn twice_the_bytes_take_twice_as_long_without_latency() {
        let cluster = cluster(8, (0.0, 370e9), (0.0, 45e9));
        for world in [2, 8, 64, 1024] {
            let (once, twice) = (1e8, 2e8);
            let ratio = all_reduce_s(twice, world, &cluster) / all_reduce_s(once, world, &cluster);
            close(ratio, 2.0);
            close(volume(twice, world) / volume(once, world), 2.0);
        }
        close(volume(1000.0, 1), 0.0);
    }

    #[test]
    fn what_the_backward_pass_hides_is_not_exposed() {
        // Two ranks: `bytes` take `bytes / speed`. The backward pass takes 0.5 s.
        let exposed = |buckets: &[(f64, f64)], speed: f64, exchange| {
            let cluster = cluster(8, (0.0, speed), (0.0, 1.0));
            exposed_s(&network(buckets), 100, 2, &cluster, exchange)
        };
        let (float32, bfloat16) = (Exchange::Float32, Exchange::BFloat16);
        for (buckets, speed, exchange, seconds) in [
            // One bucket at the end is fully exposed.
            (&[(1.0, 1.0)][..], 2000.0, float32, 0.5),
            (&[(1.0, 1.0)], 2000.0, bfloat16, 0.25),
            // Ready halfway: 0.25 s of 0.5 s are hidden.
            (&[(1.0, 0.5)], 2000.0, float32, 0.25),
            // The first half is hidden entirely, the second not at all.
            (&[(0.5, 0.5), (0.5, 1.0)], 2000.0, float32, 0.25),
            // One queue: the second bucket waits until 0.75 s for the first one.
            (&[(0.5, 0.5), (0.5, 0.6)], 1000.0, float32, 0.75),
            (&[(1.0, 1.0)], f64::INFINITY, float32, 0.0),
        ] {
            close(exposed(buckets, speed, exchange), seconds);
        }
    }

    #[test]
    fn statistics_are_exchanged_first() {
        let mut network = network(&[(1.0, 0.0)]);
        network.statistics = 1000.0;
        let cluster = cluster(8, (0.0, 2000.0), (0.0, 1.0));
        // 0.5 s each; in bfloat16 the gradients take half of that, the statistics do not.
        for (exchange, seconds) in [(Exchange::Float32, 0.5), (Exchange::BFloat16, 0.25)] {
            close(exposed_s(&network, 100, 2, &cluster, exchange), seconds);
        }
    }

    #[test]
    fn efficiency_is_1_without_peers_or_with_a_perfect_network_and_grows_with_bandwidth() {
        let network = network(&[(0.3, 0.7), (0.7, 1.0)]);
        let efficiency = |world, bytes_per_s| {
            let cluster = cluster(8, (0.0, f64::INFINITY), (0.0, bytes_per_s));
            let exposed = exposed_s(&network, 100, world, &cluster, Exchange::Float32);
            efficiency(network.step_s(100), exposed)
        };
        close(efficiency(1, 1e-9), 1.0);
        close(efficiency(1024, f64::INFINITY), 1.0);
        let by_bandwidth: Vec<f64> = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]
            .iter()
            .map(|&bytes_per_s| efficiency(64, bytes_per_s))
            .collect();
        assert!(by_bandwidth.is_sorted(), "{by_bandwidth:?}");
        assert!(by_bandwidth[0] < 0.01 && by_bandwidth[5] > 0.9);
    }

    #[test]
    fn a_small_batch_takes_as_long_as_its_launches() {
        let network = network(&[(1.0, 1.0)]);
        for (images, seconds) in [(1, 0.1), (10, 0.1), (11, 0.11), (200, 2.0)] {
            close(network.step_s(images), seconds);
        }
    }

    #[test]
    fn one_resolution_exposes_the_same_time_of_a_shorter_step() {
        let all = network(&[(0.5, 0.8), (0.5, 1.0)]);
        let one = all.at_one_resolution();
        let cluster = cluster(8, (0.0, 3000.0), (0.0, 1.0));
        let exposed = |network| exposed_s(network, 100, 8, &cluster, Exchange::Float32);
        assert!(exposed(&all) > 0.0);
        close(exposed(&one), exposed(&all));
        close(all.step_s(100) / one.step_s(100), 2.5);
    }
}

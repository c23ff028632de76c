//! A layered layout of a graph without cycles, after Sugiyama: layers, order, coordinates.
//!
//! 1. **Layers.** A node's layer is the longest path that leads to it; nodes with slack move down
//!    to their readers. Layer `n` is rank `2n`: the odd ranks between are for the labels of edges.
//! 2. **Dummies.** An edge is a chain of vertices, one for each rank between its ends, so that it
//!    has its own place beside the nodes that it passes. One of them is as wide as its label.
//! 3. **Order.** Sweeps down and up sort each rank by the mean position of its neighbours. The
//!    order with the fewest crossings is kept.
//! 4. **Coordinates.** Chains become vertical blocks. Every block moves to the mean of what it is
//!    connected to, as far as its neighbours leave room.

/// Space between two nodes side by side, and between anything else, in pixels.
const NODE_GAP: f64 = 44.0;
const EDGE_GAP: f64 = 24.0;
/// From one rank to the next: room for the arrow's head, and for a curve to swing.
const RANK_GAP: f64 = 26.0;

const ORDER_SWEEPS: usize = 16;
/// Enough for graphs of hundreds of nodes; small ones stop earlier.
const MOVE_ROUNDS: usize = 500;

#[derive(Clone, Copy)]
pub(super) struct Size {
    pub width: f64,
    pub height: f64,
}

/// An edge of the graph: `from` is less than `to`, as in a plan.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub from: usize,
    pub to: usize,
    pub label: Size,
}

/// A rectangle by its centre.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Place {
    pub fn left(&self) -> f64 {
        self.x - self.width / 2.0
    }

    pub fn right(&self) -> f64 {
        self.x + self.width / 2.0
    }

    pub fn top(&self) -> f64 {
        self.y - self.height / 2.0
    }

    pub fn bottom(&self) -> f64 {
        self.y + self.height / 2.0
    }
}

pub(super) struct Layout {
    pub nodes: Vec<Place>,
    pub routes: Vec<Route>,
}

/// Where an edge goes.
pub(super) struct Route {
    pub label: Place,
    /// Where it crosses the ranks between its ends, from top to bottom; as high as the rank.
    pub crossings: Vec<Place>,
}

/// A node, or a part of an edge.
struct Vertex {
    rank: usize,
    size: Size,
    is_node: bool,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// Vertices by rank, each rank from left to right.
type Ranks = Vec<Vec<usize>>;

/// Places everything below and right of (0, 0).
pub(super) fn layout(nodes: &[Size], edges: &[Edge]) -> Layout {
    let layers = layers(nodes.len(), edges);
    let (vertices, chains) = vertices(nodes, edges, &layers);
    let ranks = ordered(&vertices);
    let x = x_coordinates(&vertices, &ranks);

    let mut top = 0.0;
    let mut rows = Vec::new();
    for rank in &ranks {
        let heights = rank.iter().map(|&vertex| vertices[vertex].size.height);
        let height = heights.fold(0.0, f64::max);
        rows.push((top + height / 2.0, height));
        top += height + RANK_GAP;
    }
    let place = |vertex: usize, height: Option<f64>| {
        let Vertex { rank, size, .. } = &vertices[vertex];
        Place {
            x: x[vertex],
            y: rows[*rank].0,
            width: size.width,
            height: height.unwrap_or(size.height),
        }
    };
    Layout {
        nodes: (0..nodes.len()).map(|node| place(node, None)).collect(),
        routes: edges
            .iter()
            .zip(&chains)
            .map(|(edge, chain)| Route {
                label: place(chain[label_at(&layers, edge)], None),
                crossings: chain
                    .iter()
                    .map(|&vertex| place(vertex, Some(rows[vertices[vertex].rank].1)))
                    .collect(),
            })
            .collect(),
    }
}

fn layers(nodes: usize, edges: &[Edge]) -> Vec<usize> {
    let mut layers = vec![0; nodes];
    for node in 0..nodes {
        let above = edges.iter().filter(|edge| edge.to == node);
        layers[node] = above.map(|edge| layers[edge.from] + 1).max().unwrap_or(0);
    }
    // A node with as many edges below as above makes them no longer when it moves down.
    for node in (0..nodes).rev() {
        let above = edges.iter().filter(|edge| edge.to == node).count();
        let below = || edges.iter().filter(|edge| edge.from == node);
        if below().count() >= above {
            let nearest = below().map(|edge| layers[edge.to] - 1).min();
            layers[node] = nearest.unwrap_or(layers[node]);
        }
    }
    layers
}

/// Which vertex of an edge's chain has the label: the one in the middle, on an odd rank.
fn label_at(layers: &[usize], edge: &Edge) -> usize {
    (layers[edge.to] - layers[edge.from] - 1) & !1
}

/// The nodes' vertices, and then the chain of each edge.
fn vertices(nodes: &[Size], edges: &[Edge], layers: &[usize]) -> (Vec<Vertex>, Vec<Vec<usize>>) {
    let vertex = |rank, size, is_node| Vertex {
        rank,
        size,
        is_node,
        above: Vec::new(),
        below: Vec::new(),
    };
    let sized = nodes.iter().zip(layers);
    let mut vertices: Vec<Vertex> = sized
        .map(|(size, layer)| vertex(2 * layer, *size, true))
        .collect();
    let mut chains = Vec::new();
    for edge in edges {
        let first = vertices.len();
        let ranks = 2 * layers[edge.from] + 1..2 * layers[edge.to];
        for (at, rank) in ranks.enumerate() {
            let size = if at == label_at(layers, edge) {
                edge.label
            } else {
                Size {
                    width: 0.0,
                    height: 0.0,
                }
            };
            vertices.push(vertex(rank, size, false));
        }
        let chain: Vec<usize> = (first..vertices.len()).collect();
        let mut above = edge.from;
        for &below in chain.iter().chain([&edge.to]) {
            vertices[above].below.push(below);
            vertices[below].above.push(above);
            above = below;
        }
        chains.push(chain);
    }
    (vertices, chains)
}

fn ordered(vertices: &[Vertex]) -> Ranks {
    let deepest = vertices.iter().map(|vertex| vertex.rank).max();
    let mut ranks: Ranks = vec![Vec::new(); deepest.map_or(0, |rank| rank + 1)];
    // To begin with, each vertex is next to what else its first reader leads to.
    let mut seen = vec![false; vertices.len()];
    for start in 0..vertices.len() {
        let mut stack = vec![start];
        while let Some(vertex) = stack.pop() {
            if !std::mem::replace(&mut seen[vertex], true) {
                ranks[vertices[vertex].rank].push(vertex);
                stack.extend(vertices[vertex].below.iter().rev());
            }
        }
    }
    let mut best = ranks.clone();
    let mut fewest = crossings(vertices, &best);
    for sweep in 0..ORDER_SWEEPS {
        if fewest == 0 {
            break;
        }
        let down = sweep % 2 == 0;
        for step in 1..ranks.len() {
            let rank = if down { step } else { ranks.len() - 1 - step };
            let at = positions(vertices, &ranks);
            let mean = |&vertex: &usize| {
                let Vertex { above, below, .. } = &vertices[vertex];
                let near = if down { above } else { below };
                match near.len() {
                    0 => at[vertex],
                    count => near.iter().map(|&vertex| at[vertex]).sum::<f64>() / count as f64,
                }
            };
            ranks[rank].sort_by(|one, other| mean(one).total_cmp(&mean(other)));
        }
        let found = crossings(vertices, &ranks);
        if found < fewest {
            (best, fewest) = (ranks.clone(), found);
        }
    }
    best
}

/// The position of each vertex in its rank.
fn positions(vertices: &[Vertex], ranks: &Ranks) -> Vec<f64> {
    let mut positions = vec![0.0; vertices.len()];
    for (position, &vertex) in ranks.iter().flat_map(|rank| rank.iter().enumerate()) {
        positions[vertex] = position as f64;
    }
    positions
}

fn crossings(vertices: &[Vertex], ranks: &Ranks) -> usize {
    let at = positions(vertices, ranks);
    let in_rank = |rank: &Vec<usize>| {
        let edges = rank.iter().flat_map(|&above| {
            let below = vertices[above].below.iter();
            below.map(move |&below| (above, below))
        });
        let edges: Vec<_> = edges.map(|(above, below)| (at[above], at[below])).collect();
        let crossed = |(index, one): (usize, &(f64, f64))| {
            let others = edges[index + 1..].iter();
            others.filter(|other| crosses(*one, **other)).count()
        };
        edges.iter().enumerate().map(crossed).sum::<usize>()
    };
    ranks.iter().map(in_rank).sum()
}

/// Whether two edges between the same ranks cross, by their positions above and below.
fn crosses(one: (f64, f64), other: (f64, f64)) -> bool {
    (one.0 - other.0) * (one.1 - other.1) < 0.0
}

/// Something that moves as one, and what it is next to and connected to.
#[derive(Default)]
struct Block {
    /// Blocks on either side, and how far their centres must be apart.
    left: Vec<(usize, f64)>,
    right: Vec<(usize, f64)>,
    /// One for each edge.
    connected: Vec<usize>,
}

fn x_coordinates(vertices: &[Vertex], ranks: &Ranks) -> Vec<f64> {
    let block_of = block_of(vertices, ranks);
    let count = block_of.iter().max().map_or(0, |last| last + 1);
    let mut blocks: Vec<Block> = (0..count).map(|_| Block::default()).collect();
    for pair in ranks.iter().flat_map(|rank| rank.windows(2)) {
        let (one, other) = (&vertices[pair[0]], &vertices[pair[1]]);
        let gap = if one.is_node && other.is_node {
            NODE_GAP
        } else {
            EDGE_GAP
        };
        let apart = f64::midpoint(one.size.width, other.size.width) + gap;
        let (left, right) = (block_of[pair[0]], block_of[pair[1]]);
        blocks[left].right.push((right, apart));
        blocks[right].left.push((left, apart));
    }
    for (above, vertex) in vertices.iter().enumerate() {
        for &below in &vertex.below {
            let (above, below) = (block_of[above], block_of[below]);
            if above != below {
                blocks[above].connected.push(below);
                blocks[below].connected.push(above);
            }
        }
    }

    // All the way to the left; then to where they are pulled.
    let mut x = vec![0.0; count];
    for _ in 0..count {
        for block in 0..count {
            let left = blocks[block].left.iter();
            x[block] = left
                .map(|(left, apart)| x[*left] + apart)
                .fold(0.0, f64::max);
        }
    }
    for _ in 0..MOVE_ROUNDS {
        let moves = (0..count).map(|block| pull(&blocks, block, &mut x));
        if moves.fold(0.0, f64::max) < 0.01 {
            break;
        }
    }
    let edge = |(vertex, block): (&Vertex, &usize)| x[*block] - vertex.size.width / 2.0;
    let leftmost = vertices.iter().zip(&block_of).map(edge);
    let leftmost = leftmost.fold(f64::INFINITY, f64::min);
    block_of.iter().map(|&block| x[block] - leftmost).collect()
}

/// Moves a block, together with those that it pushes along, towards the mean of what they are
/// connected to; returns how far.
fn pull(blocks: &[Block], block: usize, x: &mut [f64]) -> f64 {
    let force = |group: &[usize], x: &[f64]| {
        let mut sum = 0.0;
        let mut edges = 0;
        for &member in group {
            for &other in &blocks[member].connected {
                if !group.contains(&other) {
                    sum += x[other] - x[member];
                    edges += 1;
                }
            }
        }
        if edges == 0 {
            0.0
        } else {
            sum / f64::from(edges)
        }
    };
    let mut group = vec![block];
    let right = force(&group, x) > 0.0;
    loop {
        let wanted = force(&group, x);
        if wanted.abs() < 0.001 || (wanted > 0.0) != right {
            return 0.0;
        }
        let mut room = f64::INFINITY;
        let mut in_the_way = None;
        for &member in &group {
            let Block {
                left, right: after, ..
            } = &blocks[member];
            for &(other, apart) in if right { after } else { left } {
                let slack = (x[other] - x[member]).abs() - apart;
                if !group.contains(&other) && slack < room {
                    (room, in_the_way) = (slack, Some(other));
                }
            }
        }
        match in_the_way {
            Some(other) if room < 0.001 => group.push(other),
            _ => {
                let step = wanted.abs().min(room);
                for member in group {
                    x[member] += step.copysign(wanted);
                }
                return step;
            }
        }
    }
}

/// Numbers the vertical blocks: vertices that are each other's only neighbour there, unless that
/// would lead one block across another.
fn block_of(vertices: &[Vertex], ranks: &Ranks) -> Vec<usize> {
    let at = positions(vertices, ranks);
    let mut blocks = vec![usize::MAX; vertices.len()];
    let mut count = 0;
    for rank in ranks {
        let mut links: Vec<(f64, f64)> = Vec::new();
        for &vertex in rank {
            let only = match vertices[vertex].above[..] {
                [above] if vertices[above].below.len() == 1 => Some(above),
                _ => None,
            };
            let link = only.map(|above| (at[above], at[vertex]));
            let free = |link: &(f64, f64)| !links.iter().any(|other| crosses(*link, *other));
            match only.zip(link.filter(free)) {
                Some((above, link)) => {
                    links.push(link);
                    blocks[vertex] = blocks[above];
                }
                None => {
                    blocks[vertex] = count;
                    count += 1;
                }
            }
        }
    }
    blocks
}

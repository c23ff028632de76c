//! Draws the images of the generated set.
//!
//! An image shows a bright pattern (bands, checks, discs or rings) on a dark, cluttered background. The
//! pattern is filled either plainly or with a fine hatching or dots; a class is one pattern with one
//! filling. Colours, size, rotation and background are random, and a plain filling is on average as bright
//! as a fine one. The pattern covers the image, so every crop shows it, and flipping does not change its
//! class. The pattern is visible at every resolution; the filling is a few pixels fine and blurs at a low
//! one. So resolutions are worth comparing on this set.

use std::f32::consts::TAU;

use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

#[derive(Debug, Clone, Copy)]
pub(super) enum Pattern {
    Bands,
    Checks,
    Discs,
    Rings,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Filling {
    Plain,
    Hatched,
    Dotted,
}

/// The classes: a set of `n` classes has the first `n`.
pub(super) const CLASSES: [(&str, Pattern, Filling); 12] = [
    ("bands_plain", Pattern::Bands, Filling::Plain),
    ("bands_hatched", Pattern::Bands, Filling::Hatched),
    ("discs_plain", Pattern::Discs, Filling::Plain),
    ("discs_hatched", Pattern::Discs, Filling::Hatched),
    ("checks_plain", Pattern::Checks, Filling::Plain),
    ("checks_hatched", Pattern::Checks, Filling::Hatched),
    ("rings_plain", Pattern::Rings, Filling::Plain),
    ("rings_hatched", Pattern::Rings, Filling::Hatched),
    ("bands_dotted", Pattern::Bands, Filling::Dotted),
    ("discs_dotted", Pattern::Discs, Filling::Dotted),
    ("checks_dotted", Pattern::Checks, Filling::Dotted),
    ("rings_dotted", Pattern::Rings, Filling::Dotted),
];

impl Pattern {
    /// Signed distance of a point from the edge of the pattern, negative inside. The period is 1.
    fn distance(self, x: f32, y: f32) -> f32 {
        // Relative to the nearest centre, -0.5 to 0.5.
        let (u, v) = (x - x.round(), y - y.round());
        match self {
            Self::Bands => u.abs() - 0.25,
            Self::Checks => {
                let inside = (0.25 - u.abs()).abs().min((0.25 - v.abs()).abs());
                if (u.abs() < 0.25) == (v.abs() < 0.25) {
                    -inside
                } else {
                    inside
                }
            }
            Self::Discs => u.hypot(v) - 0.37,
            Self::Rings => (u.hypot(v) - 0.32).abs() - 0.12,
        }
    }
}

impl Filling {
    /// Brightness at a point, -1 (darkest) to 1 (brightest) with a mean of 0. The period is 1.
    fn brightness(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Plain => 0.0,
            Self::Hatched => (TAU * x).sin(),
            Self::Dotted => (TAU * x).sin() * (TAU * y).sin() * 1.4,
        }
    }
}

/// Draws an image, `[side, side, 3]`, RGB.
pub(super) fn paint(
    pattern: Pattern,
    filling: Filling,
    side: u32,
    rng: &mut Xoshiro256PlusPlus,
) -> Vec<u8> {
    let mut canvas = Canvas {
        side,
        pixels: vec![[0.0; 3]; side as usize * side as usize],
    };
    let extent = side as f32;

    // The background: a gradient and soft blobs.
    let ground = colour(rng, 15.0, 85.0);
    let drift = colour(rng, -25.0, 25.0);
    let angle = rng.random_range(0.0..TAU);
    canvas.fill(|x, y| {
        let along = (x * angle.cos() + y * angle.sin()) / extent;
        std::array::from_fn(|c| ground[c] + drift[c] * along)
    });
    for _ in 0..rng.random_range(3..8) {
        let (x, y) = (rng.random_range(0.0..extent), rng.random_range(0.0..extent));
        let long = rng.random_range(0.12..0.4) * extent;
        let short = rng.random_range(0.1..0.25) * extent;
        let tint = colour(rng, -28.0, 28.0);
        let near: [f32; 3] = std::array::from_fn(|c| ground[c] + tint[c]);
        let soft = rng.random_range(1.0..6.0);
        let blob = Frame::new(x, y, 1.0, rng.random_range(0.0..TAU));
        canvas.draw(&blob, |u, v| {
            let outside = ((u / long).hypot(v / short) - 1.0) * long.min(short) / soft;
            (coverage(outside) * 0.8, near)
        });
    }

    // The pattern and its filling, each with its own position, scale and rotation.
    let ink = colour(rng, 175.0, 255.0);
    let repeat = rng.random_range(24.0..34.0);
    let mut anywhere = |repeat: f32| {
        let (x, y) = (rng.random_range(0.0..extent), rng.random_range(0.0..extent));
        Frame::new(x, y, repeat, rng.random_range(0.0..TAU))
    };
    let frame = anywhere(repeat);
    let fine = anywhere(1.0);
    let fineness = rng.random_range(3.8..5.0);
    let strength = rng.random_range(0.55..0.65);
    let depth = rng.random_range(0.3..0.42);
    canvas.draw(&frame, |u, v| {
        let (x, y) = frame.to_image(u, v);
        let (x, y) = fine.to_frame(x, y);
        let bright = filling.brightness(x / fineness, y / fineness);
        let opaque = (strength + depth * bright).clamp(0.0, 1.0);
        (coverage(pattern.distance(u, v) * repeat) * opaque, ink)
    });

    let noise = rng.random_range(2.0..8.0);
    canvas.into_bytes(|| {
        // The sum of three uniform numbers is close enough to a normal distribution.
        let sum: f32 = (0..3).map(|_| rng.random_range(-1.0_f32..1.0)).sum();
        sum * noise
    })
}

fn colour(rng: &mut Xoshiro256PlusPlus, from: f32, to: f32) -> [f32; 3] {
    std::array::from_fn(|_| rng.random_range(from..to))
}

/// The covered share of a pixel whose centre is `outside` pixels outside of an edge.
fn coverage(outside: f32) -> f32 {
    (0.5 - outside).clamp(0.0, 1.0)
}

/// A coordinate frame in the image: position, scale and rotation.
struct Frame {
    x: f32,
    y: f32,
    scale: f32,
    cos: f32,
    sin: f32,
}

impl Frame {
    fn new(x: f32, y: f32, scale: f32, angle: f32) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self {
            x,
            y,
            scale,
            cos,
            sin,
        }
    }

    /// Converts image coordinates to this frame.
    fn to_frame(&self, x: f32, y: f32) -> (f32, f32) {
        let (dx, dy) = ((x - self.x) / self.scale, (y - self.y) / self.scale);
        (dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin)
    }

    /// Converts coordinates of this frame to the image.
    fn to_image(&self, u: f32, v: f32) -> (f32, f32) {
        let x = u * self.cos - v * self.sin;
        let y = u * self.sin + v * self.cos;
        (x * self.scale + self.x, y * self.scale + self.y)
    }
}

struct Canvas {
    side: u32,
    pixels: Vec<[f32; 3]>,
}

impl Canvas {
    fn fill(&mut self, colour: impl Fn(f32, f32) -> [f32; 3]) {
        let side = self.side as usize;
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            *pixel = colour((index % side) as f32, (index / side) as f32);
        }
    }

    /// Blends a colour over every pixel; `ink` returns opacity and colour at coordinates of `frame`.
    fn draw(&mut self, frame: &Frame, ink: impl Fn(f32, f32) -> (f32, [f32; 3])) {
        let side = self.side as usize;
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            let (u, v) = frame.to_frame((index % side) as f32, (index / side) as f32);
            let (opaque, ink) = ink(u, v);
            *pixel = std::array::from_fn(|c| pixel[c] + (ink[c] - pixel[c]) * opaque);
        }
    }

    fn into_bytes(self, mut noise: impl FnMut() -> f32) -> Vec<u8> {
        let noisy = |value: f32, noise: f32| (value + noise).round().clamp(0.0, 255.0) as u8;
        let mut bytes = Vec::with_capacity(self.pixels.len() * 3);
        for pixel in self.pixels {
            // Mostly luminance noise, as a camera's.
            let common = noise();
            for value in pixel {
                bytes.push(noisy(value, common + 0.3 * noise()));
            }
        }
        bytes
    }
}

use std::sync::Arc;

use super::*;
use crate::CopyKind;

fn activity(start: u64, end: u64, what: What) -> Activity {
    Activity {
        start,
        end,
        device: 0,
        what,
    }
}

fn kernel(start: u64, end: u64, name: &str) -> Activity {
    activity(start, end, What::Kernel(Arc::from(name)))
}

fn copy(start: u64, end: u64) -> Activity {
    let kind = CopyKind::HostToDevice;
    activity(start, end, What::Copy { kind, bytes: 1 })
}

/// `[100, 200]` with 150..180 inside, `[300, 400]` with 350..450 half inside, a fill at 500, a copy to 600.
fn example() -> Vec<Activity> {
    vec![
        kernel(350, 450, "rsflow_norm_forward_bf16"),
        kernel(100, 200, "sm90_xmma_fprop_implicit_gemm_bf16"),
        activity(500, 500, What::Set { bytes: 4 }),
        kernel(150, 180, "mystery"),
        copy(580, 600),
        kernel(300, 400, "sm90_xmma_fprop_implicit_gemm_bf16"),
    ]
}

#[test]
fn time_in_which_activities_overlap_is_busy_once() {
    let shares = Shares::of(&example());
    assert_eq!(shares.window_ns, 500);
    assert_eq!(shares.busy_ns, 100 + 150 + 20);
    assert_eq!(shares.busy_share, 0.54);
    assert_eq!(shares.sum_ns, 100 + 30 + 100 + 100 + 20);
    assert_eq!(shares.count, 6);
    let groups: Vec<_> = shares
        .groups
        .iter()
        .map(|group| (group.group, group.count, group.time_ns))
        .collect();
    assert_eq!(
        groups,
        [
            (Group::Convolution, 2, 200),
            (Group::Norm, 1, 100),
            (Group::Other, 1, 30),
            (Group::Copies, 2, 20),
        ]
    );
    assert_eq!(shares.groups[0].share, 200.0 / 350.0);
    let total: f64 = shares.groups.iter().map(|group| group.share).sum();
    assert!((total - 1.0).abs() < 1e-12, "{total}");
    let kernels: Vec<_> = shares
        .kernels
        .iter()
        .map(|kernel| (&*kernel.name, kernel.count, kernel.time_ns))
        .collect();
    assert_eq!(
        kernels,
        [
            ("sm90_xmma_fprop_implicit_gemm_bf16", 2, 200),
            ("rsflow_norm_forward_bf16", 1, 100),
            ("mystery", 1, 30),
        ]
    );
}

#[test]
fn a_window_cuts_what_reaches_beyond_it() {
    let within = |window| Shares::within(&example(), window, 1);
    let shares = within(160..380);
    assert_eq!((shares.window_ns, shares.count), (220, 4));
    assert_eq!(shares.sum_ns, 40 + 20 + 80 + 30);
    assert_eq!(shares.busy_ns, 40 + 80);
    assert_eq!(shares.kernels.len(), 1);
    assert_eq!(shares.kernels[0].time_ns, 120);
    // Ends before, starts after; the fill takes no time but is there.
    assert_eq!(within(200..300).count, 0);
    assert_eq!(within(200..300).busy_share, 0.0);
    assert_eq!(within(500..501).count, 1);
    assert_eq!(within(120..140).busy_share, 1.0);
    let backwards = Range {
        start: 400,
        end: 100,
    };
    assert_eq!(
        (
            within(backwards.clone()).sum_ns,
            within(backwards).window_ns
        ),
        (0, 0)
    );
}

#[test]
fn nothing_is_fine() {
    assert_eq!(Shares::of(&[]), Shares::default());
    assert_eq!(Shares::within(&[], 5..10, 3).window_ns, 5);
    let instant = Shares::of(&[copy(7, 7)]);
    assert_eq!((instant.count, instant.busy_share), (1, 0.0));
    // Malformed: ends before it starts.
    assert_eq!(Shares::of(&[copy(9, 7)]).sum_ns, 0);
}

#[test]
fn a_busy_share_never_leaves_its_range() {
    // A small generator of random spans; the union is compared with counting moments one by one.
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    for _ in 0..200 {
        let activities: Vec<Activity> = (0..random(12))
            .map(|_| {
                let start = random(60);
                kernel(start, start + random(20), "k")
            })
            .collect();
        let (low, high) = (random(40), 40 + random(40));
        let shares = Shares::within(&activities, low..high, 1);
        let covered = (low..high).filter(|moment| {
            let covers = |activity: &Activity| (activity.start..activity.end).contains(moment);
            activities.iter().any(covers)
        });
        assert_eq!(
            shares.busy_ns,
            covered.count() as u64,
            "{activities:?} {low} {high}"
        );
        assert!((0.0..=1.0).contains(&shares.busy_share));
    }
}

#[test]
fn shares_are_told_as_json() {
    let shares = serde_json::to_value(Shares::of(&example())).unwrap();
    assert_eq!(shares["groups"][0]["group"], "convolution");
    assert_eq!(shares["busy_ns"], 270);
    assert_eq!(format!("{:<12}|", Group::Depthwise), "depthwise   |");
}

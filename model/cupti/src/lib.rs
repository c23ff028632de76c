//! What a GPU does while a program runs: recorded by CUPTI, NVIDIA's library for profilers, and summed by
//! kind of work. CUPTI is loaded when a [`Recorder`] starts, and nothing of it is needed to build this.

mod groups;
#[allow(unsafe_code)]
mod recorder;

pub use groups::{Group, GroupShare, KernelShare, Shares, demangled, group_of};
pub use recorder::{Activity, CopyKind, Lost, Recorder, Recording, What};

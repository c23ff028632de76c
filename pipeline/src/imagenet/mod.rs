//! Sorts ImageNet's validation images, which come in one folder, into class folders.
//!
//! | file | content |
//! |---|---|
//! | `labels` | the class of each image |
//! | `meta_mat` | reads the devkit's file of classes |
//! | `sorting` | plans and executes the moves; all checks come before the first move |
//! | `place` | moves or links one file without data loss |

mod labels;
mod meta_mat;
mod place;
mod sorting;

pub use labels::{Label, Labels};
pub use sorting::{Action, How, Sorting, Step, Task, carry_out, plan};

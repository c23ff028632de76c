//! ImageNet's validation images, which come in one folder, into class folders.
//!
//! | file | what it holds |
//! |---|---|
//! | `labels` | which class each image shows |
//! | `meta_mat` | the devkit's file of classes |
//! | `sorting` | what goes where; all checks come before the first file moves |
//! | `place` | moving or linking one file, so that nothing is lost |

mod labels;
mod meta_mat;
mod place;
mod sorting;

pub use labels::{Label, Labels};
pub use sorting::{Action, How, Sorting, Step, Task, carry_out, plan};

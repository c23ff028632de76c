//! The program as a whole, in one test binary.

mod average;
mod broken;
mod catalogue;
mod compare;
mod damage;
mod effects;
mod evaluate;
mod exchange;
mod folders;
mod gpu;
mod hostile;
mod machine;
mod norms;
mod prepare_val;
mod preprocess;
mod profile;
mod quantized;
mod run;
mod run_dir;
mod serve;
mod short;
mod single;
mod summary;
mod sweep;
mod untrained;
mod workplace;

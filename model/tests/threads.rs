//! What a process is set to holds in threads that are started later. In a test binary of its own, since
//! it sets the whole process.
#![cfg(target_os = "linux")]

use rsflow_model::nn::compute::{DeviceChoice, ProcessSettings, adopt_thread_count, apply};
use tch::{Device, Kind, Tensor};

fn threads_of_process() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_thread_that_is_started_later_computes_with_as_many_threads_as_were_set() {
    let settings = ProcessSettings {
        device: DeviceChoice::Cpu,
        tf32: false,
        deterministic: false,
        threads: Some(1),
    };
    apply(&settings).unwrap();
    let computing = std::thread::spawn(|| {
        adopt_thread_count();
        let before = threads_of_process();
        // oneDNN's convolution, which asks OpenMP and not libtorch for the number of threads.
        let random = |shape: &[i64]| Tensor::rand(shape, (Kind::Float, Device::Cpu));
        let (images, weight) = (random(&[8, 32, 32, 32]), random(&[32, 32, 3, 3]));
        let output = images.f_conv2d(&weight, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1);
        assert_eq!(output.unwrap().size(), [8, 32, 32, 32]);
        (before, threads_of_process())
    });
    let (before, after) = computing.join().unwrap();
    assert_eq!(before, after, "OpenMP started threads");
    assert_eq!(tch::get_num_threads(), 1);
}

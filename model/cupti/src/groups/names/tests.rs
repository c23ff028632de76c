use super::super::Group;
use super::tests_table::NAMES;
use super::{demangled, group_of};

#[test]
fn real_kernels_are_in_their_groups() {
    let mut wrong = Vec::new();
    for (group, names) in NAMES {
        let found = names.iter().map(|name| (name, group_of(name)));
        wrong.extend(found.filter(|(_, found)| found != group));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let count: usize = NAMES.iter().map(|(_, names)| names.len()).sum();
    assert!(count >= 60, "{count}");
}

#[test]
fn a_name_that_is_already_readable_has_the_same_group() {
    for (name, group) in [
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float> >(int)",
            Group::Elementwise,
        ),
        (
            "void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, 512, true, 1, true>(cudnnTensorStruct)",
            Group::Norm,
        ),
        (
            "void dgrad2d_c1_k1_nhwc_kernel_specialized_window<__half, float, float, 3, 1, true>(float)",
            Group::Depthwise,
        ),
    ] {
        assert_eq!(group_of(name), group, "{name}");
    }
}

#[test]
fn names_for_people_are_short_and_say_what_matters() {
    for (name, readable) in [
        (
            "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctorIfEESt5arrayIPcLm1EEEEviT0_T1_",
            "vectorized_elementwise_kernel<4, FillFunctor<float>, std::array<char*, 1> >",
        ),
        (
            "_ZN2at6native28amp_update_scale_cuda_kernelEPfPiPKfddi",
            "amp_update_scale_cuda_kernel",
        ),
        ("rsflow_pool_forward_bf16", "rsflow_pool_forward_bf16"),
        ("_Znonsense", "_Znonsense"),
        ("", ""),
    ] {
        assert_eq!(demangled(name), readable);
    }
    for name in NAMES.iter().flat_map(|(_, names)| *names) {
        let readable = demangled(name);
        let length = readable.chars().count();
        assert!(length <= 100, "{readable}");
        assert_eq!(readable.is_empty(), name.is_empty());
        assert!(!readable.starts_with("_ZN"), "{readable}");
    }
    let long = demangled(&"é".repeat(300));
    assert_eq!(long, format!("{}…", "é".repeat(99)));
}

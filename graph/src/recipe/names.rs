//! What other programs call the fields of a recipe.

/// Fields of a recipe by the names that options of timm, Ultralytics and PyTorch's examples have.
pub const OTHER_NAMES: &[(&str, &str)] = &[
    ("a", "network"),
    ("amp", "precision"),
    ("arch", "network"),
    ("b", "size"),
    ("batch", "size"),
    ("batch_size", "size"),
    ("clip_grad", "clip_gradients"),
    ("data", "root"),
    ("j", "cpu_workers"),
    ("learning_rate", "lr"),
    ("lr0", "lr"),
    ("lr_scheduler", "schedule"),
    ("model", "network"),
    ("num_classes", "classes"),
    ("num_workers", "cpu_workers"),
    ("opt", "optimizer"),
    ("pretrained", "start_from"),
    ("sched", "schedule"),
    ("smoothing", "label_smoothing"),
    ("warmup_epochs", "warm_up_epochs"),
    ("wd", "weight_decay"),
    ("weights", "start_from"),
    ("workers", "cpu_workers"),
];

//! What other programs call our commands, options and formats.

/// Options by the names that others have for them: the commands, the names, and ours, in which `VALUE` stands for what
/// was given, and `DATA` for what `--data` has.
pub(super) const OPTIONS: &[(&[&str], &[&str], &str)] = &[
    (
        &["new", "train"],
        &["a", "arch", "model", "net"],
        "`--network VALUE`",
    ),
    (
        &["new", "train"],
        &["data", "data_dir", "data_path"],
        "`VALUE` without an option",
    ),
    (
        &["new", "train"],
        &["val", "val_data", "val_dir", "validation"],
        "`VALUE` without an option, after the images to train on",
    ),
    (
        &["new", "train"],
        &[
            "imgsz",
            "img_size",
            "image_size",
            "resolution",
            "resolutions",
        ],
        "`--sizes VALUE`",
    ),
    (
        &["run", "train"],
        &["out", "output", "output_dir", "log_dir", "save_dir"],
        "`--run-dir VALUE`",
    ),
    (&["run", "train"], &["project"], "`--run-dir VALUE/NAME`"),
    (
        &["run"],
        &["gpus", "nproc_per_node", "world_size"],
        "`--processes VALUE`",
    ),
    (
        &["eval"],
        &["imgsz", "img_size", "image_size"],
        "`--sizes VALUE`",
    ),
    (
        &["eval"],
        &["split"],
        "`--data DATA/VALUE`, the folder that holds the class folders of that part; without `--data` the images are \
         those that the run was validated on",
    ),
    (
        &["export", "predict"],
        &["imgsz", "img_size", "image_size"],
        "`--size VALUE`",
    ),
    (&["predict"], &["topk", "top_k"], "`--top VALUE`"),
    (&["export"], &["format"], "`--to VALUE`"),
    (
        &["export", "import", "new"],
        &["o", "output"],
        "`--out VALUE`",
    ),
    (&["serve"], &["port"], "`--listen 127.0.0.1:VALUE`"),
    (&["serve"], &["host"], "`--listen VALUE:8080`"),
];

/// Commands by other names, and ours, in which `RUN_DIR` stands for what follows.
pub(super) const COMMANDS: &[(&[&str], &str)] = &[
    (&["resume"], "`rsflow train --resume RUN_DIR`"),
    (
        &["fit", "finetune", "fine-tune", "fine_tune"],
        "`rsflow train DATA`, or `rsflow run RECIPE`",
    ),
    (
        &["evaluate", "test", "val", "validate"],
        "`rsflow eval RUN_DIR`",
    ),
    (
        &["classify", "detect", "infer", "inference"],
        "`rsflow predict RUN_DIR IMAGE...`",
    ),
    (
        &["convert"],
        "`rsflow export RUN_DIR --to FORMAT --out FILE`, or `rsflow import FILE` for weights of PyTorch",
    ),
    (&["benchmark"], "`rsflow bench RECIPE`"),
    (&["tune"], "`rsflow sweep RECIPE`"),
    (&["lint", "verify"], "`rsflow check RECIPE`"),
    (&["info", "params"], "`rsflow summary RECIPE`"),
    (&["list", "ls"], "`rsflow runs`"),
    (&["monitor", "watch"], "`rsflow top`"),
    (&["create", "init"], "`rsflow new DATA`"),
    (&["version"], "`rsflow --version`"),
];

/// Formats of `rsflow export --to` by other names.
pub(super) const FORMATS: &[(&[&str], &str)] = &[
    (
        &["pt", "pytorch"],
        "`--to torchscript` for torch.jit.load, or `--to torchvision` or `--to timm` for weights, as safetensors",
    ),
    (
        &["bin", "ckpt", "pth", "safetensors", "state_dict"],
        "`--to torchvision` or `--to timm` for a network of one size, or `--to pth-names` for that of all sizes, as \
         safetensors",
    ),
    (&["jit", "script"], "`--to torchscript`"),
    (
        &["engine", "tensorrt", "trt"],
        "`--to onnx`, from which TensorRT builds an engine: trtexec --onnx=FILE",
    ),
    (&["openvino"], "`--to onnx`, which OpenVINO reads"),
    (
        &["mnn", "ncnn", "paddle", "pb", "saved_model", "tf", "tflite"],
        "`--to onnx`, which the converters to that format read",
    ),
    (
        &["coreml", "mlmodel", "mlpackage"],
        "`--to torchscript`, which coremltools converts",
    ),
];

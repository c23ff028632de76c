//! Examples and explanations below the options of `--help`.

pub const MAIN_EXAMPLES: &str = "\
Examples:
  rsflow run recipes/quickstart.ron            train on a small generated image set
  rsflow sweep recipes/quickstart.ron --over trainer.optimizer.lr=0.1,0.03 --seeds 2
  rsflow check recipes/*.ron                   find every mistake without touching data
  rsflow profile recipes/quickstart.ron        where the time goes, and which parameter to change
  rsflow eval best.safetensors --data data/imagenette --sizes 128 96
  rsflow predict --checkpoint best.safetensors --size 96 cat.jpg
  rsflow serve --checkpoint best.safetensors   over HTTP, at the resolution that the load allows
  rsflow nodes RandomResizedCrop               what a node does, and its parameters
  rsflow graph recipes/resnet50_kd.ron --format svg > graph.svg
  rsflow bench recipes/resnet50_kd.ron --only step  how fast a training step is here
  rsflow doctor                                what this machine offers, and what is missing
  rsflow report runs/mine                      what a run did, as one page with curves and mistakes

Environment:
  RSFLOW_LOG            how much run.log has: debug, or info,rsflow_model=debug
  RSFLOW_CPU_BFLOAT16   yes or no: overrides whether the processor is found to be fast in bfloat16
  CUDA_VISIBLE_DEVICES  which GPUs may be used
  OMP_NUM_THREADS       threads on the CPU where `threads` is left out
  XDG_CACHE_HOME        where listings and compiled kernels are kept; ~/.cache if not set

Exit codes:
  0     done
  1     it failed: data is missing, damaged or of other classes, a file cannot be read or written, a device fails
  2     the recipe or the command line is wrong, whatever the data
  130   interrupted";

pub const RUN_EXAMPLES: &str = "\
Examples:
  rsflow run recipes/quickstart.ron
  rsflow run recipes/imagenette_resnet18.ron --set trainer.epochs=3 --set sizes=[64,48]
  rsflow run recipes/imagenette_resnet18.ron --run-dir runs/mine
  rsflow run recipes/imagenette_resnet18.ron --run-dir runs/mine --resume
  rsflow run changed.ron --run-dir runs/mine --resume --accept-changes
  rsflow run recipes/imagenette_resnet18.ron --processes 2 --max-restarts 3
  torchrun --nnodes 2 --nproc-per-node 8 --no-python rsflow run mine.ron --run-dir runs/mine --resume-if-any
  srun --kill-on-bad-exit=1 rsflow run mine.ron --run-dir runs/mine --resume-if-any

A run directory holds recipe.ron (overrides applied), metrics.jsonl, tensorboard/, run.log and
checkpoints/ (last, best and epoch-NNN.safetensors). Ctrl-C finishes the current step, saves a
checkpoint and exits; --resume continues from there, bit for bit. A second Ctrl-C exits at once.
SIGTERM, SIGQUIT and a terminal that closes do the same as Ctrl-C. best.safetensors is the epoch
with the highest top-1 of the first resolution in `sizes`, then the highest mean of all. --resume
of a finished run completes what it had left to do when it was killed.
Of several processes each trains on its share of every batch, whose `size` is that of all
together; gradients, running statistics and losses are averaged, so all hold the same network.
Process 0 writes the files and prints; the others log to run.rank-N.log. torchrun, Slurm, Open MPI
and MPICH say by their variables which process this is; MASTER_ADDR and MASTER_PORT say where all
meet, where they do not. With `device: Auto` each takes the GPU of its number on its machine. They
share the disk with the run directory. A run can be resumed with another number of processes: it
continues at the same image.

A process that dies, or gives no sign of life for --silence seconds, ends all; the one that is lost,
or the first error of any, is printed. Process 0 saves the last whole step before. --max-restarts
starts all again from there. --resume-if-any starts a run, or resumes it from its newest sound
checkpoint: one command line for launchers that start it again.

The environment variable RSFLOW_LOG sets the level of run.log: RSFLOW_LOG=debug, or for one crate
RSFLOW_LOG=info,rsflow_model=debug. The default is info.

--resume with a different recipe lists the differences, field by field, and exits before anything is
written; --accept-changes resumes with the new recipe. Within an epoch, the seed and the number of
steps cannot change.";

pub const SWEEP_EXAMPLES: &str = "\
Examples:
  rsflow sweep mine.ron --over trainer.optimizer.lr=0.1,0.03 --seeds 3
  rsflow sweep mine.ron --over trainer.optimizer.lr=0.1,0.03 --parallel 2 \\
      --over trainer.distill=None,EnsembleTopDown --set trainer.epochs=10
  rsflow sweep recipes/quickstart.ron --over sizes=[64,48],[32] --dir runs/sizes
  rsflow sweep mine.ron --over \"trainer.optimizer=Sgd(lr: 0.1),AdamW(lr: 0.001)\" --dry-run

All combinations are checked, as by `rsflow check`, before the first run starts. Each run has the
directory DIR/COMBINATION/SEED, such as runs/mine/sweep/lr=0.1/3, and what it prints is appended to
DIR/COMBINATION/SEED.log. DIR/recipe.ron is the recipe that they have in common, --set applied: the
file that was named may be edited meanwhile. DIR/sweep.json says which sweep is in DIR.

The same command again continues the sweep: a run that is done is not started again, one that was
interrupted is resumed. Seeds and values can be added. Another recipe or other fields need another
--dir. Ctrl-C has all runs save a checkpoint, as in `rsflow run`; a second one ends them at once. A
run that fails is named at the end, and the others go on; the exit code is 1 then.

With --parallel on the CPU, each run computes on its own cores, and `threads` and `cpu_workers`
default to those. Losses depend on the number of threads to the last bits: set trainer.threads to
compare runs bit by bit, or keep --parallel as it was.

It ends as `rsflow compare DIR` does: each combination against the first one, with intervals.";

pub const EVAL_EXAMPLES: &str = "\
Examples:
  rsflow eval runs/mine/checkpoints/best.safetensors --data data/imagenette
  rsflow eval best.safetensors --data data/imagenette/val --sizes 128 64
  rsflow eval best.safetensors --data data/imagenette --sizes 120 \\
      --batch-norm 120=112
  rsflow eval best.safetensors --data data/imagenette --sizes 120 \\
      --calibrate 2000 --store best120.safetensors
  rsflow eval runs/mine --sizes 120 88 72 --matrix
  rsflow eval runs/mine --predictions mine.csv
  rsflow eval runs/mine --latency --plot mine.svg

A size that was not trained uses batch norms interpolated between those of the next resolutions below and
above (beyond all, those of the nearest), or of the one that --batch-norm names.
With --calibrate N it gets running statistics of its own, measured on N training images (random crops,
as in training). --matrix shows them side by side. The ensemble averages the trained sizes among
--sizes.";

pub const COMPARE_EXAMPLES: &str = "\
Examples:
  rsflow compare runs/kd runs/none                     two runs, or two folders of several seeds
  rsflow compare runs/rs runs/i224+runs/i160+runs/i96  one network of three sizes, or three networks
  rsflow compare runs/lr                               all recipes of a sweep
  rsflow compare a.csv b.csv                           files of `rsflow eval --predictions`

Runs whose recipes differ in the seed alone are one row. Every run is evaluated on the images that it was
validated on, unless that was done before; what it predicts is kept in its folder, in predictions/.

An interval covers what other validation images and, with several seeds, other seeds would change: images
are compared one by one, and the variance between runs is that of all recipes with several seeds. With one
seed each, it is about these networks alone. It is Student's, by the images on which two runs differ: of fewer
than six nothing is concluded.";

pub const PREDICT_EXAMPLES: &str = "\
Examples:
  rsflow predict runs/mine photos                     all images in a folder, at the largest size
  rsflow predict --checkpoint best.safetensors --size 96 cat.jpg dog.jpg
  curl -s https://example.org/cat.jpg | rsflow predict runs/mine -
  rsflow predict --checkpoint best.safetensors --size 224 --top 1 --json - photos/*.jpg

Only the shared weights and one set of batch norms are loaded.";

pub const SERVE_EXAMPLES: &str = "\
Examples:
  rsflow serve --checkpoint runs/mine
  rsflow serve --checkpoint best.safetensors --listen 0.0.0.0:8080 --deadline-ms 100 --floor 128
  rsflow serve --checkpoint best.safetensors --grpc 127.0.0.1:8081
  curl --data-binary @cat.jpg 'http://127.0.0.1:8080/v1/classify?top=3'
  curl --data-binary @cat.jpg 'http://127.0.0.1:8080/v1/classify?size=160&deadline_ms=200'

Before each batch, it takes the largest size with which all that waits is answered by its deadline, by
the times that it measured at the start and corrects while it runs. If requests come faster than a size
can sustain, that size is used only while the queue is short. While more than 1 % of the last second's
requests were refused or late, the smallest is used. A request that cannot be in time even at the smallest size is refused at
once: 503 with Retry-After. One that waited too long gets 504. An answer that is computed is sent, late or
not.

Routes:
  /                    a page: state, resolution in use, latency; try a picture there
  /v1/classify         POST an image file; ?top=5&size=auto|ensemble|PIXELS&deadline_ms=MS
  /v1/status           what the page shows, as JSON
  /v2/...              Open Inference Protocol, with binary tensors: clients of Triton and KServe.
                       An inference has one input: `images` (BYTES: image files), `pixels` (UINT8
                       [n, size, size, 3], RGB) or `normalized` (FP32 [n, 3, size, size]); outputs
                       `logits`, `probabilities`, `resolution`; parameters `size`, `deadline_ms`
  /v2/repository/models/NAME/load
                       POST: load the checkpoint again, as SIGHUP does. The network that is there
                       answers until the new one is warm (more slowly, as both compute), and stays if the file is
                       damaged
  /metrics             for Prometheus

With --grpc, the Open Inference Protocol over gRPC at an address of its own (HTTP/2 without TLS): the same
inputs, outputs and parameters in the same queue, as typed or raw contents; server and model live, ready and
metadata; RepositoryModelLoad; grpc.health.v1 (Check). A call's own timeout shortens its deadline. In place
of 503 it gets UNAVAILABLE with `retry-after`, of 504 DEADLINE_EXCEEDED, of 413 RESOURCE_EXHAUSTED. A call
that is cancelled is not computed. Messages must not be compressed.

SIGTERM or Ctrl-C: no new connections, what is in flight is answered (for at most 30 s), exit code 0.
If the device fails, /v2/health/live says 503 and the exit code is 1.

Answers are those of `rsflow predict`, bit for bit, where a batch has one image. In larger batches libtorch may
sum in another order, which changes the last bits. There is no encryption and no access control: put a proxy
before it where others can reach it.";

pub const IMPORT_EXAMPLES: &str = "\
Examples:
  rsflow import checkpoint.pth.tar --arch resnet50 --sizes 224 192 160 128 96 \\
      --out mine.safetensors
  rsflow run recipes/resnet50_kd.ron --resume mine.safetensors

  rsflow import resnet18-f37072fd.pth --arch resnet18 --sizes 128 96 64 --out start.safetensors
  rsflow run mine.ron --set trainer.start_from=start.safetensors

  rsflow import hub/model.safetensors --arch mobilenetv2_050 --sizes 224 192 160 \\
      --config hub/config.json --out start.safetensors
  rsflow import checkpoint.pth --key model_ema --arch resnet50 --fraction 0.9655 --sizes 224 \\
      --out start.safetensors

The file type is detected from its tensor names. A checkpoint of the reference implementation brings
its epoch, best accuracies and momentum, and --resume continues after that epoch. Weights of a
network with one resolution (torchvision's or timm's) can be fine-tuned: every size gets their batch
norms. recipes/resnet50_finetune.ron does that.
How images are made for validation is what --config says (timm's config.json), else a config.json
beside the file with a pretrained_cfg, else the arguments of timm's or torchvision's script in the
file. What none of them says is as for torchvision's first weights: ImageNet's mean and standard
deviation, bilinear, fraction 0.875; their second weights need --fraction 0.9655 (224 of 232).
The file is read, never executed: one that holds more than tensors and plain values is refused.";

pub const EXPORT_EXAMPLES: &str = "\
Examples:
  rsflow export best.safetensors --to pth-names --out theirs.safetensors

and in Python, with the network of the reference implementation:
  model.load_state_dict(safetensors.torch.load_file(\"theirs.safetensors\"))

A network in DataParallel needs --prefix module.

  rsflow export best.safetensors --to torchvision --size 160 --out resnet50_160.safetensors
  rsflow export best.safetensors --to timm --size 160 --out mobilenetv2_160.safetensors

and in Python, with torchvision or timm alone:
  model = torchvision.models.resnet50()
  model.load_state_dict(safetensors.torch.load_file(\"resnet50_160.safetensors\"))

These files are safetensors, whatever their names end with.

  rsflow export best.safetensors --to onnx --size 160 --out net.onnx
  rsflow export best.safetensors --to onnx --size all --input bytes --softmax --out net.onnx
  rsflow export best.safetensors --to onnx --size 144 --batch-norm 128 --batch 8 --out net.onnx
  rsflow export best.safetensors --to torchscript --size 160 --out net.pt

and in Python, with onnxruntime or torch alone:
  session = onnxruntime.InferenceSession(\"net.onnx\")
  logits, = session.run(None, {\"images\": images})
  logits = torch.jit.load(\"net.pt\")(images)

The network has one size and its batch norms. Images are resized and cropped outside of it. How, says
the metadata of an ONNX file (session.get_modelmeta().custom_metadata_map), and the extra file
rsflow.json in a TorchScript file; both have the classes, too. With --input float the caller
normalizes: values are (bytes / 255 - mean) / std, as for torchvision's networks. With --input bytes
the network normalizes.

Every file is read back, run on 8 random images and compared with the checkpoint's network in
float32. If outputs differ by more than 0.0001 of the largest one, the file is not kept.
Weights of quantized networks are written as codes and tables of levels; the arithmetic is float32.
With quantized activations another program's rounding can move a value to the next level, which
changes the outputs of that image by some percent.";

pub const CHECK_EXAMPLES: &str = "\
Examples:
  rsflow check recipes/*.ron
  rsflow check mine.ron --set trainer.epochs=3";

pub const GRAPH_EXAMPLES: &str = "\
Examples:
  rsflow graph recipes/quickstart.ron                          mermaid, for a Markdown page
  rsflow graph recipes/quickstart.ron --format dot | dot -Tpng > graph.png
  rsflow graph recipes/quickstart.ron --format svg > graph.svg";

pub const SUMMARY_EXAMPLES: &str = "\
Examples:
  rsflow summary recipes/resnet50_kd.ron
  rsflow summary recipes/mobilenetv2_kd.ron --set trainer.network.width=0.5
  rsflow summary recipes/resnet18_kd.ron --json - | jq .total_parameters
  rsflow summary runs/mine                                     a trained network

For each resolution: the multiply-adds of one image (convolutions and classifier), the parameters
it uses (the shared ones and its private batch norms), the private ones alone, and the size of all
of them in a float32 file, running statistics included. Below: the parameters that all resolutions
share, those of the whole network, and the number of ensemble weights (alpha). The JSON has exact
numbers: network, classes, resolutions (resolution, batch_norm, multiply_adds, bit_operations,
parameters, private_parameters, float32_bytes, packed_bytes), shared_parameters, total_parameters,
packed_bytes, alpha.";

pub const PROFILE_EXAMPLES: &str = "\
Examples:
  rsflow profile recipes/imagenette_resnet18.ron                    the whole, for 10 seconds
  rsflow profile recipes/imagenette_resnet18.ron --only pipeline    how fast data could come
  rsflow profile recipes/imagenette_resnet18.ron --only trainer     the speed if data were free
  rsflow profile recipes/imagenette_resnet18.ron --until train_sizes --set cpu_workers=1
  rsflow profile mine.ron --json profile.json --trace trace.json    the trace: ui.perfetto.dev
  rsflow profile mine.ron --until train_batches --epochs 1 --digest
  rsflow profile mine.ron --processes 2                             and how long they wait for each other

Nothing is validated and nothing is written: no run directory, no checkpoint, no metrics.

In the table, `busy` is a share of all workers' time for data nodes, and of its own thread's time
for the trainer. Decoding counts for the decoder, although it happens when the batch asks for the
pixels. `mean`, `p50` and `p99` are a node's own time per item, `queue` is the mean fill level of
its input queue. Figures count from the first batch on. The last line says what limits the speed,
and which parameter to change.

--only exchange starts several processes on this machine, or is started by a launcher in each of
them. It measures sums over all processes (the bandwidth is 2 (W - 1) / W times the bytes over the
time, with W processes), and a step of each process without and with its exchange.

--serve measures a server of `rsflow serve` in place of a recipe. Requests have their times beforehand
(Poisson arrivals, or a trace), and each latency counts from that time: a server that falls behind cannot
hide it. Let the load come from another machine, or count its cost on this one.

--gpu adds what the GPU did: time by kind of kernel, the kernels that took most, and how much of the
time it was busy. --trace then has its kernels and copies, too.

--digest prints only one hash (xxh3, 128 bits) of the labels, sizes and pixels of every sample and
of the ends of epochs. It is the same for any number of workers. To hash from a sample on:
  rsflow profile mine.ron --digest --start 1234     starts the stream there, as a resume does
  rsflow profile mine.ron --digest --skip 1234      reads the stream from its start; same hash
Both take EPOCH:SAMPLE too: epochs count from 1, samples from 0.";

pub const BENCH_EXAMPLES: &str = "\
Examples:
  rsflow bench recipes/imagenette_resnet18.ron
  rsflow bench recipes/resnet50_kd.ron --only step --only inference       needs no images
  rsflow bench recipes/resnet50_kd.ron --only step --set trainer.precision=BFloat16 --batch 128
  rsflow bench mine.ron --json bench.json
  rsflow bench mine.ron --only exchange --processes 2
  rsflow bench --serve http://127.0.0.1:8080 --images data/imagenette/val --plot load.svg
  rsflow bench --serve 127.0.0.1:8080 --images data/imagenette/val --rate 200,400 --bursts 0.3 --seconds 30

`training step` trains at all resolutions on random images that are already on the device; an image
counts once, and a GPU is synchronized after each step. `inference` is one resolution: a single
image (its latency is the median), and the batch size with the highest throughput. `pipeline` is the
data nodes alone, `whole` is both, as in `run`.

`of peak` is the share of the multiply-adds per second that a large matrix product reaches on this
device in the same precision; a step counts as three forward passes. `peak memory` is the memory of
all tensors on a GPU, and of the process so far on the CPU. Two bounds of a step follow the table:
for its multiply-adds, and for the bytes that it reads and writes, if each operator reads its inputs
and writes its outputs once, at the speed of a large copy.

--only exchange starts several processes on this machine, or is started by a launcher in each of
them. It measures sums over all processes (the bandwidth is 2 (W - 1) / W times the bytes over the
time, with W processes), and a step of each process without and with its exchange.

--gpu adds what the GPU did: time by kind of kernel, the kernels that took most, and how much of the
time it was busy.

The JSON has: recipe, computes, peak_multiply_adds_per_second, step_floor (arithmetic_seconds,
memory_seconds, bytes, bytes_per_second), gpu (busy_share, seconds, groups, kernels, lost), rows
(part, resolution, batch, images_per_second, median_seconds, share_of_peak, peak_memory_bytes),
failed; computes is null where only the pipeline is measured. With --only exchange: recipe,
computes, processes, sums (bytes, seconds, bytes_per_second), step (images, alone, exchanged, waited,
gradient_bytes, statistics_bytes), in seconds.";

pub const DOCTOR_EXAMPLES: &str = "\
Examples:
  rsflow doctor
  rsflow doctor --json - | jq .cuda_missing";

pub const NODES_EXAMPLES: &str = "\
Examples:
  rsflow nodes
  rsflow nodes RsNet
  rsflow nodes --json > recipe.schema.json       every kind: ports, fields, types, defaults
  rsflow nodes --json RsNet | jq .properties.epochs";

pub const PREPARE_VAL_EXAMPLES: &str = "\
Examples:
  tar xf ILSVRC2012_devkit_t12.tar.gz
  mkdir -p data/imagenet/val && tar xf ILSVRC2012_img_val.tar -C data/imagenet/val
  rsflow prepare-val data/imagenet/val --devkit ILSVRC2012_devkit_t12
  rsflow prepare-val flat --devkit ILSVRC2012_devkit_t12 --out data/imagenet/val --link
  rsflow prepare-val data/imagenet/val --classes LOC_val_solution.csv --dry-run

The first moves data/imagenet/val/ILSVRC2012_val_00000001.JPEG to data/imagenet/val/n01751748/ and
so on. A list for --classes has a name and a class on each line, separated by spaces or a comma; a
name without extension matches any extension. Empty lines, lines that begin with #, and Kaggle's
headings and boxes are skipped:
  ILSVRC2012_val_00000001.JPEG n01751748
  ILSVRC2012_val_00000002,n09193705

Everything is checked before the first file moves: every image must be in the list, and every name
in the list must have its image. No file is ever overwritten. The command can be repeated: images in
their class folder stay there, and what an interrupted run left undone is completed.";

pub const REPORT_EXAMPLES: &str = "\
Examples:
  rsflow report runs/mine                        writes runs/mine/report.html
  rsflow report runs/a runs/b --out ab.html      two runs beside each other
  rsflow report runs/mine/sweep                  all runs of a sweep
  rsflow eval runs/mine --predictions runs/mine/predictions.csv && rsflow report runs/mine
  rsflow eval runs/mine --latency --json runs/mine/latency.json && rsflow report runs/mine
  rsflow profile runs/mine/recipe.ron --json runs/mine/profile.json && rsflow report runs/mine

The page is one file that loads nothing: it can be sent, printed, or opened without a network. It has
what the run directory has, and says of the rest which command makes it:

  state, time, best accuracy; accuracies, losses and rates over the epochs     metrics.jsonl
  weights of the ensemble over the epochs                                      checkpoints/epoch-NNN
  accuracy over multiply-adds                                                  metrics.jsonl
  accuracy over latency                                                        latency.json
  accuracy by class, confusions, the worst mistakes with their pictures        predictions.csv
  where the time went, node by node                                            profile.json or run.log
  the recipe; what differs between the runs                                    recipe.ron

A run may go on while its report is written. A report replaces a report; another file only with --force.";

pub const NEW_EXAMPLES: &str = "\
Examples:
  rsflow new photos                                 photos/CLASS/IMAGE.jpg, or photos/train and photos/val
  rsflow new photos --sizes 96,64,48 --network resnet18 --out mine.ron
  rsflow new train.tar val.tar                      archives stay packed
  rsflow new photos --validation-percent 20         where there is no folder for validation
  rsflow new photos --out -                         prints the recipe

It counts images and classes, reads the headers of some, and writes a recipe whose sizes, network, batch, learning
rate and epochs suit them and this machine, with comments that say what to change. What it found and why it
chose what is printed. Nothing is trained yet: `rsflow run` does that, or `rsflow train` at once.

Folders for validation are val, validation, valid, dev, eval or test beside train. Without one, a share of each class
is held out, chosen by the names of the files: the same ones each time, and new images move no others.";

pub const TRAIN_EXAMPLES: &str = "\
Examples:
  rsflow train photos
  rsflow train photos --sizes 64,48,32 --epochs 10 --run-dir runs/first
  rsflow train train.tar val.tar --network mobilenet_v2 --set trainer.optimizer.lr=0.01
  rsflow train --resume runs/first
  rsflow train /new/place/of/photos --resume runs/first

The recipe is that of `rsflow new` with the same options; --set changes more of it. It is kept in the run directory
as recipe.ron: `rsflow run RUN_DIR/recipe.ron --run-dir RUN_DIR --resume` resumes the run, and to change more, or to
train with several processes, begin with `rsflow new`.";

pub const TOP_EXAMPLES: &str = "\
Examples:
  rsflow top runs/mine                           q, Esc or Ctrl-C leaves; the run continues
  rsflow top runs/mine --once                    one picture as text, for scripts and logs
  watch -n 60 rsflow top runs/mine --once
  rsflow top /shared/runs/mine                   a run on another machine, over a shared disk

It reads two files of the run directory, once a second, and changes nothing: now.json, which the run replaces every
two seconds, and metrics.jsonl. docs/runs.md has the keys of now.json, for scripts. Loss is drawn over all steps
that were logged, top-1 over the epochs.

  busy       share of the time that the node worked: of all workers for data nodes, of its own thread for others
  wait in    share of the time that it waited for an item
  wait out   share of the time that it waited for room in a reader's queue
  queue      items that waited for it, in the mean, and how many may

A run whose now.json is older than ten seconds was killed, or is cut off from the disk: the picture says for how long
it gave no sign of life.";

pub const RUNS_EXAMPLES: &str = "\
Examples:
  rsflow runs
  rsflow runs runs/mine
  rsflow runs --json - | jq '.runs[] | select(.state == \"stopped\") | .directory'

A run directory has a run.log or metrics.jsonl. Top-1 is the best of the validations so far at the largest size, in
percent. A run that cannot be read is listed, too, with the reason below the table; it hides no other.";

pub const WANDB_EXAMPLES: &str = "\
Examples:
  rsflow wandb runs/mine && wandb sync --project mine wandb/offline-run-*
  rsflow wandb runs                              all runs below runs
  wandb leet run wandb/offline-run-*             shows them in a terminal, without an account

It reads metrics.jsonl and recipe.ron, needs neither a network nor Python, and prints a line for each run, in the
order in which they were named: its name, its directory, and the command that uploads what was written.
A run has the recipe as its config, the names of the metrics from TensorBoard's events, and as its history one row for
each logged step; what was measured at the end of an epoch is in the row of its last step. Times of single steps are
not logged, so W&B's axis of time has none.

The ID of a run follows from the name of its directory and the time at which it was started. A second export replaces
the first one, and `wandb sync` then uploads to the same run. A run that has not ended can be exported: it has no exit.";

pub const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  rsflow completions bash > ~/.local/share/bash-completion/completions/rsflow
  rsflow completions zsh > ~/.zfunc/_rsflow
  rsflow completions fish > ~/.config/fish/completions/rsflow.fish

For zsh, ~/.zfunc must be in fpath before compinit.";

pub const MAN_EXAMPLES: &str = "\
Examples:
  rsflow man --out ~/.local/share/man/man1
  rsflow man | man -l -

Without --out the page of rsflow itself is printed.";

//! `rsflow prepare-val` as a user runs it, on real folders: what becomes of every file, and what is
//! said.

mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rsflow_pipeline::imagenet::{How, Labels, Task, plan};

/// The class of each image, by the ground truth and by the list.
const CLASSES: [(u32, &str); 6] = [
    (2, "n02100735"),
    (1, "n02119789"),
    (2, "n02100735"),
    (4, "n02096294"),
    (6, "n02066245"),
    (2, "n02100735"),
];

const SORTED: &str = "val: 6 images in 4 classes: 6 moved, 0 already there\n";
const AGAIN: &str = "val: 6 images in 4 classes: 0 moved, 6 already there\n";
const DEVKIT: &[&str] = &["val", "--devkit", "devkit"];
const LIST: &[&str] = &["val", "--classes", "list.txt"];

fn image(number: usize) -> String {
    format!("ILSVRC2012_val_{number:08}.JPEG")
}

/// Where an image belongs, below the folder of classes.
fn sorted(number: usize) -> String {
    format!("{}/{}", CLASSES[number - 1].1, image(number))
}

/// A folder with six images and a note in `val`, a devkit, and a list that says the same.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    folder
}

fn fill(folder: &Path) {
    let meta =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/imagenet/meta_compressed.mat");
    fs::create_dir_all(folder.join("devkit/data")).unwrap();
    fs::create_dir(folder.join("val")).unwrap();
    let (mut truth, mut list) = (String::new(), String::new());
    for (number, (id, class)) in (1..).zip(CLASSES) {
        truth += &format!("{id}\n");
        list += &format!("{} {class}\n", image(number));
        fs::write(
            folder.join("val").join(image(number)),
            format!("image {number}"),
        )
        .unwrap();
    }
    fs::write(folder.join("val/notes.txt"), "mine").unwrap();
    fs::write(folder.join("list.txt"), list).unwrap();
    fs::write(folder.join(TRUTH), truth).unwrap();
    fs::copy(meta, folder.join(META)).unwrap();
}

const TRUTH: &str = "devkit/data/ILSVRC2012_validation_ground_truth.txt";
const META: &str = "devkit/data/meta.mat";

fn prepare(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rsflow"));
    command
        .arg("prepare-val")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

/// Exit code, stdout and stderr.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = prepare(folder, arguments).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code(), out, err)
}

/// Every file below a folder, and what is in it.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into());
                files.insert(name, text.unwrap_or_else(|_| "leads nowhere".to_owned()));
            }
        }
    }
    files
}

/// The six images by class, and the note.
fn all_sorted() -> BTreeMap<String, String> {
    let images = (1..=6).map(|number| (sorted(number), format!("image {number}")));
    images.chain([note()]).collect()
}

fn all_flat() -> BTreeMap<String, String> {
    let images = (1..=6).map(|number| (image(number), format!("image {number}")));
    images.chain([note()]).collect()
}

fn note() -> (String, String) {
    ("notes.txt".to_owned(), "mine".to_owned())
}

/// Names as in Hugging Face's copy, the devkit as it is downloaded, and a list with numbers.
#[test]
fn other_forms_of_names_and_labels_are_understood() {
    let folder = workplace();
    let folder = folder.path();
    let kit = fs::File::create(folder.join("kit.tar.gz")).unwrap();
    let kit = flate2::write::GzEncoder::new(kit, flate2::Compression::fast());
    let mut tar = tar::Builder::new(kit);
    tar.append_dir_all("ILSVRC2012_devkit_t12", folder.join("devkit"))
        .unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let mut list = String::new();
    for (number, (id, class)) in (1..).zip(CLASSES) {
        let name = image(number).replace(".JPEG", &format!("_{class}.JPEG"));
        list += &format!("{name} {id}\n");
        let val = folder.join("val");
        fs::rename(val.join(image(number)), val.join(name)).unwrap();
    }
    fs::write(folder.join("list.txt"), list).unwrap();
    let (code, out, err) = run(folder, &[LIST, &["--out", "numbers", "--link"]].concat());
    assert_eq!(code, Some(0), "{out} {err}");
    assert!(
        err.contains("warning: the classes in list.txt are numbers"),
        "{err}"
    );

    let (code, out, err) = run(folder, &["val", "--devkit", "kit.tar.gz"]);
    assert_eq!((code, out.as_str()), (Some(0), SORTED), "{err}");
    let first = "val/n02100735/ILSVRC2012_val_00000001_n02100735.JPEG";
    assert_eq!(fs::read_to_string(folder.join(first)).unwrap(), "image 1");
}

#[test]
fn images_move_into_the_folders_of_their_classes_and_stay_there() {
    type Line = fn(&str, &str) -> String;
    let lists: [(&str, Line); 4] = [
        ("", |name, class| format!("{name}\t{class}\r\n")),
        ("# of mine\n\n", |name, class| {
            format!("{} , {class}\n", name.strip_suffix(".JPEG").unwrap())
        }),
        ("ImageId,PredictionString\n", |name, class| {
            let name = name.strip_suffix(".JPEG").unwrap();
            format!("{name},{class} 85 1 499 272 {class} 3 4.5 10 20 \n")
        }),
        ("\u{feff}filename,class\n", |name, class| {
            format!("{name},{class}\n")
        }),
    ];
    let check = |folder: &Path, arguments: &[&str]| {
        assert_eq!(
            run(folder, arguments),
            (Some(0), SORTED.into(), String::new())
        );
        assert_eq!(files(&folder.join("val")), all_sorted());
        assert_eq!(
            run(folder, arguments),
            (Some(0), AGAIN.into(), String::new())
        );
        assert_eq!(files(&folder.join("val")), all_sorted());
    };
    for (heading, line) in lists {
        let folder = workplace();
        let images = (1..).zip(CLASSES);
        let lines = images.map(|(number, (_, class))| line(&image(number), class));
        let list = heading.to_owned() + &lines.collect::<String>();
        fs::write(folder.path().join("list.txt"), list).unwrap();
        check(folder.path(), LIST);
    }
    for meta in ["meta_plain.mat", "meta_compressed.mat"] {
        let folder = workplace();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/imagenet");
        fs::copy(fixtures.join(meta), folder.path().join(META)).unwrap();
        check(folder.path(), DEVKIT);
    }
}

#[test]
fn images_move_or_are_linked_into_another_folder_on_any_file_system() {
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    for link in [false, true] {
        for other in [None, Some(&elsewhere)] {
            let folder = workplace();
            let out = other.map_or(folder.path().join("out"), |other| {
                other.path().join(format!("out-{link}"))
            });
            let arguments = [DEVKIT, &["--out", out.to_str().unwrap()]].concat();
            let arguments = if link {
                [&arguments, &["--link"][..]].concat()
            } else {
                arguments
            };
            let verb = if link { "linked" } else { "moved" };
            for new in [6, 0] {
                let said = format!(
                    "{}: 6 images in 4 classes: {new} {verb}, {} already there\n",
                    out.display(),
                    6 - new
                );
                assert_eq!(
                    run(folder.path(), &arguments),
                    (Some(0), said, String::new())
                );
                let mut expected = all_sorted();
                expected.remove("notes.txt");
                assert_eq!(files(&out), expected);
                let left = if link { all_flat() } else { [note()].into() };
                assert_eq!(files(&folder.path().join("val")), left);
            }
            let device = |path: &Path| path.metadata().unwrap().dev();
            let crosses = device(out.parent().unwrap()) != device(folder.path());
            assert_eq!(crosses, other.is_some(), "TMPDIR is in memory as well");
            let one = out.join(sorted(1));
            assert_eq!(one.is_symlink(), link && crosses);
            if link && !crosses {
                assert_eq!(one.metadata().unwrap().nlink(), 2);
            }
        }
    }
}

/// What is done to a workplace before the program is run.
type Spoil<'a> = &'a dyn Fn(&Path);

#[test]
fn what_an_earlier_run_has_left_is_completed() {
    let cases: &[(&str, usize, Spoil)] = &[
        ("some are moved", 4, &|val| {
            for number in [1, 4] {
                fs::rename(val.join(image(number)), val.join(sorted(number))).unwrap();
            }
        }),
        ("one has both names", 5, &|val| {
            fs::hard_link(val.join(image(1)), val.join(sorted(1))).unwrap();
        }),
        ("one is copied", 5, &|val| {
            fs::copy(val.join(image(1)), val.join(sorted(1))).unwrap();
            fs::write(
                val.join(format!("{}/.{}.partial", CLASSES[0].1, image(1))),
                "image",
            )
            .unwrap();
        }),
        ("one is linked", 5, &|val| {
            symlink(val.join(image(1)), val.join(sorted(1))).unwrap();
        }),
        ("one is linked from a link", 5, &|val| {
            fs::rename(val.join(image(1)), val.join("one")).unwrap();
            symlink("one", val.join(image(1))).unwrap();
            symlink(val.join(image(1)), val.join(sorted(1))).unwrap();
        }),
        ("one is linked from where it was", 5, &|val| {
            fs::rename(val.join(image(1)), val.join(sorted(1))).unwrap();
            symlink(sorted(1), val.join(image(1))).unwrap();
        }),
        ("one has always been a link", 6, &|val| {
            fs::rename(val.join(image(1)), val.join("one")).unwrap();
            symlink("one", val.join(image(1))).unwrap();
        }),
    ];
    for &(case, moved, spoil) in cases {
        let folder = workplace();
        let val = folder.path().join("val");
        for (_, class) in CLASSES {
            fs::create_dir_all(val.join(class)).unwrap();
        }
        spoil(&val);
        let said = format!(
            "val: 6 images in 4 classes: {moved} moved, {} already there\n",
            6 - moved
        );
        assert_eq!(
            run(folder.path(), DEVKIT),
            (Some(0), said, String::new()),
            "{case}"
        );
        let mut expected = all_sorted();
        if val.join("one").exists() {
            expected.insert("one".to_owned(), "image 1".to_owned());
        }
        assert_eq!(files(&val), expected, "{case}");
        assert_eq!(
            run(folder.path(), DEVKIT),
            (Some(0), AGAIN.into(), String::new()),
            "{case}"
        );
        assert_eq!(files(&val), expected, "{case}");
    }
}

#[test]
fn a_run_killed_at_any_time_has_lost_nothing() {
    const IMAGES: usize = 1500;
    let folder = tempfile::tempdir().unwrap();
    let [val, out] = ["val", "out"].map(|name| folder.path().join(name));
    fs::create_dir(&val).unwrap();
    let mut list = String::new();
    for number in 1..=IMAGES {
        fs::write(val.join(image(number)), number.to_string()).unwrap();
        list += &format!("{} class{}\n", image(number), number % 7);
    }
    fs::write(folder.path().join("list.txt"), list).unwrap();
    let arguments = [LIST, &["--out", "out"]].concat();
    for images in [1, 400, 900] {
        let mut child = prepare(folder.path(), &arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while child.try_wait().unwrap().is_none() && (!out.is_dir() || files(&out).len() < images) {
            assert!(Instant::now() < deadline, "nothing happens");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // By their texts: in between, one may have both names.
        let texts = files(&val).into_values().chain(files(&out).into_values());
        let texts: BTreeSet<String> = texts.collect();
        assert_eq!(texts.len(), IMAGES);
    }
    let (code, said, _) = run(folder.path(), &arguments);
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("out: 1500 images in 7 classes: "),
        "{said}"
    );
    assert!(files(&val).is_empty());
    for (name, text) in files(&out) {
        let number: usize = text.parse().unwrap();
        assert_eq!(name, format!("class{}/{}", number % 7, image(number)));
    }
}

#[test]
fn a_partial_folder_is_sorted_if_that_is_allowed_and_a_dry_run_changes_nothing() {
    let folder = workplace();
    let val = folder.path().join("val");
    for number in [1, 2, 3, 5] {
        fs::remove_file(val.join(image(number))).unwrap();
    }
    fs::create_dir(val.join(CLASSES[3].1)).unwrap();
    fs::copy(val.join(image(4)), val.join(sorted(4))).unwrap();
    let before = files(&val);
    let arguments = [DEVKIT, &["--allow-missing", "--dry-run"]].concat();
    let said = "\
remove val/ILSVRC2012_val_00000004.JPEG, the same as val/n02096294/ILSVRC2012_val_00000004.JPEG
move val/ILSVRC2012_val_00000006.JPEG to val/n02100735/ILSVRC2012_val_00000006.JPEG
val: 2 images in 2 classes: 1 to move, 1 already there, 4 missing
";
    assert_eq!(
        run(folder.path(), &arguments),
        (Some(0), said.into(), String::new())
    );
    assert_eq!(files(&val), before);
    let said = "val: 2 images in 2 classes: 1 moved, 1 already there, 4 missing\n";
    let arguments = [DEVKIT, &["--allow-missing"]].concat();
    assert_eq!(
        run(folder.path(), &arguments),
        (Some(0), said.into(), String::new())
    );
    let sorted = [4, 6].map(|number| (sorted(number), format!("image {number}")));
    assert_eq!(files(&val), sorted.into_iter().chain([note()]).collect());
}

#[test]
fn what_appears_after_the_plan_is_not_overwritten() {
    let folder = workplace();
    let labels = Labels::from_list(&folder.path().join("list.txt")).unwrap();
    for (how, verb) in [(How::Move, "move"), (How::Link, "link")] {
        let task = Task {
            images: folder.path().join("val"),
            classes: folder.path().join(verb),
            how,
            allow_missing: false,
        };
        let sorting = plan(&task, &labels).unwrap();
        let place = task.classes.join(sorted(1));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, "mine").unwrap();
        let error = rsflow_pipeline::imagenet::carry_out(&sorting, &mut |_| {}).unwrap_err();
        let error = format!("{error:#}");
        for words in [verb, "0 of 6 were done", "exists"] {
            assert!(error.contains(words), "`{words}` is not in {error}");
        }
        assert_eq!(fs::read_to_string(&place).unwrap(), "mine");
        assert_eq!(files(&task.images), all_flat());
    }
}

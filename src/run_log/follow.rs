//! The metrics of a run that continues: only what was added is read.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rsflow_base::input_file;
use rsflow_base::run_files::METRICS;
use rsflow_base::shown::Shown as _;

use super::{MAX_LOG, Reading, RunLog};

/// Bytes before the end of what was read that are compared with the file: a resume cuts a log back and writes
/// other lines from there on.
const COMPARED: u64 = 512;

/// Reads a log again and again, only what is new. A last line that lacks its end is left for the next time.
pub struct Follower {
    path: PathBuf,
    reading: Reading,
    /// Bytes of whole lines so far.
    read: u64,
    /// The last of them.
    end: Vec<u8>,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

impl Follower {
    /// Nothing is read yet.
    pub fn new(run_dir: &Path) -> Self {
        Follower {
            path: run_dir.join(METRICS),
            reading: Reading::default(),
            read: 0,
            end: Vec::new(),
            file: None,
        }
    }

    /// What was read so far.
    pub fn log(&self) -> &RunLog {
        &self.reading.log
    }

    /// Reads what was added. A log that was cut back or replaced is read again from its start; one that is not
    /// there is empty.
    ///
    /// # Errors
    /// It cannot be read, or is larger than any log. The message names the path. What was read before stays.
    pub fn update(&mut self) -> Result<()> {
        self.try_to_update()
            .with_context(|| format!("cannot read {}", self.path.shown()))
    }

    fn try_to_update(&mut self) -> Result<()> {
        let mut file = match input_file::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.start_over(None);
                return Ok(());
            }
            file => file?,
        };
        let metadata = file.metadata()?;
        let (length, id) = (metadata.len(), (metadata.dev(), metadata.ino()));
        ensure!(
            length <= MAX_LOG,
            "it has {length} bytes, the limit is {MAX_LOG}"
        );
        if self.file != Some(id) || length < self.read || !self.continues(&mut file)? {
            self.start_over(Some(id));
        }
        if length == self.read {
            self.reading.log.is_cut = false;
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.read))?;
        let added = BufReader::new((&mut file).take(length - self.read));
        self.read += self.reading.add(added, true)?;
        let epochs = self.reading.epochs.values().cloned();
        self.reading.log.epochs = epochs.collect();
        self.end = end(&mut file, self.read)?;
        Ok(())
    }

    fn start_over(&mut self, file: Option<(u64, u64)>) {
        *self = Follower {
            path: std::mem::take(&mut self.path),
            file,
            ..Follower::new(Path::new(""))
        };
    }

    /// Whether the file still has what was read.
    fn continues(&self, file: &mut File) -> io::Result<bool> {
        Ok(end(file, self.read)? == self.end)
    }
}

/// The bytes before a position, up to [`COMPARED`].
fn end(file: &mut File, position: u64) -> io::Result<Vec<u8>> {
    let count = position.min(COMPARED);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(position - count))?;
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn step(step: u64) -> String {
        format!(r#"{{"format":2,"kind":"step","epoch":1,"step":{step},"loss":{step}.5}}"#) + "\n"
    }

    fn epoch(epoch: u64) -> String {
        format!(r#"{{"format":2,"kind":"epoch","epoch":{epoch},"step":9,"rows":[]}}"#) + "\n"
    }

    #[test]
    fn what_was_added_is_read_whatever_happens_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let mut follower = Follower::new(folder.path());
        let all = |from: u64, to: u64| (from..=to).map(step).collect::<String>();
        let cut = &step(4)[..20];
        // What the file is then, the steps that are known, whether its last line is cut.
        let table: [(String, &[u64], bool); 9] = [
            (all(1, 2), &[1, 2], false),
            (all(1, 2), &[1, 2], false),
            (all(1, 3) + cut, &[1, 2, 3], true),
            (all(1, 4), &[1, 2, 3, 4], false),
            // A whole object without its line break is not read twice.
            (all(1, 4) + step(5).trim_end(), &[1, 2, 3, 4], true),
            (all(1, 5), &[1, 2, 3, 4, 5], false),
            // Cut back by a resume, and already longer again with other lines.
            (
                all(1, 3) + &all(14, 19),
                &[1, 2, 3, 14, 15, 16, 17, 18, 19],
                false,
            ),
            (all(1, 1), &[1], false),
            (String::new(), &[], false),
        ];
        follower.update().unwrap();
        assert_eq!(*follower.log(), RunLog::default());
        for (text, steps, is_cut) in table {
            // In place, as a run does.
            fs::write(&path, &text).unwrap();
            follower.update().unwrap();
            let log = follower.log();
            let found: Vec<u64> = log.steps.iter().map(|step| step.step).collect();
            assert_eq!(
                (found.as_slice(), log.is_cut, log.damaged),
                (steps, is_cut, 0),
                "{text}"
            );
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, all(1, 2) + &epoch(1)).unwrap();
        follower.update().unwrap();
        fs::write(&path, all(1, 2) + &epoch(1) + &epoch(2) + "{}\n").unwrap();
        follower.update().unwrap();
        let log = follower.log();
        assert_eq!((log.steps.len(), log.epochs.len(), log.damaged), (2, 2, 1));
        assert_eq!(*log, RunLog::read(folder.path()).unwrap());
    }

    #[test]
    fn only_what_is_new_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let early = step(1).repeat(100);
        fs::write(&path, &early).unwrap();
        let mut follower = Follower::new(folder.path());
        follower.update().unwrap();
        // Other bytes far before the end are not seen.
        let damaged = "x".repeat(50) + &early[50..] + &step(2);
        fs::write(&path, damaged).unwrap();
        follower.update().unwrap();
        assert_eq!(
            (follower.log().steps.len(), follower.log().damaged),
            (101, 0)
        );
    }
}

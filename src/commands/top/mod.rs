//! `rsflow top`: a run that is watched from outside, by the files that it writes.
//!
//! | file | content |
//! |---|---|
//! | `mod` | the command |
//! | `watched` | what the run directory says, read again and again |
//! | `picture` | what of it is drawn where, for any size of a terminal |
//! | `lines` | its lines of text |
//! | `curves` | loss and accuracies |
//! | `nodes` | the table of nodes |

mod curves;
mod lines;
mod nodes;
mod picture;
#[cfg(test)]
mod tests;
mod watched;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use rsflow_base::run_files::{LOG, METRICS, NOW, RECIPE};
use rsflow_base::shown::Shown as _;

use super::usage::Usage;
use crate::process::terminal;
use picture::View;
use watched::Watched;

/// Time between two pictures.
const EVERY: Duration = Duration::from_secs(1);
/// Columns of a picture that is printed.
const COLUMNS: u16 = 110;

/// `is_live`: until the user leaves, else one picture as text.
pub fn run(run_dir: &Path, is_live: bool, out: &mut dyn Write) -> Result<ExitCode> {
    check(run_dir)?;
    let mut watched = Watched::new(run_dir);
    if !is_live {
        watched.update();
        out.write_all(text(&watched.view(Timestamp::now()), COLUMNS).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    terminal::show(EVERY, |frame| {
        watched.update();
        let area = frame.area();
        picture::draw(
            &watched.view(Timestamp::now()),
            area,
            true,
            frame.buffer_mut(),
        );
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses what is no run directory.
fn check(path: &Path) -> Result<()> {
    let has = |name: &&str| path.join(name).is_file();
    let is_one = [NOW, METRICS, RECIPE, LOG].iter().any(has);
    let place = path.shown();
    ensure!(
        is_one || path.is_dir() || !path.exists(),
        Usage(format!(
            "{place} is a file; name the run directory that it is in"
        ))
    );
    ensure!(
        is_one || path.exists(),
        Usage(format!("there is no run directory {place}"))
    );
    ensure!(
        is_one,
        Usage(format!(
            "{place} is not a run directory: it has no {NOW}, {METRICS}, {RECIPE} or {LOG}; name one, such as \
             runs/RECIPE/START_TIME"
        ))
    );
    Ok(())
}

/// A picture as text, as high as it has to be.
fn text(view: &View, columns: u16) -> String {
    let area = Rect::new(0, 0, columns, picture::height(view, columns));
    let mut buffer = Buffer::empty(area);
    picture::draw(view, area, false, &mut buffer);
    let rows = (0..area.height).map(|row| {
        let cells = (0..area.width).map(|column| buffer[(column, row)].symbol());
        let line: String = cells.collect();
        line.trim_end().to_owned() + "\n"
    });
    rows.collect()
}

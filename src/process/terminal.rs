//! The terminal as a whole: a picture that is drawn again and again, on a screen of its own.

use std::io::{self, IsTerminal as _};
use std::mem::ManuallyDrop;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use libc::c_int;
use ratatui::Frame;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;

use super::asked_to_end;

/// Draws until q, Esc, Ctrl-C or a signal: every `every`, and when the terminal gets another size. Afterwards the
/// terminal is as it was, also after an error or a panic.
///
/// # Errors
/// The terminal cannot be used; those of `draw`.
pub fn show(every: Duration, mut draw: impl FnMut(&mut Frame) -> Result<()>) -> Result<()> {
    let asked_to_end = asked_to_end()?;
    // A panic restores it, too: this installs a hook.
    let terminal = ratatui::try_init();
    let _restored = Restored;
    let terminal = terminal.context("cannot use the terminal; --once prints text")?;
    // When it is dropped it prints its errors to stderr, and panics where that is gone, too.
    let mut terminal = ManuallyDrop::new(terminal);
    // Asked now: one that is closed is no terminal any more. Where stdin is none crossterm opens another one, whose
    // keys wait until the next picture.
    let keys = if io::stdin().is_terminal() { 0 } else { -1 };
    while !asked_to_end.load(Relaxed) {
        let mut result = Ok(());
        terminal
            .draw(|frame| result = draw(frame))
            .context("cannot write to the terminal")?;
        result?;
        if wait(keys, every)? {
            break;
        }
    }
    Ok(())
}

/// Restores the terminal when it is dropped.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = ratatui::try_restore();
        let _ = execute!(io::stdout(), Show);
    }
}

/// Waits for the next picture; true if the user leaves.
fn wait(keys: c_int, every: Duration) -> Result<bool> {
    let until = Instant::now() + every;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // crossterm would read one that is gone again and again, without an end.
        if is_gone(keys, left) {
            return Ok(true);
        }
        if !event::poll(Duration::ZERO).context("cannot read the terminal")? {
            if left.is_zero() {
                return Ok(false);
            }
            continue;
        }
        match event::read().context("cannot read the terminal")? {
            event if leaves(&event) => return Ok(true),
            Event::Resize(..) => return Ok(false),
            _ => {}
        }
    }
}

/// Waits at most so long for a key; true if the terminal is closed. One that changes its size ends the waiting, too.
#[allow(unsafe_code)]
fn is_gone(keys: c_int, wait: Duration) -> bool {
    let mut stdin = libc::pollfd {
        fd: keys,
        events: libc::POLLIN,
        revents: 0,
    };
    let milliseconds = wait.as_millis().try_into().unwrap_or(i32::MAX);
    // SAFETY: `stdin` is one `pollfd`, and lives until the call returns.
    let ready = unsafe { libc::poll(&raw mut stdin, 1, milliseconds) };
    ready > 0 && stdin.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

fn leaves(event: &Event) -> bool {
    let Event::Key(key) = event else {
        return false;
    };
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release
        && match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => is_control,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn keys_that_leave() {
        for (code, modifiers, expected) in [
            (KeyCode::Char('q'), KeyModifiers::NONE, true),
            (KeyCode::Esc, KeyModifiers::NONE, true),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, true),
            (KeyCode::Char('c'), KeyModifiers::NONE, false),
            (KeyCode::Enter, KeyModifiers::NONE, false),
        ] {
            let event = Event::Key(KeyEvent::new(code, modifiers));
            assert_eq!(leaves(&event), expected, "{event:?}");
        }
        assert!(!leaves(&Event::Resize(1, 1)));
    }
}

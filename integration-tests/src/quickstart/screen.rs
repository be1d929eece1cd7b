//! What the user sees: a line for each step, with a spinner or a bar while it lasts.
//!
//! On a terminal the last line moves; elsewhere (a file, CI) nothing moves: a step says when it begins and when it
//! ended, and progress is told at most every few seconds. Lines go to standard output, what moves to standard error.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines of progress where nothing moves.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// The width of a step's name, which begins its lines.
const NAME: usize = 9;

/// The place where a run is told.
pub(super) struct Screen {
    live: bool,
    moving: Mutex<Option<ProgressBar>>,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let live = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Screen { live, moving: Mutex::default() }
    }

    /// A line that stays.
    pub(super) fn line(&self, name: &str, text: &str) {
        let line = format!("{name:NAME$} {text}");
        let line = line.trim_end();
        match self.moving().as_ref() {
            Some(bar) => bar.suspend(|| write(line)),
            None => write(line),
        }
    }

    /// A line that should not be missed.
    pub(super) fn highlight(&self, name: &str, text: &str) {
        if self.live {
            self.line(&format!("\u{1b}[1;31m{name:NAME$}\u{1b}[0m"), text);
        } else {
            self.line(name, text);
        }
    }

    /// Begins a step, which says what it is about to do. One at a time.
    pub(super) fn begin<'a>(&'a self, name: &'a str, doing: &str) -> Step<'a> {
        if self.live {
            let bar =
                ProgressBar::new(0).with_prefix(name.to_owned()).with_message(doing.to_owned());
            bar.set_style(style("{prefix:9} {spinner} {msg}  {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(100));
            *self.moving() = Some(bar);
        } else {
            self.line(name, &format!("{doing} ..."));
        }
        let now = Instant::now();
        Step { screen: self, name, began: now, told: Mutex::new(now) }
    }

    fn moving(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        lock(&self.moving)
    }
}

/// Something that takes a while. What moves goes with it; one that is dropped before it is done leaves no line.
pub(super) struct Step<'a> {
    screen: &'a Screen,
    name: &'a str,
    began: Instant,
    told: Mutex<Instant>,
}

impl Step<'_> {
    /// How far it is.
    pub(super) fn progress(&self, done: u64, total: u64, text: &str) {
        if let Some(bar) = self.screen.moving().as_ref() {
            bar.set_style(style("{prefix:9} {bar:24} {percent:>3} %  {msg}  {elapsed}"));
            bar.set_length(total.max(done).max(1));
            bar.set_position(done);
            bar.set_message(text.to_owned());
            return;
        }
        let mut told = lock(&self.told);
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            let percent = (done * 100).checked_div(total).unwrap_or(0);
            self.screen.line(self.name, &format!("{percent:>3} %  {text}"));
        }
    }

    /// Says what came of it, and how long it took.
    pub(super) fn done(self, what: &str) {
        let took = self.began.elapsed().as_secs_f64();
        self.clear();
        self.screen.line(self.name, &format!("{what:<88} {took:>6.1} s"));
    }

    fn clear(&self) {
        if let Some(bar) = self.screen.moving().take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

fn write(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever reads may be gone, as after `| head`: the run goes on, and cleans up after itself.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("our own template is well-formed");
    style.progress_chars("━╸ ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What whoever sits in front sees while a run goes on: a line for each fault, and with --live the load as it is now.

use crate::meter::Second;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Throughputs that the little picture shows.
const HISTORY: usize = 32;
const REDRAW: Duration = Duration::from_millis(100);
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The screen. Lines go to stderr: stdout is the report's.
#[derive(Debug)]
pub(crate) struct Screen {
    began: Instant,
    bar: Option<ProgressBar>,
    now: Mutex<Now>,
}

/// What is shown below the lines.
#[derive(Clone, Debug, Default)]
struct Now {
    fault: Option<(String, String, Instant)>,
    throughputs: Vec<u64>,
    last: Second,
    recovery: Option<Duration>,
}

impl Screen {
    /// With `live` the last lines are redrawn, where stderr is a terminal.
    pub(crate) fn new(live: bool, began: Instant) -> Screen {
        let bar = live.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template("\n  {spinner:.cyan} {msg}") {
                bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
            }
            bar.enable_steady_tick(REDRAW);
            bar
        });
        Screen { began, bar, now: Mutex::default() }
    }

    /// One line that stays.
    pub(crate) fn say(&self, text: &str) {
        let line = format!("{:>7.1} s  {text}", self.began.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => {
                // Nobody has to watch.
                let _unread = writeln!(std::io::stderr(), "{line}");
            }
        }
    }

    pub(crate) fn fault_begins(&self, kind: &str, target: &str) {
        self.with(|now| now.fault = Some((kind.to_owned(), target.to_owned(), Instant::now())));
    }

    pub(crate) fn fault_is_over(&self, line: &str, recovery: Option<Duration>) {
        self.with(|now| {
            now.fault = None;
            now.recovery = recovery.or(now.recovery);
        });
        self.say(line);
    }

    /// A second is over.
    pub(crate) fn second(&self, last: Second) {
        self.with(|now| {
            now.last = last;
            now.throughputs.push(last.done);
            let surplus = now.throughputs.len().saturating_sub(HISTORY);
            now.throughputs.drain(..surplus);
        });
    }

    /// Leaves the lines, takes the rest away.
    pub(crate) fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn with(&self, change: impl FnOnce(&mut Now)) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut now);
        if let Some(bar) = &self.bar {
            bar.set_message(now.text());
        }
    }
}

impl Now {
    fn text(&self) -> String {
        let most = self.throughputs.iter().copied().max().unwrap_or(0).max(1);
        let bar = |done: &u64| BARS[(done * (BARS.len() as u64 - 1) / most) as usize];
        let picture: String = self.throughputs.iter().map(bar).collect();
        let fault = match &self.fault {
            Some((kind, target, since)) => format!("{kind} of {target} for {:.0} s", since.elapsed().as_secs_f64()),
            None => "nothing is broken".to_owned(),
        };
        let recovery =
            self.recovery.map_or(String::new(), |time| format!("  ·  last recovery {} ms", time.as_millis()));
        format!(
            "{picture:>width$}  {:>5} op/s  ·  p99 {:>6.1} ms  ·  {fault}{recovery}",
            self.last.done,
            self.last.p99_us as f64 / 1_000.0,
            width = HISTORY,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a picture that breaks at its extremes.
    #[test]
    fn the_line_shows_load_and_fault() {
        let screen = Screen::new(false, Instant::now());
        for done in [0, 50, 100] {
            screen.second(Second { done, p99_us: 2_500, ..Second::default() });
        }
        screen.fault_begins("kill", "s1");
        let text = screen.now.lock().unwrap().text();
        assert!(text.contains("▁▄█") && text.contains("100 op/s") && text.contains("2.5 ms"), "{text}");
        assert!(text.contains("kill of s1"), "{text}");
    }
}

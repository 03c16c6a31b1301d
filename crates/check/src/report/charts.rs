//! Faults, throughput and latency over one axis of time, as one SVG.
//!
//! Each kind of fault has a row of its own, named at its left, so that no colour needs a key; its spans go on as faint
//! bands through the plots below. A thin line after a span lasts until every partition served again.

use super::text::{clock, duration, escaped, grouped, shortened};
use super::{FaultSpan, Report, Second};

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 104.0;
const RIGHT: f64 = 12.0;
const ROW: f64 = 18.0;
const PLOT: f64 = 140.0;
/// Above each plot: its name and its key.
const HEAD: f64 = 34.0;
/// Points of a line at most: more can't be told apart.
const POINTS_MAX: usize = 440;
/// Colours of the style sheet (`f0` …), used in turn.
const COLOURS: usize = 8;

/// Kinds of faults in the order in which they first came.
pub(super) fn kinds(faults: &[FaultSpan]) -> Vec<&str> {
    let mut kinds: Vec<&str> = Vec::new();
    for fault in faults {
        if !kinds.contains(&fault.kind.as_str()) {
            kinds.push(&fault.kind);
        }
    }
    kinds
}

/// Some seconds in a row: the mean of rates and medians, the worst of the rest.
struct Point {
    at_s: f64,
    done: f64,
    not_done: f64,
    unknown: f64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

fn points(timeline: &[Second]) -> (usize, Vec<Point>) {
    let seconds_each = timeline.len().div_ceil(POINTS_MAX).max(1);
    let points = timeline.chunks(seconds_each).map(|seconds| {
        let mean = |of: fn(&Second) -> u64| seconds.iter().map(|s| of(s) as f64).sum::<f64>() / seconds.len() as f64;
        let answered: Vec<u64> = seconds.iter().map(|second| second.p50_us).filter(|us| *us > 0).collect();
        let worst = |of: fn(&Second) -> u64| seconds.iter().map(of).max().unwrap_or(0);
        Point {
            at_s: f64::from(seconds[0].at_s) + seconds.len() as f64 / 2.0,
            done: mean(|second| second.done),
            not_done: mean(|second| second.not_done),
            unknown: mean(|second| second.unknown),
            p50_us: answered.iter().sum::<u64>().checked_div(answered.len() as u64).unwrap_or(0),
            p99_us: worst(|second| second.p99_us),
            max_us: worst(|second| second.max_us),
        }
    });
    (seconds_each, points.collect())
}

/// Where an instant is drawn.
struct Axis {
    seconds: f64,
}

impl Axis {
    fn new(report: &Report) -> Axis {
        let load = report.timeline.iter().map(|second| f64::from(second.at_s) + 1.0).fold(0.0, f64::max);
        let faults = report.faults.iter().map(|fault| fault.ended_ms as f64 / 1000.0).fold(0.0, f64::max);
        Axis { seconds: load.max(faults).max(report.seconds as f64).max(1.0) }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.seconds).clamp(0.0, 1.0)
    }

    /// Round instants, at most eleven.
    fn ticks(&self) -> impl Iterator<Item = u64> + use<> {
        const STEPS: [u64; 12] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];
        let step = STEPS.into_iter().find(|step| self.seconds / *step as f64 <= 10.0);
        let step = step.unwrap_or_else(|| (self.seconds as u64 / 10).next_multiple_of(3600));
        (0..=self.seconds as u64).step_by(step as usize)
    }
}

/// The whole picture.
pub(super) fn timeline(report: &Report) -> String {
    let axis = Axis::new(report);
    let kinds = kinds(&report.faults);
    let (seconds_each, points) = points(&report.timeline);
    let rows_bottom = 8.0 + ROW * kinds.len() as f64;
    let (first, second) = (rows_bottom + HEAD, rows_bottom + HEAD + PLOT + HEAD);
    let bottom = second + PLOT;
    let height = bottom + 26.0;
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Faults, throughput and latency over time\">\n"
    );
    for at in axis.ticks() {
        let x = axis.x(at as f64);
        svg += &format!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"4\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
        svg += &format!("<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">", bottom + 17.0);
        svg += &format!("{}</text>\n", clock(at));
    }
    for (row, kind) in kinds.iter().enumerate() {
        let y = 8.0 + ROW * row as f64;
        svg += &format!("<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">", LEFT - 10.0, y + 12.0);
        svg += &format!("{}</text>\n", escaped(&shortened(kind, 15)));
        for fault in report.faults.iter().filter(|fault| fault.kind == *kind) {
            svg += &span(&axis, fault, row % COLOURS, y, [first, second]);
        }
    }
    svg += &throughput(&axis, &points, first);
    svg += &latency(&axis, &points, second);
    svg += "</svg>\n";
    if seconds_each > 1 {
        svg += &format!(
            "<p class=\"note\">Each point stands for {seconds_each} seconds: the mean of rates and medians, the worst \
             99th percentile and maximum.</p>\n"
        );
    }
    svg
}

fn span(axis: &Axis, fault: &FaultSpan, colour: usize, y: f64, plots: [f64; 2]) -> String {
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let (x, end) = (axis.x(seconds(fault.began_ms)), axis.x(seconds(fault.ended_ms.max(fault.began_ms))));
    let width = (end - x).max(2.0);
    let mut about = format!("{} of {}: {}", fault.kind, fault.target, clock(fault.began_ms / 1000));
    about += &format!(" to {}", clock(fault.ended_ms / 1000));
    about += &fault.landed.as_ref().map_or(", did not land".to_owned(), |proof| format!(", landed: {proof}"));
    about += &match fault.recovery_ms {
        Some(ms) => format!(", served again after {}", duration(ms.saturating_mul(1000))),
        None => ", not seen to serve again".to_owned(),
    };
    let mut group = format!("<g class=\"f{colour}\"><title>{}</title>", escaped(&about));
    for plot in plots {
        group += &format!("<rect class=\"band\" x=\"{x:.1}\" y=\"{plot}\" width=\"{width:.1}\" height=\"{PLOT}\"/>");
    }
    if let Some(ms) = fault.recovery_ms {
        let (until, y) = (axis.x(seconds(fault.began_ms.saturating_add(ms))), y + ROW / 2.0);
        if until > x + width {
            group += &format!("<line class=\"recovery\" x1=\"{x:.1}\" y1=\"{y}\" x2=\"{until:.1}\" y2=\"{y}\"/>");
        }
    }
    let class = if fault.landed.is_some() { "fault" } else { "fault missed" };
    group += &format!(
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"10\" rx=\"2\"/>",
        y + 4.0
    );
    group + "</g>\n"
}

/// A plot's name, its key, and its frame's base line.
fn head(top: f64, name: &str, key: &[(&str, &str)]) -> String {
    let mut svg = format!("<text class=\"title\" x=\"{LEFT}\" y=\"{:.1}\">{name}</text>", top - 10.0);
    let mut x = WIDTH - RIGHT;
    for (class, label) in key.iter().rev() {
        let y = top - 14.0;
        svg += &format!("<text class=\"key\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", y + 4.0);
        x -= 7.2 * label.chars().count() as f64 + 8.0;
        svg += &format!("<line class=\"line {class}\" x1=\"{:.1}\" y1=\"{y}\" x2=\"{x:.1}\" y2=\"{y}\"/>", x - 16.0);
        x -= 32.0;
    }
    let base = top + PLOT;
    svg + &format!("<line class=\"axis\" x1=\"{LEFT}\" y1=\"{base}\" x2=\"{:.1}\" y2=\"{base}\"/>\n", WIDTH - RIGHT)
}

fn level(y: f64, label: &str) -> String {
    format!(
        "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
         <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
        WIDTH - RIGHT,
        LEFT - 10.0,
        y + 4.0
    )
}

/// A line with gaps where there is no value.
fn line(axis: &Axis, points: &[Point], class: &str, y: impl Fn(&Point) -> Option<f64>) -> String {
    let mut path = String::new();
    let mut is_drawing = false;
    for point in points {
        let value = y(point);
        if let Some(y) = value {
            let x = axis.x(point.at_s);
            // A lone point is drawn too: a line of no length with round ends.
            path += &if is_drawing { format!("L{x:.1} {y:.1}") } else { format!("M{x:.1} {y:.1}h0") };
        }
        is_drawing = value.is_some();
    }
    format!("<path class=\"line {class}\" d=\"{path}\"/>\n")
}

fn throughput(axis: &Axis, points: &[Point], top: f64) -> String {
    let most = points.iter().map(|point| point.done.max(point.not_done).max(point.unknown)).fold(1.0, f64::max);
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * 10f64.powf((most / 4.0).log10().floor()));
    let step = step.into_iter().find(|step| most / step <= 4.0).unwrap_or(most).max(1.0);
    let highest = step * (most / step).ceil();
    let y = |value: f64| top + PLOT * (1.0 - value / highest);
    let key = [("done", "done"), ("not-done", "not done"), ("unknown", "unknown")];
    let mut svg = head(top, "Operations answered per second", &key);
    for count in 0..=(highest / step).round() as u64 {
        let value = step * count as f64;
        svg += &level(y(value), &grouped(value as u64));
    }
    let mut area = String::new();
    for point in points {
        area += &format!("L{:.1} {:.1}", axis.x(point.at_s), y(point.done));
    }
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        let (base, from, to) = (top + PLOT, axis.x(first.at_s), axis.x(last.at_s));
        svg += &format!("<path class=\"area\" d=\"M{from:.1} {base}{area}L{to:.1} {base}Z\"/>\n");
    }
    svg += &line(axis, points, "done", |point| Some(y(point.done)));
    // Where there is nothing of these, a line along the bottom would only be noise.
    svg += &line(axis, points, "not-done", |point| (point.not_done > 0.0).then(|| y(point.not_done)));
    svg + &line(axis, points, "unknown", |point| (point.unknown > 0.0).then(|| y(point.unknown)))
}

fn latency(axis: &Axis, points: &[Point], top: f64) -> String {
    let known = || points.iter().flat_map(|point| [point.p50_us, point.p99_us, point.max_us]).filter(|us| *us > 0);
    let lowest = known().min().unwrap_or(100).ilog10();
    let highest = known().max().unwrap_or(10_000).ilog10() + 1;
    let decades = f64::from(highest - lowest);
    let y = |us: u64| (us > 0).then(|| top + PLOT * (1.0 - ((us as f64).log10() - f64::from(lowest)) / decades));
    let key = [("p50", "median"), ("p99", "99th percentile"), ("worst", "maximum")];
    let mut svg = head(top, "Time to an answer", &key);
    for decade in lowest..=highest {
        let at = 10u64.saturating_pow(decade);
        let label = match at {
            0..1_000 => format!("{at} µs"),
            1_000..1_000_000 => format!("{} ms", at / 1_000),
            _ => format!("{} s", grouped(at / 1_000_000)),
        };
        svg += &level(y(at).unwrap_or(top), &label);
    }
    svg += &line(axis, points, "worst", |point| y(point.max_us));
    svg += &line(axis, points, "p99", |point| y(point.p99_us));
    svg + &line(axis, points, "p50", |point| y(point.p50_us))
}

//! A piece of a history, drawn: one lane per client, a bar from each call to its answer.
//!
//! Time is drawn by order, not to scale: what matters is what overlaps what, and a piece often has microseconds beside
//! minutes. Where no answer came, the bar fades out to the right.

use super::text::{duration, escaped, shortened};
use super::{Piece, PieceOperation};

const LEFT: f64 = 100.0;
const RIGHT: f64 = 16.0;
const WIDTH_MIN: f64 = 1000.0;
/// Between two instants, at least.
const STEP_MIN: f64 = 14.0;
const ROW: f64 = 36.0;
const TOP: f64 = 8.0;
/// The width of a character of the labels.
const CHARACTER: f64 = 6.7;
const LABEL_MAX: usize = 96;
/// Operations drawn at most; the JSON has them all.
const DRAWN_MAX: usize = 120;

/// An operation and where it is drawn.
struct Bar<'a> {
    operation: &'a PieceOperation,
    x: f64,
    end: f64,
    label_x: f64,
    label: String,
    row: usize,
}

/// The picture; `number` makes its ids unique on the page.
pub(super) fn piece(piece: &Piece, number: usize) -> String {
    let mut operations: Vec<&PieceOperation> = piece.operations.iter().collect();
    operations.sort_by_key(|operation| (operation.began_us, operation.client));
    let left_out = operations.len().saturating_sub(DRAWN_MAX);
    operations.truncate(DRAWN_MAX);

    let mut instants: Vec<u64> = operations
        .iter()
        .flat_map(|o| [Some(o.began_us), o.ended_us.map(|end| end.max(o.began_us))])
        .flatten()
        .collect();
    instants.sort_unstable();
    instants.dedup();
    let step = ((WIDTH_MIN - LEFT - RIGHT) / (instants.len() as f64 + 1.0)).max(STEP_MIN);
    let width = LEFT + RIGHT + step * (instants.len() as f64 + 1.0);
    // The first instant stands half a step from the left, so that a bar that begins there is seen to begin.
    let x = |at: u64| LEFT + step * (instants.partition_point(|instant| *instant < at) as f64 + 0.5);

    let mut clients: Vec<u64> = operations.iter().map(|operation| operation.client).collect();
    clients.sort_unstable();
    clients.dedup();
    let (mut bars, mut lanes, mut row) = (Vec::new(), Vec::new(), 0);
    for client in clients {
        let of_client: Vec<_> = operations.iter().copied().filter(|operation| operation.client == client).collect();
        let rows = lane(&of_client, row, width, x, &mut bars);
        lanes.push((client, row, rows));
        row += rows;
    }

    let bottom = TOP + ROW * row as f64;
    let mut svg = format!(
        "<svg class=\"piece\" style=\"min-width:{:.0}px\" viewBox=\"0 0 {width:.0} {:.0}\" role=\"img\" \
         aria-label=\"{}\">\n<defs><linearGradient id=\"fade-{number}\"><stop class=\"fade-from\" offset=\"0\"/>\
         <stop class=\"fade-to\" offset=\"1\"/></linearGradient></defs>\n",
        width.min(1600.0) * 0.72,
        bottom + 24.0,
        escaped(&piece.title)
    );
    svg += &axis(&instants, x, bottom);
    for (client, row, rows) in lanes {
        let (y, end) = (TOP + ROW * row as f64, TOP + ROW * (row + rows) as f64);
        svg += &format!("<line class=\"grid\" x1=\"0\" y1=\"{end}\" x2=\"{width:.0}\" y2=\"{end}\"/>");
        svg += &format!("<text class=\"name\" x=\"4\" y=\"{:.1}\">client {client}</text>\n", y + ROW / 2.0 + 9.0);
    }
    for bar in &bars {
        svg += &drawn(bar, number);
    }
    svg += "</svg>\n";
    if left_out > 0 {
        svg += &format!("<p class=\"note\">{left_out} more operations are in the JSON.</p>\n");
    }
    svg
}

/// Gives each operation of a client the first row in which it and its label have room; returns the number of rows.
fn lane<'a>(
    operations: &[&'a PieceOperation],
    first_row: usize,
    width: f64,
    x: impl Fn(u64) -> f64,
    bars: &mut Vec<Bar<'a>>,
) -> usize {
    let mut free_from: Vec<f64> = Vec::new();
    for operation in operations {
        let start = x(operation.began_us);
        let end = operation.ended_us.map_or(width, |end| x(end.max(operation.began_us))).max(start + 6.0);
        let label = shortened(&operation.text, LABEL_MAX);
        let label_width = CHARACTER * label.chars().count() as f64;
        let label_x = start.min(width - RIGHT - label_width).max(LEFT);
        let row = free_from.iter().position(|free| *free <= label_x.min(start)).unwrap_or(free_from.len());
        if row == free_from.len() {
            free_from.push(0.0);
        }
        free_from[row] = end.max(label_x + label_width) + 8.0;
        bars.push(Bar { operation, x: start, end, label_x, label, row: first_row + row });
    }
    free_from.len()
}

/// Instants from the first one on; labels where there is room.
fn axis(instants: &[u64], x: impl Fn(u64) -> f64, bottom: f64) -> String {
    let mut svg = String::new();
    let mut free_from = 0.0;
    for instant in instants {
        let at = x(*instant);
        svg += &format!("<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>");
        if at >= free_from {
            let label = duration(instant - instants[0]);
            svg += &format!("<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">", bottom + 16.0);
            svg += &format!("+{label}</text>\n");
            free_from = at + 74.0;
        }
    }
    svg
}

fn drawn(bar: &Bar<'_>, number: usize) -> String {
    let PieceOperation { began_us, ended_us, text, .. } = bar.operation;
    let lasted = ended_us.map_or("never answered".to_owned(), |end| duration(end.saturating_sub(*began_us)));
    let y = TOP + ROW * bar.row as f64;
    let (class, fill) = match ended_us {
        Some(_) => ("bar", String::new()),
        None => ("bar open", format!(" fill=\"url(#fade-{number})\"")),
    };
    format!(
        "<g><title>{} ({lasted})</title><text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
         <rect class=\"{class}\"{fill} x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"10\" rx=\"3\"/></g>\n",
        escaped(text),
        bar.label_x,
        y + 16.0,
        escaped(&bar.label),
        bar.x,
        y + 21.0,
        bar.end - bar.x,
    )
}

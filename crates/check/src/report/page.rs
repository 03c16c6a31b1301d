//! The page: one HTML file without outside resources and without scripts, for light and for dark screens.

use super::text::{clock, duration, escaped, grouped};
use super::{Operations, Report, Verdict, WorkloadResult, charts, matrix, picture};

const STYLE: &str = include_str!("page.css");

/// The report as one HTML page. All text of the report is escaped.
pub fn html(report: &Report) -> String {
    let title = format!("{} · seed {}", name(report.verdict), report.seed);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    page += &header(report);
    page += "<section>\n<h2>What was broken, and what clients saw of it</h2>\n";
    if report.faults.is_empty() && report.timeline.is_empty() {
        page += "<p class=\"note\">Neither a fault nor any load was recorded.</p>\n";
    } else {
        page += &format!("<figure class=\"wide\">\n{}</figure>\n", charts::timeline(report));
    }
    page += "</section>\n";
    page += &faults(report);
    page += &workloads(&report.workloads);
    for (number, workload) in report.workloads.iter().enumerate() {
        if let Some(piece) = &workload.violation {
            page += &format!(
                "<section>\n<h2>The smallest failing piece of {}</h2>\n<p>{}</p>\n<figure class=\"wide\">\n{}\
                 <figcaption class=\"note\">One lane per client, a bar from call to answer. Time is drawn by order, not \
                 to scale; what was never answered fades out.</figcaption>\n</figure>\n</section>\n",
                escaped(&workload.name),
                escaped(&piece.title),
                picture::piece(piece, number)
            );
        }
    }
    page + "</main>\n</body>\n</html>\n"
}

/// The verdict's name for people.
fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Held => "Held",
        Verdict::Violated => "Violated",
        Verdict::Undecided => "Undecided",
        Verdict::FaultsDidNotLand => "Faults did not land",
        Verdict::LoadTooLow => "Load too low",
    }
}

/// The verdict as a badge that can be told without its colour.
fn badge(verdict: Verdict) -> String {
    let (class, sign) = match verdict {
        Verdict::Held => ("good", "✓"),
        Verdict::Violated => ("bad", "✕"),
        Verdict::Undecided | Verdict::FaultsDidNotLand | Verdict::LoadTooLow => ("doubt", "?"),
    };
    format!("<span class=\"badge {class}\"><span aria-hidden=\"true\">{sign}</span> {}</span>", name(verdict))
}

fn header(report: &Report) -> String {
    let total = |of: fn(&super::Second) -> u64| grouped(report.timeline.iter().map(of).sum());
    let facts = [
        ("began", escaped(&report.began)),
        ("took", clock(report.seconds)),
        ("storage nodes", report.nodes.to_string()),
        ("viewleaders", report.viewleaders.to_string()),
        ("faults", grouped(report.faults.len() as u64)),
        ("done", total(|second| second.done)),
        ("not done", total(|second| second.not_done)),
        ("unknown", total(|second| second.unknown)),
        ("seed", report.seed.to_string()),
    ];
    let facts: String =
        facts.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")).collect();
    format!(
        "<header>\n<p>{}</p>\n<h1>{}</h1>\n<dl class=\"facts\">\n{facts}</dl>\n\
         <p class=\"replay\"><span>Run the same again</span><code>{}</code></p>\n</header>\n",
        badge(report.verdict),
        escaped(&report.sentence),
        escaped(&report.command)
    )
}

fn faults(report: &Report) -> String {
    if report.faults.is_empty() {
        return String::new();
    }
    let workloads = &report.workloads;
    let heads: String = workloads
        .iter()
        .map(|workload| format!("<th scope=\"col\" class=\"number\">{}</th>", escaped(&workload.name)))
        .collect();
    let mut rows = String::new();
    for row in matrix::rows(report) {
        let count = row.count;
        let cell = |ms: Option<u64>| ms.map_or("–".to_owned(), |ms| duration(ms.saturating_mul(1000)));
        let of_all = |part: usize| match part == count {
            true => format!("<td class=\"number\">{part}</td>"),
            false => format!("<td class=\"number doubt\">{part} of {count}</td>"),
        };
        rows += &format!(
            "<tr><th scope=\"row\">{}</th><td class=\"number\">{count}</td>{}{}<td class=\"number\">{}</td>\
             <td class=\"number\">{}</td>{}</tr>\n",
            escaped(row.kind),
            of_all(row.landed),
            of_all(row.recovery_ms.len()),
            cell(row.median_ms()),
            cell(row.worst_ms()),
            row.operations.iter().copied().map(operations).collect::<String>(),
        );
    }
    format!(
        "<section>\n<h2>Until every partition served again, and what went on meanwhile</h2>\n<figure class=\"wide\">\n\
         <table>\n<thead><tr><th scope=\"col\">fault</th>\
         <th scope=\"col\" class=\"number\">count</th><th scope=\"col\" class=\"number\">landed</th>\
         <th scope=\"col\" class=\"number\">recovered</th><th scope=\"col\" class=\"number\">median</th>\
         <th scope=\"col\" class=\"number\">worst</th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n\
         </figure>\n<p class=\"note\">Times are measured from the fault's begin. By workload: its operations that were \
         under way while the fault lasted and were answered as done; those that were not done or are unknown in \
         brackets.</p>\n</section>\n"
    )
}

fn operations(operations: Operations) -> String {
    let Operations { done, not_done, unknown } = operations;
    match (done, not_done + unknown) {
        (0, 0) => "<td class=\"number doubt\">–</td>".to_owned(),
        (done, 0) => format!("<td class=\"number\">{}</td>", grouped(done)),
        (done, others) => format!("<td class=\"number\">{} ({})</td>", grouped(done), grouped(others)),
    }
}

fn workloads(results: &[WorkloadResult]) -> String {
    let rows: String = results
        .iter()
        .map(|result| {
            format!(
                "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td><td>{}</td><td>{}</td></tr>\n",
                escaped(&result.name),
                grouped(result.operations),
                badge(result.verdict),
                escaped(&result.sentence)
            )
        })
        .collect();
    if rows.is_empty() {
        return "<section>\n<h2>Workloads</h2>\n<p class=\"note\">None was run.</p>\n</section>\n".to_owned();
    }
    format!(
        "<section>\n<h2>Workloads</h2>\n<table>\n<thead><tr><th scope=\"col\">workload</th>\
         <th scope=\"col\" class=\"number\">operations</th><th scope=\"col\">verdict</th>\
         <th scope=\"col\">what was found</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</section>\n"
    )
}

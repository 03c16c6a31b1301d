//! From what was found to one verdict.

use super::faults::Injected;
use crate::meter::Second;
use crate::screen::Screen;
use crate::workload::{WORKLOADS, Workload};
use check::report::{FaultSpan, Verdict, WorkloadResult};
use std::sync::Arc;
use std::time::Duration;

/// Judges every workload's history.
pub(super) async fn workloads(workloads: &[(usize, Arc<dyn Workload>)], screen: &Screen) -> Vec<WorkloadResult> {
    let mut results = Vec::new();
    for (which, workload) in workloads {
        let (name, judging) = (WORKLOADS[*which].0, workload.clone());
        // A panic ends the process: there is always a judgement.
        let Ok(judged) = tokio::task::spawn_blocking(move || judging.verdict(name)).await else { continue };
        screen.say(&format!("{name} judged: {} operations", judged.operations));
        results.push(judged);
    }
    results
}

/// The load in the seconds in which nothing was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Floor {
    wanted: u64,
    /// Whole seconds without a fault.
    seconds: usize,
    /// The one with the least done: which, and how much.
    least: Option<(usize, u64)>,
}

/// Looks at every whole second in which nothing was broken or being repaired; the first one is left to the start.
pub(super) fn floor(seconds: &[Second], injected: &Injected, load_ended: Duration, wanted: u64) -> Floor {
    let quiet = |at: &usize| {
        let (from, to) = (Duration::from_secs(*at as u64), Duration::from_secs(*at as u64 + 1));
        to <= load_ended && injected.disturbed.iter().all(|(began, ended)| to <= *began || *ended <= from)
    };
    let quiet: Vec<usize> = (1..seconds.len()).filter(quiet).collect();
    let least = quiet.iter().map(|at| (*at, seconds[*at].done)).min_by_key(|(_, done)| *done);
    Floor { wanted, seconds: quiet.len(), least }
}

impl Floor {
    fn failure(&self) -> Option<String> {
        match self.least {
            None => Some("no second went by without a fault: nothing shows that there was load; run longer".to_owned()),
            Some((at, done)) if done < self.wanted => {
                Some(format!("only {done} operations were done in second {at}, in which nothing was broken"))
            }
            Some(_) => None,
        }
    }
}

/// The first fault during which a workload asked nothing.
fn untested(injected: &Injected) -> Option<(&FaultSpan, &str)> {
    injected.spans.iter().find_map(|span| {
        let idle = span.operations.iter().find(|(_, operations)| operations.total() == 0);
        idle.map(|(workload, _)| (span, workload.as_str()))
    })
}

/// The worst of everything.
pub(super) fn verdict(
    workloads: &[WorkloadResult],
    injected: &Injected,
    trouble: Option<String>,
    floor: Floor,
) -> (Verdict, String) {
    let first = |wanted| workloads.iter().find(|result| result.verdict == wanted);
    if let Some(violated) = first(Verdict::Violated) {
        return (Verdict::Violated, format!("{}: {}", violated.name, violated.sentence));
    }
    if let Some(trouble) = trouble {
        return (Verdict::Violated, trouble);
    }
    if let Some(undecided) = first(Verdict::Undecided) {
        return (Verdict::Undecided, format!("{}: {}", undecided.name, undecided.sentence));
    }
    if let Some(missed) = injected.missed.first() {
        return (Verdict::FaultsDidNotLand, missed.clone());
    }
    if let Some((span, workload)) = untested(injected) {
        let sentence = format!("{workload} asked nothing during {} of {}", span.kind, span.target);
        return (Verdict::LoadTooLow, sentence);
    }
    if let Some(failure) = floor.failure() {
        return (Verdict::LoadTooLow, failure);
    }
    let operations: u64 = workloads.iter().map(|result| result.operations).sum();
    let (faults, least) = (counted(injected.spans.len(), "fault"), floor.least.map_or(0, |(_, done)| done));
    let mut sentence = format!(
        "{operations} operations under {faults} are explained; {least} operations or more in each of {} without a fault",
        counted(floor.seconds, "second")
    );
    if !injected.left_out.is_empty() {
        sentence.push_str(&format!("; there was no time for {}", injected.left_out.join(", ")));
    }
    (Verdict::Held, sentence)
}

/// `1 fault`, `2 faults`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use check::report::Operations;

    fn second(done: u64) -> Second {
        Second { done, ..Second::default() }
    }

    /// Guards against a load that had stopped and a verdict that says that everything held.
    #[test]
    fn every_second_without_a_fault_counts() {
        let seconds = [second(0), second(100), second(3), second(90), second(0)];
        let disturbed = vec![(Duration::from_millis(2_100), Duration::from_millis(2_900))];
        let injected = Injected { disturbed, ..Injected::default() };
        let held = floor(&seconds, &injected, Duration::from_millis(4_500), 90);
        assert_eq!(held, Floor { wanted: 90, seconds: 2, least: Some((3, 90)) });
        assert_eq!(verdict(&[], &injected, None, held).0, Verdict::Held);
        let low = floor(&seconds, &injected, Duration::from_millis(4_500), 91);
        assert_eq!(verdict(&[], &injected, None, low).0, Verdict::LoadTooLow);
        let none = floor(&seconds[..2], &injected, Duration::from_millis(1_500), 1);
        assert_eq!(verdict(&[], &injected, None, none).0, Verdict::LoadTooLow);
    }

    /// Guards against a fault that counts as tested by a workload that stood still.
    #[test]
    fn a_workload_that_asks_nothing_during_a_fault_fails_the_run() {
        let did = |done| Operations { done, ..Operations::default() };
        let span = |locks| FaultSpan {
            kind: "kill".to_owned(),
            target: "s1".to_owned(),
            began_ms: 0,
            ended_ms: 1,
            landed: Some("gone".to_owned()),
            recovery_ms: Some(1),
            operations: [("sets".to_owned(), did(3)), ("locks".to_owned(), did(locks))].into(),
        };
        let good = floor(&[second(0), second(9)], &Injected::default(), Duration::from_secs(2), 1);
        let of =
            |locks| verdict(&[], &Injected { spans: vec![span(1), span(locks)], ..Injected::default() }, None, good);
        assert_eq!(of(1).0, Verdict::Held);
        assert_eq!(of(0), (Verdict::LoadTooLow, "locks asked nothing during kill of s1".to_owned()));
    }

    /// Guards against a violation that is hidden by something less.
    #[test]
    fn the_worst_wins() {
        let result = |verdict| WorkloadResult {
            name: "w".into(),
            operations: 1,
            verdict,
            sentence: String::new(),
            violation: None,
        };
        let injected = Injected { missed: vec!["x".into()], ..Injected::default() };
        let good = floor(&[second(0), second(9)], &injected, Duration::from_secs(2), 1);
        let of = |results: &[WorkloadResult], trouble: Option<&str>| {
            verdict(results, &injected, trouble.map(str::to_owned), good).0
        };
        assert_eq!(of(&[result(Verdict::Held)], None), Verdict::FaultsDidNotLand);
        assert_eq!(of(&[result(Verdict::Undecided)], None), Verdict::Undecided);
        assert_eq!(of(&[result(Verdict::Undecided)], Some("it ended")), Verdict::Violated);
        assert_eq!(of(&[result(Verdict::Undecided), result(Verdict::Violated)], None), Verdict::Violated);
    }
}

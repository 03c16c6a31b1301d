//! From what was found to one verdict.

use super::faults::Injected;
use crate::meter::Second;
use crate::screen::Screen;
use crate::workload::{WORKLOADS, Workload};
use check::report::{Verdict, WorkloadResult};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A workload that asks nothing during so many faults in a row stands still.
const IDLE_FAULTS_MAX: usize = 3;

/// Judges every workload's history.
pub(super) async fn workloads(workloads: &[(usize, Arc<dyn Workload>)], screen: &Screen) -> Vec<WorkloadResult> {
    let mut results = Vec::new();
    for (which, workload) in workloads {
        let (name, judging) = (WORKLOADS[*which].0, workload.clone());
        // A panic ends the process: there is always a judgement.
        let Ok(mut judged) = tokio::task::spawn_blocking(move || judging.verdict(name)).await else { continue };
        if judged.verdict == Verdict::Held && workload.effects() == 0 {
            judged.verdict = Verdict::LoadTooLow;
            judged.sentence = "nothing that was asked had an effect".to_owned();
        }
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

/// A workload that asked nothing during all faults of one kind, or stood still through several of any. A single one may be
/// over before a slow workload's turn.
fn untested(injected: &Injected) -> Option<String> {
    let mut asked: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut idle: BTreeMap<&str, usize> = BTreeMap::new();
    for span in &injected.spans {
        for (workload, operations) in &span.operations {
            *asked.entry((workload, &span.kind)).or_default() += operations.total();
            let idle = idle.entry(workload).or_default();
            *idle = if operations.total() == 0 { *idle + 1 } else { 0 };
            if *idle == IDLE_FAULTS_MAX {
                return Some(format!(
                    "{workload} asked nothing during {IDLE_FAULTS_MAX} faults in a row, the last one {} of {}",
                    span.kind, span.target
                ));
            }
        }
    }
    let never = asked.into_iter().find(|(_, operations)| *operations == 0);
    never.map(|((workload, kind), _)| format!("{workload} asked nothing while there was a {kind}"))
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
    if injected.spans.is_empty() && !injected.left_out.is_empty() {
        return (Verdict::FaultsDidNotLand, "there was no time for any fault: run longer".to_owned());
    }
    if let Some(idle) = first(Verdict::LoadTooLow) {
        return (Verdict::LoadTooLow, format!("{}: {}", idle.name, idle.sentence));
    }
    if let Some(sentence) = untested(injected) {
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
    use check::report::{FaultSpan, Operations};

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
        let span = |kind: &str, locks| FaultSpan {
            kind: kind.to_owned(),
            target: "s1".to_owned(),
            began_ms: 0,
            ended_ms: 1,
            landed: Some("gone".to_owned()),
            recovery_ms: Some(1),
            operations: [("sets".to_owned(), did(3)), ("locks".to_owned(), did(locks))].into(),
        };
        let good = floor(&[second(0), second(9)], &Injected::default(), Duration::from_secs(2), 1);
        let of = |faults: &[(&str, u64)]| {
            let spans = faults.iter().map(|(kind, locks)| span(kind, *locks)).collect();
            verdict(&[], &Injected { spans, ..Injected::default() }, None, good)
        };
        assert_eq!(of(&[("kill", 0), ("cut", 1), ("kill", 1), ("cut", 0)]).0, Verdict::Held);
        let low = |sentence: &str| (Verdict::LoadTooLow, sentence.to_owned());
        assert_eq!(of(&[("cut", 1), ("kill", 0), ("cut", 1)]), low("locks asked nothing while there was a kill"));
        let stands = [("kill", 1), ("cut", 1), ("kill", 0), ("cut", 0), ("kill", 0), ("kill", 1)];
        let sentence = "locks asked nothing during 3 faults in a row, the last one kill of s1";
        assert_eq!(of(&stands), low(sentence));
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

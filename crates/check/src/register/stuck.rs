//! Where there is no order: the longest part that can be explained, and what can't follow it.

use super::Operation;
use super::model::Register;
use super::plan::Plan;
use super::search::Search;
use std::fmt::Write;

/// Operations shown of the longest part that could be explained.
const SHOWN_MAX: usize = 8;

#[derive(Default)]
pub(super) struct Stuck {
    /// How many answers could be explained, plus one; 0: nothing was noted yet.
    progress: usize,
    last: Vec<usize>,
    register: Register,
    /// What can't be explained.
    blocked: Option<usize>,
    /// What comes before `blocked` by the versions, and was called after it was answered.
    late: Option<usize>,
}

impl Stuck {
    /// What versions alone contradict, whatever else happened: an order of versions against the order of time, one
    /// version written twice, or a version seen with another value than was written. None of it needs a search.
    pub(super) fn settled(plan: &Plan, operations: &[&Operation]) -> Option<Stuck> {
        let mut written: Option<(u64, Register)> = None;
        for (at, placed) in plan.order.iter().enumerate() {
            let (first_answer, blocked) = plan.first_answer[at];
            let stuck = |late, register| Stuck {
                progress: at + 1,
                last: plan.order[at.saturating_sub(SHOWN_MAX)..at].iter().map(|placed| placed.index).collect(),
                register,
                blocked: Some(if late { blocked } else { placed.index }),
                late: late.then_some(placed.index),
            };
            let register = written.map_or(Register::default(), |(_, register)| register);
            if operations[placed.index].called_at > first_answer {
                return Some(stuck(true, register));
            }
            let same = written.filter(|(version, _)| *version == placed.version);
            written = match (Register::written(operations, placed.index, placed.version), same) {
                (Some(register), None) => Some((placed.version, register)),
                (None, Some((_, before))) if before.after(operations, placed.index).is_some() => written,
                (None, None) => written,
                (Some(_), Some(_)) | (None, Some(_)) => return Some(stuck(false, register)),
            };
        }
        None
    }

    /// Keeps what the search has explained, if it is more than ever before.
    pub(super) fn note(&mut self, search: &Search<'_>) {
        let progress = search.at + search.looked + 1;
        if progress <= self.progress {
            return;
        }
        let (first_answer, first) = search.first_answer();
        let next = search.plan.order.get(search.at).map(|placed| placed.index);
        let is_late = |next: &usize| search.operations[*next].called_at > first_answer;
        *self = Stuck {
            progress,
            last: search.last(SHOWN_MAX),
            register: search.register,
            blocked: next.filter(|next| !is_late(next)).or((first != usize::MAX).then_some(first)),
            late: None,
        };
    }

    /// What can't be explained, in one line.
    pub(super) fn sentence(&self, operations: &[&Operation]) -> String {
        let quoted = |index: usize| operations.get(index).map_or(String::new(), |o| format!("“{}”", o.text()));
        match (self.blocked, self.late) {
            (Some(blocked), Some(late)) => {
                let (first, second) = (quoted(late), quoted(blocked));
                format!("by the versions {first} comes before {second}, which was answered before that was called")
            }
            (Some(blocked), None) => {
                format!("{} can't be where the key has {}", quoted(blocked), self.register.describe(operations))
            }
            (None, _) => "no order of the operations explains the answers".to_owned(),
        }
    }

    /// When what can't be explained was answered: the violation is around then.
    pub(super) fn around(&self, operations: &[&Operation]) -> u64 {
        let ends = |index: usize| operations.get(index).map(|o| o.answer().unwrap_or(o.called_at));
        self.blocked.and_then(ends).unwrap_or(0)
    }

    /// Many lines for people.
    pub(super) fn explain(&self, operations: &[&Operation]) -> String {
        let explained = self.progress.saturating_sub(1);
        let mut text = format!("  {explained} of {} operations can be put in order; the last:\n", operations.len());
        let mut line = |what: &dyn std::fmt::Display| {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{what}");
        };
        for index in &self.last {
            line(&format_args!("    {}", operations[*index]));
        }
        line(&format_args!("  the key then has {}", self.register.describe(operations)));
        match (self.blocked.and_then(|index| operations.get(index)), self.late) {
            (Some(blocked), Some(late)) => {
                line(&format_args!("  by its version this comes next:\n    {}", operations[late]));
                line(&format_args!("  and this comes later, but was answered before:\n    {blocked}"));
            }
            (Some(blocked), None) => line(&format_args!("  and this can't be explained:\n    {blocked}")),
            (None, _) => {}
        }
        text
    }
}

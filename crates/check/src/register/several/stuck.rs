//! Where there is no order of what transactions tie together: the longest part that can be explained, and what can't follow.

use super::super::Operation;
use super::Registers;
use std::fmt::Write;

/// Operations shown that are not placed yet.
const WAITING_MAX: usize = 8;

#[derive(Default)]
pub(in super::super) struct Stuck {
    /// How many operations could be put in order.
    pub(super) explained: usize,
    /// The last of them.
    pub(super) last: Vec<usize>,
    pub(super) registers: Registers,
    /// What can't be explained.
    pub(super) blocked: Option<usize>,
    /// What was called before that was answered, and has no place either.
    pub(super) waiting: Vec<usize>,
}

impl Stuck {
    /// What can't be explained, in one line.
    pub(in super::super) fn sentence(&self, operations: &[&Operation]) -> String {
        match self.blocked.and_then(|index| operations.get(index)) {
            Some(blocked) => format!("“{}” can't be where there is {}", blocked.text(), self.registers.describe()),
            None => "no order of the operations explains the answers".to_owned(),
        }
    }

    /// What belongs to it, by ascending call.
    pub(in super::super) fn piece(&self) -> Vec<usize> {
        let mut piece: Vec<usize> = self.last.iter().copied().chain(self.blocked).collect();
        piece.extend(self.waiting.iter().rev().take(WAITING_MAX));
        piece.sort_unstable();
        piece.dedup();
        piece
    }

    /// Many lines for people.
    pub(in super::super) fn explain(&self, operations: &[&Operation]) -> String {
        let mut text =
            format!("  {} of {} operations can be put in order; the last:\n", self.explained, operations.len());
        let mut line = |what: &dyn std::fmt::Display| {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{what}");
        };
        for index in &self.last {
            line(&format_args!("    {}", operations[*index]));
        }
        line(&format_args!("  there is then {}", self.registers.describe()));
        if let Some(blocked) = self.blocked.and_then(|index| operations.get(index)) {
            line(&format_args!("  and this can't be explained:\n    {blocked}"));
        }
        if !self.waiting.is_empty() {
            line(&"  not yet placed, called before that was answered:");
        }
        for index in self.waiting.iter().rev().take(WAITING_MAX) {
            line(&format_args!("    {}", operations[*index]));
        }
        text
    }
}

//! Transactions as they travel, and back, checked.

use crate::convert::{Malformed, condition_from_wire, fence_from_wire, fence_to_wire, required};
use crate::v1;
use bytes::Bytes;
use types::{Condition, OperationResult, Record, Seq, Transaction, TransactionOperation, TransactionPart};
use v1::step_result::Result as WireResult;
use v1::transaction_step::Step as WireStep;

impl From<Transaction> for v1::Transact {
    /// Without what names it.
    fn from(transaction: Transaction) -> Self {
        let steps = |operations: Vec<TransactionOperation>| operations.into_iter().map(Into::into).collect();
        v1::Transact {
            conditions: conditions_to_wire(transaction.conditions),
            then: steps(transaction.then),
            otherwise: steps(transaction.otherwise),
            request: None,
            fence: transaction.fence.as_ref().map(fence_to_wire),
        }
    }
}

impl TryFrom<v1::Transact> for Transaction {
    type Error = Malformed;

    fn try_from(transact: v1::Transact) -> Result<Self, Malformed> {
        let steps = |steps: Vec<v1::TransactionStep>| {
            steps.into_iter().map(TransactionOperation::try_from).collect::<Result<Vec<_>, Malformed>>()
        };
        let transaction = Transaction {
            conditions: conditions_from_wire(transact.conditions)?,
            then: steps(transact.then)?,
            otherwise: steps(transact.otherwise)?,
            fence: transact.fence.map(fence_from_wire).transpose()?,
        };
        transaction.check().map_err(|error| Malformed(error.to_string()))?;
        Ok(transaction)
    }
}

impl From<TransactionOperation> for v1::TransactionStep {
    fn from(operation: TransactionOperation) -> Self {
        let step = match operation {
            TransactionOperation::Put { key, value } => WireStep::Put(v1::PutStep { key, value }),
            TransactionOperation::Delete { key } => WireStep::Delete(key),
            TransactionOperation::Get { key } => WireStep::Get(key),
        };
        v1::TransactionStep { step: Some(step) }
    }
}

impl TryFrom<v1::TransactionStep> for TransactionOperation {
    type Error = Malformed;

    fn try_from(step: v1::TransactionStep) -> Result<Self, Malformed> {
        Ok(match required(step.step, "a step of a transaction")? {
            WireStep::Put(put) => TransactionOperation::Put { key: put.key, value: put.value },
            WireStep::Delete(key) => TransactionOperation::Delete { key },
            WireStep::Get(key) => TransactionOperation::Get { key },
        })
    }
}

impl From<OperationResult> for v1::StepResult {
    fn from(result: OperationResult) -> Self {
        let result = match result {
            OperationResult::Put { version, replaced } => {
                WireResult::Put(v1::PutResult { version: version.map(|version| version.0), replaced })
            }
            OperationResult::Deleted { existed } => WireResult::Deleted(existed),
            OperationResult::Found(record) => {
                WireResult::Found(v1::Found { value: record.value, version: record.seq.0 })
            }
            OperationResult::NotFound => WireResult::NotFound(true),
        };
        v1::StepResult { result: Some(result) }
    }
}

impl TryFrom<v1::StepResult> for OperationResult {
    type Error = Malformed;

    fn try_from(result: v1::StepResult) -> Result<Self, Malformed> {
        Ok(match required(result.result, "the result of a step")? {
            WireResult::Put(put) => OperationResult::Put { version: put.version.map(Seq), replaced: put.replaced },
            WireResult::Deleted(existed) => OperationResult::Deleted { existed },
            WireResult::Found(found) => OperationResult::Found(Record { seq: Seq(found.version), value: found.value }),
            WireResult::NotFound(_) => OperationResult::NotFound,
        })
    }
}

fn conditions_to_wire(conditions: Vec<(Bytes, Condition)>) -> Vec<v1::KeyCondition> {
    let one = |(key, condition): (Bytes, Condition)| v1::KeyCondition { key, condition: Some(condition.into()) };
    conditions.into_iter().map(one).collect()
}

fn conditions_from_wire(conditions: Vec<v1::KeyCondition>) -> Result<Vec<(Bytes, Condition)>, Malformed> {
    conditions.into_iter().map(|one| Ok((one.key, condition_from_wire(one.condition)?))).collect()
}

/// A part of a transaction's conditions and steps, each step with its place.
pub fn part_to_wire(part: TransactionPart) -> (Vec<v1::KeyCondition>, Vec<v1::PlacedStep>, Vec<v1::PlacedStep>) {
    let steps = |steps: Vec<(u32, TransactionOperation)>| {
        steps.into_iter().map(|(place, step)| v1::PlacedStep { place, step: Some(step.into()) }).collect()
    };
    (conditions_to_wire(part.conditions), steps(part.then), steps(part.otherwise))
}

/// # Errors
/// [`Malformed`] where a step is missing, or the fence breaks a limit.
pub fn part_from_wire(
    conditions: Vec<v1::KeyCondition>,
    then: Vec<v1::PlacedStep>,
    otherwise: Vec<v1::PlacedStep>,
    fence: Option<v1::Fence>,
) -> Result<TransactionPart, Malformed> {
    let steps = |steps: Vec<v1::PlacedStep>| {
        let one = |placed: v1::PlacedStep| Ok((placed.place, required(placed.step, "a placed step")?.try_into()?));
        steps.into_iter().map(one).collect::<Result<Vec<_>, Malformed>>()
    };
    Ok(TransactionPart {
        conditions: conditions_from_wire(conditions)?,
        then: steps(then)?,
        otherwise: steps(otherwise)?,
        fence: fence.map(fence_from_wire).transpose()?,
    })
}

/// Results with their places.
pub fn results_to_wire(results: Vec<(u32, OperationResult)>) -> Vec<v1::PlacedResult> {
    results.into_iter().map(|(place, result)| v1::PlacedResult { place, result: Some(result.into()) }).collect()
}

/// # Errors
/// [`Malformed`] where a result is missing.
pub fn results_from_wire(results: Vec<v1::PlacedResult>) -> Result<Vec<(u32, OperationResult)>, Malformed> {
    let one = |placed: v1::PlacedResult| Ok((placed.place, required(placed.result, "a placed result")?.try_into()?));
    results.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Fence, FencingToken};

    /// Guards against a part of a transaction or of its result that gets lost on the way, or arrives as another.
    #[test]
    fn a_transaction_travels_as_it_is() {
        let key = |name: &'static str| Bytes::from_static(name.as_bytes());
        let transaction = Transaction {
            conditions: vec![
                (key("a"), Condition::Absent),
                (key("b"), Condition::Version(Seq(7))),
                (key("c"), Condition::Value(Bytes::new())),
                (key("d"), Condition::Present),
            ],
            then: vec![
                TransactionOperation::Put { key: key("a"), value: Bytes::new() },
                TransactionOperation::Delete { key: key("b") },
            ],
            otherwise: vec![TransactionOperation::Get { key: key("a") }],
            fence: Some(Fence { name: key("lock"), token: FencingToken(7) }),
        };
        let wire = v1::Transact::from(transaction.clone());
        assert_eq!(Transaction::try_from(wire.clone()), Ok(transaction.clone()));
        let (_, part) = transaction.split(types::PartitionCount::new(1).expect("a power of two")).remove(0);
        let (conditions, then, otherwise) = part_to_wire(part.clone());
        let fence = part.fence.as_ref().map(fence_to_wire);
        assert_eq!(part_from_wire(conditions, then, otherwise, fence), Ok(part));
        let empty = v1::Transact { conditions: Vec::new(), then: Vec::new(), otherwise: Vec::new(), ..wire };
        assert!(Transaction::try_from(empty).is_err(), "limits are checked at the door");
        for result in [
            OperationResult::Put { version: None, replaced: true },
            OperationResult::Put { version: Some(Seq(3)), replaced: false },
            OperationResult::Deleted { existed: false },
            OperationResult::Found(Record { seq: Seq(9), value: key("v") }),
            OperationResult::NotFound,
        ] {
            let placed = results_to_wire(vec![(4, result.clone())]);
            assert_eq!(results_from_wire(placed), Ok(vec![(4, result)]));
        }
    }
}

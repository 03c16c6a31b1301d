//! `txn`: several keys at once, from a file or standard input.
//!
//! The readable form has one condition or step a line; words stand apart by blanks, and a word with blanks or other
//! oddities is written as a JSON string:
//!
//! ```text
//! # move 5 from a to b, if a still has 10
//! if   a = 10
//! if   b absent
//! set  a 5
//! set  b 5
//! else
//! get  a
//! ```
//!
//! A line `fence NAME:TOKEN` has the transaction refused where a newer token of that lock was used.
//!
//! What begins with `{` is JSON; bytes that are no text are `{"base64": "…"}` there.

use crate::cli::{ClusterFlags, Globals};
use crate::failure::{exit_of, kind_of};
use crate::keys;
use crate::output::{self, Format};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use clap::Args;
use client::{Error, Transacted};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::io::Read;
use std::path::PathBuf;
use types::limits::TRANSACTION_BYTES_MAX;
use types::{Condition, Fence, OperationResult, Seq, Transaction, TransactionOperation};

/// Base64, quotes and names may take a few times the bytes of what they stand for.
const FILE_BYTES_MAX: u64 = 8 * TRANSACTION_BYTES_MAX as u64;

#[derive(Clone, Debug, Args)]
#[command(after_long_help = "A line is one of\n\
    \x20 if KEY = VALUE | if KEY version N | if KEY absent | if KEY present\n\
    \x20 set KEY VALUE | delete KEY | get KEY\n\
    \x20 else              what follows is done if a condition does not hold\n\
    \x20 fence NAME:TOKEN  refused if a newer token of this lock was used (exit code 5)\n\
    \x20 # a comment\n\
    A word with blanks is written as a JSON string, \"like this\\n\". Reads see what was before; a branch writes a key at \
    most once.\n\n\
    The same as JSON:\n\
    \x20 {\"if\": [{\"key\": \"a\", \"value\": \"10\"}, {\"key\": \"b\", \"absent\": true}, {\"key\": \"c\", \"version\": 7}],\n\
    \x20  \"then\": [{\"set\": \"a\", \"value\": \"5\"}, {\"delete\": \"b\"}, {\"get\": \"c\"}],\n\
    \x20  \"else\": [{\"get\": \"a\"}],\n\
    \x20  \"fence\": \"NAME:TOKEN\"}\n\n\
    Exit code 1: a condition did not hold, and the steps after `else` were done.")]
pub(crate) struct TxnFlags {
    /// What to do; `-` reads standard input.
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub(crate) async fn run(globals: &Globals, flags: TxnFlags) -> Result<Exit, Failure> {
    let text = if flags.file.as_os_str() == "-" {
        read(&mut std::io::stdin().lock())
            .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?
    } else {
        let cannot = |error| Failure::usage(format!("cannot read {}: {error}", flags.file.display()));
        read(&mut std::fs::File::open(&flags.file).map_err(cannot)?).map_err(cannot)?
    };
    let transaction = parse(&text).map_err(Failure::usage)?;
    let outcome = globals.connect(&flags.cluster).await?.transact(transaction.clone()).await;
    settle(globals.output, &transaction, outcome)
}

/// Reads the text, and no more of one that is too long than it takes to know.
fn read(source: &mut impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes; split the transaction")));
    }
    Ok(text)
}

/// # Errors
/// What is wrong and where, in one line.
fn parse(text: &str) -> Result<Transaction, String> {
    if text.trim_start().starts_with('{') {
        let value = serde_json::from_str(text).map_err(|error| format!("the transaction is no JSON: {error}"))?;
        return of_json(&value);
    }
    let mut transaction = Transaction::default();
    let mut in_else = false;
    for (number, line) in (1..).zip(text.lines()) {
        let at = |what: String| format!("line {number}: {what}");
        let words = words(line).map_err(at)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let key = |key: &str| Bytes::copy_from_slice(key.as_bytes());
        let step = match words.as_slice() {
            [] => continue,
            ["else"] if !in_else => {
                in_else = true;
                continue;
            }
            ["if", name, condition @ ..] => {
                let condition = match condition {
                    ["=", value] => Condition::Value(key(value)),
                    ["absent"] => Condition::Absent,
                    ["present"] => Condition::Present,
                    ["version", version] => {
                        let version =
                            version.parse().map_err(|_| at(format!("{version} is no version, a number is")))?;
                        Condition::Version(Seq(version))
                    }
                    _ => return Err(at("after `if KEY` comes `= VALUE`, `version N`, `absent` or `present`".into())),
                };
                transaction.conditions.push((key(name), condition));
                continue;
            }
            ["fence", named] => {
                let fence = keys::fence(named).map_err(at)?;
                if transaction.fence.replace(fence).is_some() {
                    return Err(at("a transaction has one fence at most".into()));
                }
                continue;
            }
            ["set", name, value] => TransactionOperation::Put { key: key(name), value: key(value) },
            ["delete", name] => TransactionOperation::Delete { key: key(name) },
            ["get", name] => TransactionOperation::Get { key: key(name) },
            _ => {
                let what = "a line is `if KEY …`, `set KEY VALUE`, `delete KEY`, `get KEY`, `fence NAME:TOKEN` or `else`; see dhtctl txn --help";
                return Err(at(what.to_owned()));
            }
        };
        if in_else { &mut transaction.otherwise } else { &mut transaction.then }.push(step);
    }
    Ok(transaction)
}

/// The words of a line, up to a comment.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        if rest.starts_with('"') {
            let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let word =
                strings.next().and_then(Result::ok).ok_or("a string in quotes does not end, or has a bad escape")?;
            rest = &rest[strings.byte_offset()..];
            words.push(word);
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(words)
}

fn of_json(value: &Value) -> Result<Transaction, String> {
    let known = ["if", "then", "else", "fence"];
    let object = value.as_object().ok_or("the transaction is an object with `if`, `then`, `else` and `fence`")?;
    if let Some(other) = object.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("`{other}` is none of `if`, `then`, `else` and `fence`"));
    }
    let list = |name: &str| match object.get(name) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list.clone()),
        Some(_) => Err(format!("`{name}` is a list")),
    };
    let steps = |name: &str| list(name)?.iter().map(step_of_json).collect::<Result<Vec<_>, String>>();
    Ok(Transaction {
        conditions: list("if")?.iter().map(condition_of_json).collect::<Result<_, _>>()?,
        then: steps("then")?,
        otherwise: steps("else")?,
        fence: object.get("fence").map(fence_of_json).transpose()?,
    })
}

fn fence_of_json(value: &Value) -> Result<Fence, String> {
    keys::fence(value.as_str().ok_or("`fence` is a text, NAME:TOKEN")?)
}

fn condition_of_json(value: &Value) -> Result<(Bytes, Condition), String> {
    let wrong = || format!("a condition has `key` and one of `value`, `version`, `absent`, `present`: {value}");
    let object = value.as_object().filter(|object| object.len() == 2).ok_or_else(wrong)?;
    let key = bytes_of_json(object.get("key").ok_or_else(wrong)?)?;
    let (name, what) = object.iter().find(|(name, _)| *name != "key").ok_or_else(wrong)?;
    let condition = match (name.as_str(), what) {
        ("value", value) => Condition::Value(bytes_of_json(value)?),
        ("version", version) => Condition::Version(Seq(version.as_u64().ok_or_else(wrong)?)),
        ("absent", Value::Bool(true)) => Condition::Absent,
        ("present", Value::Bool(true)) => Condition::Present,
        _ => return Err(wrong()),
    };
    Ok((key, condition))
}

fn step_of_json(value: &Value) -> Result<TransactionOperation, String> {
    let wrong =
        || format!("a step is {{\"set\": KEY, \"value\": VALUE}}, {{\"delete\": KEY}} or {{\"get\": KEY}}: {value}");
    let object = value.as_object().ok_or_else(wrong)?;
    let named = |name: &str| object.get(name).map(bytes_of_json).transpose();
    match (object.len(), named("set")?, named("value")?, named("delete")?, named("get")?) {
        (2, Some(key), Some(value), None, None) => Ok(TransactionOperation::Put { key, value }),
        (1, None, None, Some(key), None) => Ok(TransactionOperation::Delete { key }),
        (1, None, None, None, Some(key)) => Ok(TransactionOperation::Get { key }),
        _ => Err(wrong()),
    }
}

fn bytes_of_json(value: &Value) -> Result<Bytes, String> {
    match value {
        Value::String(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Value::Object(object) if object.len() == 1 => {
            let encoded = object.get("base64").and_then(Value::as_str);
            let decoded = encoded.and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
            decoded.map(Bytes::from).ok_or_else(|| format!("{value} is not {{\"base64\": \"…\"}}"))
        }
        _ => Err(format!("{value} is neither text nor {{\"base64\": \"…\"}}")),
    }
}

/// Prints the outcome and gives its exit code.
fn settle(format: Format, transaction: &Transaction, outcome: Result<Transacted, Error>) -> Result<Exit, Failure> {
    match format {
        Format::Json => output::write_json(&as_json(transaction, &outcome))?,
        Format::Table | Format::Raw => {
            if let Ok(transacted) = &outcome {
                for line in lines(transaction, transacted) {
                    output::line(&line)?;
                }
            }
        }
    }
    match outcome {
        Ok(transacted) if transacted.succeeded => Ok(Exit::Done),
        Ok(_) => {
            let what = if transaction.otherwise.is_empty() {
                "nothing was changed"
            } else {
                "the steps after `else` were done"
            };
            Err(Failure::new(Exit::NotFound, format!("condition false: {what}")))
        }
        Err(error) => Err(Failure::new(exit_of(&error), error.to_string())),
    }
}

fn branch<'a>(
    transaction: &'a Transaction,
    transacted: &'a Transacted,
) -> impl Iterator<Item = (&'a Bytes, &'a OperationResult)> {
    let steps = if transacted.succeeded { &transaction.then } else { &transaction.otherwise };
    steps.iter().map(TransactionOperation::key).zip(&transacted.results)
}

/// A line for each step.
fn lines(transaction: &Transaction, transacted: &Transacted) -> Vec<String> {
    let line = |(key, result): (&Bytes, &OperationResult)| {
        let key = output::text_bytes(key);
        match result {
            OperationResult::Put { version: Some(version), .. } => format!("set {key}, version {}", version.0),
            OperationResult::Put { version: None, .. } => format!("set {key}"),
            OperationResult::Deleted { existed: true } => format!("deleted {key}"),
            OperationResult::Deleted { existed: false } => format!("{key} had no value to delete"),
            OperationResult::Found(record) => {
                format!("{key} = {}, version {}", output::text_bytes(&record.value), record.seq.0)
            }
            OperationResult::NotFound => format!("{key} has no value"),
        }
    };
    branch(transaction, transacted).map(line).collect()
}

fn as_json(transaction: &Transaction, outcome: &Result<Transacted, Error>) -> Value {
    let transacted = match outcome {
        Ok(transacted) => transacted,
        Err(error) => {
            return json!({
                "outcome": if matches!(error, Error::Unknown { .. }) { "unknown" } else { "not_done" },
                "error": kind_of(error),
                "message": error.to_string(),
                "safe_to_retry": error.is_safe_to_retry(),
            });
        }
    };
    let step = |(key, result): (&Bytes, &OperationResult)| {
        let key = output::json_bytes(key);
        match result {
            OperationResult::Put { version, replaced } => {
                json!({ "set": key, "version": version.map(|version| version.0), "replaced": replaced })
            }
            OperationResult::Deleted { existed } => json!({ "delete": key, "existed": existed }),
            OperationResult::Found(record) => {
                json!({ "get": key, "value": output::json_bytes(&record.value), "version": record.seq.0 })
            }
            OperationResult::NotFound => json!({ "get": key, "value": null }),
        }
    };
    json!({
        "outcome": if transacted.succeeded { "done" } else { "condition_failed" },
        "results": branch(transaction, transacted).map(step).collect::<Vec<_>>(),
        "durable_on": transacted.durable_on,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{NodeId, Record, Term};

    const READABLE: &str = "# a comment\n\
        if a = 10\n\
        if \"b c\" absent   # another\n\
        if d version 7\n\
        set a \"5 \\u00e9\\n\"\n\
        delete \"b c\"\n\n\
        get d\n\
        fence l:7\n\
        else\n\
        get a\n";
    const JSON: &str = r#"{"if": [{"key": "a", "value": "10"}, {"key": "b c", "absent": true}, {"key": "d", "version": 7}],
        "then": [{"set": "a", "value": "5 é\n"}, {"delete": {"base64": "YiBj"}}, {"get": "d"}],
        "else": [{"get": "a"}], "fence": "l:7"}"#;

    /// Guards against two forms that mean different things.
    #[test]
    fn both_forms_say_the_same() {
        let readable = parse(READABLE).unwrap();
        assert_eq!(parse(JSON).unwrap(), readable);
        assert_eq!((readable.conditions.len(), readable.then.len(), readable.otherwise.len()), (3, 3, 1));
        assert_eq!(readable.then[0], TransactionOperation::Put { key: "a".into(), value: "5 é\n".into() });
    }

    /// Guards against a mistake that is carried out as something else.
    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, says) in [
            ("set a", "line 1: a line is"),
            ("get a\nif a is 5", "line 2: after `if KEY`"),
            ("if a version x", "line 1: x is no version"),
            ("else\nget a\nelse", "line 3: a line is"),
            ("fence l", "line 1: a fence is NAME:TOKEN"),
            ("fence l:1\nfence l:2", "line 2: a transaction has one fence"),
            ("get \"a", "line 1: a string in quotes"),
            ("{\"if\": 3}", "`if` is a list"),
            ("{\"do\": []}", "`do` is none of"),
            ("{\"then\": [{\"set\": \"a\"}]}", "a step is"),
            ("{\"if\": [{\"key\": \"a\", \"absent\": false}]}", "a condition has"),
            ("{", "the transaction is no JSON"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(says) && !error.contains('\n'), "{text}: {error}");
        }
    }

    /// Guards against JSON and exit codes that change under scripts.
    #[test]
    fn the_outcome_is_told() {
        let transaction = parse("if a = 1\nset a 2\nget b\nelse\nget a").unwrap();
        let done =
            |succeeded, results| Ok(Transacted { succeeded, results, durable_on: 2, term: Term(3), node: NodeId(1) });
        let put = OperationResult::Put { version: Some(Seq(7)), replaced: true };
        let outcome = done(true, vec![put, OperationResult::NotFound]);
        assert_eq!(
            as_json(&transaction, &outcome),
            json!({"outcome": "done", "durable_on": 2,
                   "results": [{"set": "a", "version": 7, "replaced": true}, {"get": "b", "value": null}]})
        );
        assert_eq!(lines(&transaction, outcome.as_ref().unwrap()), ["set a, version 7", "b has no value"]);
        let found = OperationResult::Found(Record { seq: Seq(4), value: "9".into() });
        let outcome = done(false, vec![found]);
        assert_eq!(lines(&transaction, outcome.as_ref().unwrap()), ["a = 9, version 4"]);
        assert_eq!(settle(Format::Raw, &transaction, outcome).unwrap_err().exit, Exit::NotFound);
        let unknown = Err(Error::Unknown { message: "x".into() });
        assert_eq!(as_json(&transaction, &unknown)["outcome"], "unknown");
    }
}

//! `setr`, `getr`, `delr`: one key each.

use crate::cli::{ClusterFlags, Globals};
use crate::failure::{self, exit_of, kind_of};
use crate::lease::{self, coordination, lease_id};
use crate::output::{self, Format};
use bytes::Bytes;
use clap::Args;
use client::{DeleteOutcome, Error, Found, PutOutcome, Written};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;
use types::limits::{LOCK_NAME_BYTES_MAX, VALUE_BYTES_MAX};
use types::{Condition, Fence, FencingToken, LeaseId, Seq};

#[derive(Clone, Debug, Args)]
pub(crate) struct SetrFlags {
    /// 1 to 1024 bytes.
    key: OsString,
    /// At most 1 MiB; `-` reads it from standard input.
    #[arg(required_unless_present = "value_file", conflicts_with = "value_file")]
    value: Option<OsString>,
    /// Read the value from a file, byte for byte.
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
    /// Only if the key has no value.
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if the key's value has this version.
    #[arg(long, value_name = "N", group = "condition")]
    if_version: Option<u64>,
    /// Only if the key has this value.
    #[arg(long, value_name = "V", group = "condition")]
    if_value: Option<OsString>,
    /// Delete the key after this time, unless it is written again before. Never earlier; later where its primary fails
    /// meanwhile: the next one counts anew.
    #[arg(long, value_name = "TIME", value_parser = daemon::settings::duration)]
    ttl: Option<Duration>,
    /// Delete the key when this lease ends, unless it is written again before.
    #[arg(long, value_name = "LEASE", value_parser = lease_id, conflicts_with = "ttl")]
    lease: Option<LeaseId>,
    /// Refuse it if the lock was granted to somebody else since: the token that came with the lock.
    #[arg(long, value_name = "NAME:TOKEN", value_parser = fence)]
    fence: Option<Fence>,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GetrFlags {
    /// 1 to 1024 bytes.
    key: OsString,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DelrFlags {
    /// 1 to 1024 bytes.
    key: OsString,
    /// Only if the key's value has this version.
    #[arg(long, value_name = "N", group = "condition")]
    if_version: Option<u64>,
    /// Only if the key has this value.
    #[arg(long, value_name = "V", group = "condition")]
    if_value: Option<OsString>,
    /// Refuse it if the lock was granted to somebody else since: the token that came with the lock.
    #[arg(long, value_name = "NAME:TOKEN", value_parser = fence)]
    fence: Option<Fence>,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// A value parser for fences. The name may have colons too.
pub(crate) fn fence(text: &str) -> Result<Fence, String> {
    let wrong = || "a fence is NAME:TOKEN, as lock_get and DHT_LOCK_TOKEN give it".to_owned();
    let (name, token) = text.rsplit_once(':').ok_or_else(wrong)?;
    let token = token.parse().map_err(|_| wrong())?;
    if name.is_empty() || name.len() > LOCK_NAME_BYTES_MAX || token == 0 {
        return Err(wrong());
    }
    Ok(Fence { name: Bytes::copy_from_slice(name.as_bytes()), token: FencingToken(token) })
}

pub(crate) async fn setr(globals: &Globals, flags: SetrFlags) -> Result<Exit, Failure> {
    let value = match (flags.value, &flags.value_file) {
        (_, Some(path)) => {
            let cannot = |error| Failure::usage(format!("cannot read {}: {error}; check --value-file", path.display()));
            read_value(&mut std::fs::File::open(path).map_err(cannot)?).map_err(cannot)?
        }
        (Some(value), None) if value == "-" => read_value(&mut std::io::stdin().lock())
            .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?,
        (Some(value), None) => bytes(value),
        (None, None) => return Err(Failure::usage("the value is missing; give VALUE or --value-file")),
    };
    let key = bytes(flags.key);
    let condition = if flags.if_absent { Condition::Absent } else { condition(flags.if_version, flags.if_value) };
    let client = globals.connect(&flags.cluster).await?;
    let outcome = match (flags.ttl, flags.lease) {
        (None, None) => client.put_fenced(key.clone(), value, condition, flags.fence).await,
        (Some(ttl), _) => client.put_expiring(key.clone(), value, ttl, condition, flags.fence).await,
        (None, Some(lease)) => {
            // It would be gone at once, which nobody wants who types this.
            let found = coordination(globals, &flags.cluster)?.lease(lease).await.map_err(failure::of)?;
            if found.is_none() {
                return Err(lease::gone(lease));
            }
            client.put_bound(key.clone(), value, lease, condition, flags.fence).await
        }
    };
    settle(
        globals.output,
        &key,
        match outcome {
            Ok(PutOutcome::Done(written)) => Settled::Written("stored", written),
            Ok(PutOutcome::ConditionFailed(version)) => Settled::ConditionFailed(version),
            Err(error) => Settled::Failed(error),
        },
    )
}

pub(crate) async fn getr(globals: &Globals, flags: GetrFlags) -> Result<Exit, Failure> {
    let key = bytes(flags.key);
    let outcome = globals.connect(&flags.cluster).await?.get(key.clone()).await;
    settle(
        globals.output,
        &key,
        match outcome {
            Ok(Some(found)) => Settled::Found(found),
            Ok(None) => Settled::NotFound,
            Err(error) => Settled::Failed(error),
        },
    )
}

pub(crate) async fn delr(globals: &Globals, flags: DelrFlags) -> Result<Exit, Failure> {
    let key = bytes(flags.key);
    let condition = condition(flags.if_version, flags.if_value);
    let outcome = globals.connect(&flags.cluster).await?.delete_fenced(key.clone(), condition, flags.fence).await;
    settle(
        globals.output,
        &key,
        match outcome {
            Ok(DeleteOutcome::Done(written)) => Settled::Written("deleted", written),
            Ok(DeleteOutcome::NotFound) => Settled::NotFound,
            Ok(DeleteOutcome::ConditionFailed(version)) => Settled::ConditionFailed(version),
            Err(error) => Settled::Failed(error),
        },
    )
}

/// How a request on a key ended.
#[derive(Debug)]
enum Settled {
    Written(&'static str, Written),
    Found(Found),
    NotFound,
    ConditionFailed(Option<Seq>),
    Failed(Error),
}

/// Prints the outcome and gives its exit code.
fn settle(format: Format, key: &[u8], settled: Settled) -> Result<Exit, Failure> {
    match format {
        Format::Json => output::write_json(&as_json(key, &settled))?,
        Format::Raw => match &settled {
            Settled::Found(found) => output::write(&found.value)?,
            Settled::Written(_, written) => output::line(&written.version.0.to_string())?,
            _ => {}
        },
        Format::Table => match &settled {
            Settled::Found(found) => output::line(&output::text_bytes(&found.value))?,
            Settled::Written(verb, written) => output::line(&written_text(verb, key, written))?,
            _ => {}
        },
    }
    let key = output::text_bytes(key);
    match settled {
        Settled::Written(..) | Settled::Found(_) => Ok(Exit::Done),
        Settled::NotFound => Err(Failure::new(Exit::NotFound, format!("not found: {key} has no value"))),
        Settled::ConditionFailed(version) => {
            let seen = version.map_or("has no value".to_owned(), |version| format!("has version {}", version.0));
            Err(Failure::new(Exit::NotFound, format!("condition false: {key} {seen}; nothing was changed")))
        }
        Settled::Failed(error) => Err(Failure::new(exit_of(&error), error.to_string())),
    }
}

fn written_text(verb: &str, key: &[u8], written: &Written) -> String {
    format!("{verb} {}, version {}, on disk at {}", output::text_bytes(key), written.version.0, {
        output::counted(written.durable_on as usize, "replica")
    })
}

fn as_json(key: &[u8], settled: &Settled) -> Value {
    let mut object = match settled {
        Settled::Written(_, written) => json!({
            "outcome": "done",
            "version": written.version.0,
            "replaced": written.replaced,
            "durable_on": written.durable_on,
            "node": written.node.0,
            "term": written.term.0,
        }),
        Settled::Found(found) => {
            json!({ "outcome": "done", "value": output::json_bytes(&found.value), "version": found.version.0 })
        }
        Settled::NotFound => json!({ "outcome": "not_found" }),
        Settled::ConditionFailed(version) => {
            json!({ "outcome": "condition_failed", "version": version.map(|version| version.0) })
        }
        Settled::Failed(error) => json!({
            "outcome": if matches!(error, Error::Unknown { .. }) { "unknown" } else { "not_done" },
            "error": kind_of(error),
            "message": error.to_string(),
            "safe_to_retry": error.is_safe_to_retry(),
        }),
    };
    object["key"] = output::json_bytes(key);
    object
}

fn bytes(text: OsString) -> Bytes {
    Bytes::from(text.into_vec())
}

fn condition(version: Option<u64>, value: Option<OsString>) -> Condition {
    match (version, value) {
        (Some(version), _) => Condition::Version(Seq(version)),
        (None, Some(value)) => Condition::Value(bytes(value)),
        (None, None) => Condition::None,
    }
}

/// Reads a value, and no more of one that is too long than it takes to know.
fn read_value(source: &mut impl Read) -> std::io::Result<Bytes> {
    let mut value = Vec::new();
    source.take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut value)?;
    Ok(Bytes::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{ErrorCode, NodeId, Term};

    fn written() -> Written {
        Written { version: Seq(7), replaced: true, durable_on: 2, term: Term(4), node: NodeId(3) }
    }

    /// Guards against words that change under those who read them.
    #[test]
    fn a_write_is_told_in_one_line() {
        assert_eq!(written_text("stored", b"hello", &written()), "stored hello, version 7, on disk at 2 replicas");
    }

    /// Guards against JSON that changes under scripts.
    #[test]
    fn json_names_the_outcome() {
        assert_eq!(
            as_json(b"hello", &Settled::Written("stored", written())),
            json!({"key": "hello", "outcome": "done", "version": 7, "replaced": true, "durable_on": 2, "node": 3, "term": 4})
        );
        let found = Found { value: Bytes::from_static(&[0xff]), version: Seq(7) };
        assert_eq!(
            as_json(b"hello", &Settled::Found(found)),
            json!({"key": "hello", "outcome": "done", "value": {"base64": "/w=="}, "version": 7})
        );
        assert_eq!(as_json(&[0xfe], &Settled::NotFound), json!({"key": {"base64": "/g=="}, "outcome": "not_found"}));
        assert_eq!(
            as_json(b"k", &Settled::ConditionFailed(None)),
            json!({"key": "k", "outcome": "condition_failed", "version": null})
        );
        let failed = Settled::Failed(Error::NotDone { code: ErrorCode::Unavailable, message: "no".into() });
        assert_eq!(
            as_json(b"k", &failed),
            json!({"key": "k", "outcome": "not_done", "error": "unavailable", "message": "not done: no", "safe_to_retry": true})
        );
        let failed = as_json(b"k", &Settled::Failed(Error::Unknown { message: "x".into() }));
        assert_eq!((&failed["outcome"], &failed["safe_to_retry"]), (&json!("unknown"), &json!(false)));
    }

    /// Guards against exit codes that don't follow the outcome.
    #[test]
    fn exit_codes_follow_the_outcome() {
        let exit = |settled| settle(Format::Raw, b"k", settled).unwrap_or_else(|failure| failure.exit);
        assert_eq!(exit(Settled::NotFound), Exit::NotFound);
        assert_eq!(exit(Settled::ConditionFailed(Some(Seq(1)))), Exit::NotFound);
        assert_eq!(exit(Settled::Failed(Error::Unknown { message: String::new() })), Exit::Unknown);
    }

    /// Guards against a gigabyte read only to be refused.
    #[test]
    fn a_long_value_is_read_only_as_far_as_it_takes_to_refuse_it() {
        let value = read_value(&mut std::io::repeat(1)).unwrap();
        assert_eq!(value.len(), VALUE_BYTES_MAX + 1);
    }
}

//! `scan`: all keys, or those with a prefix, in order.

use crate::cli::{ClusterFlags, Globals};
use crate::failure;
use crate::output::{self, Format, Lines};
use clap::Args;
use client::{Item, ScanOptions};
use daemon::{Exit, Failure};
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

#[derive(Clone, Debug, Args)]
#[command(after_help = "Everything that was acknowledged before the scan began, and not deleted since, is printed. \
Each partition is read in pages, each as it is at one instant; between pages writes go on, so there is no instant at \
which the whole cluster looked like the result.\n\n\
One line for each key: the key and its value with a tab between them; with --output json an object; with --output raw \
the bytes as they are.")]
pub(crate) struct ScanFlags {
    /// Only keys that begin with this.
    #[arg(long, value_name = "P", default_value = "")]
    prefix: OsString,
    /// At most so many keys.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// No values.
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub(crate) async fn run(globals: &Globals, flags: ScanFlags) -> Result<Exit, Failure> {
    let ScanFlags { prefix, limit, keys_only, cluster } = flags;
    let client = globals.connect(&cluster).await?;
    let options = ScanOptions { prefix: prefix.into_vec().into(), limit, keys_only, ..ScanOptions::default() };
    let mut scan = client.scan(options);
    let mut lines = Lines::new();
    loop {
        let next = scan.next().await;
        let Ok(Some(item)) = next else {
            // What was found before a failure is true.
            lines.flush()?;
            return next.map(|_| Exit::Done).map_err(failure::of);
        };
        if !lines.line(&line(globals.output, &item, keys_only))? {
            return Ok(Exit::Done);
        }
    }
}

fn line(format: Format, item: &Item, keys_only: bool) -> Vec<u8> {
    match format {
        Format::Json => {
            let mut object = json!({ "key": output::json_bytes(&item.key), "version": item.version.0 });
            if !keys_only {
                object["value"] = output::json_bytes(&item.value);
            }
            object.to_string().into_bytes()
        }
        Format::Raw if keys_only => item.key.to_vec(),
        Format::Raw => [&item.key[..], b"\t", &item.value].concat(),
        Format::Table if keys_only => output::text_bytes(&item.key).into_bytes(),
        Format::Table => format!("{}\t{}", output::text_bytes(&item.key), output::text_bytes(&item.value)).into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Seq;

    /// Guards against lines that change under scripts.
    #[test]
    fn a_key_is_one_line() {
        let item = Item { key: "k".into(), value: vec![0xff].into(), version: Seq(7) };
        assert_eq!(line(Format::Table, &item, false), b"k\tbase64:/w==");
        assert_eq!(line(Format::Table, &item, true), b"k");
        assert_eq!(line(Format::Raw, &item, false), [b'k', b'\t', 0xff]);
        assert_eq!(line(Format::Json, &item, false), br#"{"key":"k","value":{"base64":"/w=="},"version":7}"#);
        assert_eq!(line(Format::Json, &item, true), br#"{"key":"k","version":7}"#);
    }
}

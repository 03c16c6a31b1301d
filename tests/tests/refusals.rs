//! What is wrong is told in one line, with the exit code that belongs to it, and nothing is lost.

use anyhow::{Context, Result, ensure};
use client::{Client, Options};
use e2e::playground::{await_condition, dhtctl};
use e2e::{Playground, Process, Role, load::await_health};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const NOT_FOUND: i32 = 1;
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 3;
const DENIED: i32 = 5;

/// A command that is about this cluster.
fn command(leaders: &[String]) -> Command {
    let mut command = Command::new(dhtctl());
    command.env("DHT_LEADERS", leaders.join(",")).env("DHT_TIMEOUT", "5s").stdin(Stdio::null());
    command
}

/// Ends with `code`, and one line on stderr that has all of `words`.
fn refused(command: &mut Command, code: i32, words: &[&str]) -> Result<()> {
    let mut child = Node(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
    await_condition(&format!("the end of {command:?}"), || Ok(child.0.try_wait()?.is_some()))?;
    let status = child.0.wait()?;
    let mut said = String::new();
    child.0.stderr.take().context("stderr is piped")?.read_to_string(&mut said)?;
    let context = format!("{command:?}: {status:?}: {said}");
    ensure!(status.code() == Some(code), "expected code {code} of {context}");
    ensure!(said.trim_end().lines().count() == 1, "one line is expected of {context}");
    for word in words {
        ensure!(said.contains(word), "{word:?} is missing in {context}");
    }
    Ok(())
}

fn done(command: &mut Command) -> Result<Output> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// Guards against bad input that is stored, crashes something, or is answered with a riddle.
#[test]
fn what_people_type_wrong() -> Result<()> {
    let playground = Playground::start(&[], &[])?;
    let leaders = playground.leaders()?;
    let directory = tempfile::tempdir()?;
    let too_long = directory.path().join("value");
    std::fs::write(&too_long, vec![b'x'; (1 << 20) + 1])?;
    let longest = directory.path().join("longest");
    std::fs::write(&longest, vec![b'x'; 1 << 20])?;
    let at = |arguments: &[&str]| {
        let mut command = command(&leaders);
        command.args(arguments);
        command
    };
    refused(&mut at(&["setr", "", "v"]), USAGE, &["empty"])?;
    refused(&mut at(&["getr", &"k".repeat(1025)]), USAGE, &["1024"])?;
    let path = too_long.to_str().context("a path in UTF-8")?;
    refused(&mut at(&["setr", "k", "--value-file", path]), USAGE, &["1048576"])?;
    refused(&mut at(&["getr", "k"]), NOT_FOUND, &["not found"])?;
    done(&mut at(&["setr", "k", "--value-file", longest.to_str().context("a path in UTF-8")?]))?;
    ensure!(done(&mut at(&["getr", "k", "--output", "raw"]))?.stdout.len() == 1 << 20);
    done(&mut at(&["setr", &"k".repeat(1024), "v"]))?;
    refused(&mut at(&["setr", "k", "v", "--if-absent"]), NOT_FOUND, &["condition false", "nothing was changed"])?;

    // Not UTF-8, and back as it was.
    let odd = [0xff, b'\n', 0xfe, b'"'];
    done(at(&["setr", "odd"]).arg(OsStr::from_bytes(&odd)))?;
    ensure!(done(&mut at(&["getr", "odd", "--output", "raw"]))?.stdout == odd);
    let json: serde_json::Value = serde_json::from_slice(&done(&mut at(&["getr", "odd", "--output", "json"]))?.stdout)?;
    ensure!(json["value"]["base64"] == "/wr+Ig==", "{json}");

    // Leaders that are none.
    let nobody = vec!["127.0.0.1:1".to_owned()];
    refused(command(&nobody).args(["getr", "k"]), UNAVAILABLE, &["127.0.0.1:1"])?;
    let node = playground.of(Role::Storaged)?.remove(0);
    refused(command(std::slice::from_ref(&node.grpc)).args(["getr", "k"]), UNAVAILABLE, &[&node.grpc, "viewleader"])?;
    refused(command(std::slice::from_ref(&node.http)).args(["getr", "k"]), UNAVAILABLE, &[&node.http, "viewleader"])?;
    refused(command(&["nonsense".to_owned()]).args(["getr", "k"]), USAGE, &["nonsense"])?;
    refused(command(&[String::new()]).args(["getr", "k"]), USAGE, &["--leaders"])?;
    Ok(())
}

/// A storage node of the test's own, in the place of one of the playground's.
fn storaged(process: &Process, data_dir: &Path, leaders: &[String]) -> Command {
    let mut command = Command::new(dhtctl());
    command.arg("storaged").arg("--data-dir").arg(data_dir).stdin(Stdio::null());
    command.args(["--listen", &process.grpc, "--http", &process.http, "--leaders", &leaders.join(",")]);
    command.env("DHT_LOG", "error");
    command
}

/// Ends with the test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            // It is gone either way.
            let _status = self.0.wait();
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Guards against a node that starts where it must not: it would lose what it promised, or another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_directories_that_must_not_be_used() -> Result<()> {
    let (ours, theirs) = (Playground::start(&[], &[])?, Playground::start(&["--leaders", "1", "--storage", "1"], &[])?);
    let result = start_wrongly(&ours, &theirs).await;
    result.with_context(|| ours.log_tails())
}

async fn start_wrongly(ours: &Playground, theirs: &Playground) -> Result<()> {
    let leaders = ours.leaders()?;
    let client = Client::connect(&leaders, Options::default()).await?;
    client.put("k", "v", types::Condition::None).await?;
    let (victim, other) = (ours.of(Role::Storaged)?.remove(0), ours.of(Role::Storaged)?.remove(1));
    let elsewhere = tempfile::tempdir()?;

    refused(&mut storaged(&victim, &victim.data_dir, &leaders), UNAVAILABLE, &["in use"])?;
    ours.kill(&victim)?;
    let on_anothers_port = Process { grpc: other.grpc.clone(), ..victim.clone() };
    refused(&mut storaged(&on_anothers_port, elsewhere.path(), &leaders), UNAVAILABLE, &["port", "in use"])?;
    refused(&mut storaged(&victim, &victim.data_dir, &theirs.leaders()?), DENIED, &["cluster"])?;

    // An older copy, once the directory itself has been used again; and the directory itself goes on.
    let older = elsewhere.path().join("older");
    copy(&victim.data_dir, &older)?;
    let returned = Node(storaged(&victim, &victim.data_dir, &leaders).stderr(Stdio::inherit()).spawn()?);
    await_health(&client).await?;
    drop(returned);
    refused(&mut storaged(&victim, &older, &leaders), DENIED, &["stale copy"])?;

    // Settings.
    let settings = elsewhere.path().join("settings.toml");
    std::fs::write(&settings, "shards = 1\nshrads = 2\n")?;
    let mut misspelt = storaged(&victim, &victim.data_dir, &leaders);
    refused(misspelt.arg("--config").arg(&settings), USAGE, &["shrads"])?;
    let mut open = storaged(&victim, &victim.data_dir, &leaders);
    let everywhere = Process { grpc: "0.0.0.0:0".to_owned(), ..victim.clone() };
    refused(open.args(["--listen", &everywhere.grpc]).env_remove("DHT_INSECURE"), USAGE, &[])?;

    // Damage in the log's first record, before others; repaired, the node is what it was. Groups of records are padded to
    // whole sectors: further behind the flipped byte may be one that nobody reads.
    let (log, at) = (first_file(&victim.data_dir.join("wal"))?, 600);
    flip(&log, at)?;
    refused(&mut storaged(&victim, &victim.data_dir, &leaders), UNAVAILABLE, &["byte"])?;
    flip(&log, at)?;
    let _returned = Node(storaged(&victim, &victim.data_dir, &leaders).stderr(Stdio::inherit()).spawn()?);
    await_health(&client).await?;
    ensure!(client.get("k").await?.is_some_and(|found| found.value == "v"), "the value is gone");
    Ok(())
}

/// The log's oldest segment.
fn first_file(directory: &Path) -> Result<std::path::PathBuf> {
    let files: Result<Vec<_>, _> = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect();
    files.map_err(|error: std::io::Error| error)?.into_iter().min().context("the log has no files")
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let mut byte = [0];
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ 0x55])?;
    Ok(())
}

/// Guards against a node that goes on after a write that failed, and against acknowledging what is not on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_more_ends_the_node_with_a_line() -> Result<()> {
    let playground = Playground::start(&[], &[])?;
    let leaders = playground.leaders()?;
    let client = Client::connect(&leaders, Options::default()).await?;
    let victim = playground.of(Role::Storaged)?.remove(0);
    playground.kill(&victim)?;
    // A file may have so many blocks of 512 bytes and no more: the log's first segment just has room.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 131200; exec \"$@\"", "sh"]).arg(dhtctl());
    let node = storaged(&victim, &victim.data_dir, &leaders);
    let stderr = playground.directory().join("limited.log");
    limited.args(node.get_args()).env("DHT_LOG", "error").env("DHT_SEGMENT_SIZE", "128MiB");
    let mut limited = Node(limited.stdin(Stdio::null()).stderr(File::create(&stderr)?).spawn()?);
    let value = vec![7; 1 << 19];
    let mut written = 0;
    while limited.0.try_wait()?.is_none() && written < 2_000 {
        client.put(format!("large-{written}"), value.clone(), types::Condition::None).await?;
        written += 1;
    }
    await_condition("the node that can't write has ended", || Ok(limited.0.try_wait()?.is_some()))?;
    let said = std::fs::read_to_string(&stderr)?;
    ensure!(limited.0.wait()?.code() == Some(UNAVAILABLE), "{said}");
    ensure!(said.lines().filter(|line| line.starts_with("storaged: ")).count() == 1, "{said}");
    for number in 0..written {
        let found = client.get(format!("large-{number}")).await?;
        ensure!(found.is_some_and(|found| found.value == value), "large-{number} is gone");
    }
    Ok(())
}

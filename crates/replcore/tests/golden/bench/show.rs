//! Messages, effects and entries as a script shows them.

use replcore::{
    Answer, Body, Collected, Effect, Fed, Message, NotFed, PersistRecord, Standing, TransactionBody, TransactionMessage,
};
use types::{AttemptId, Batch, Entry, Expiry, Lifetime, OperationResult, Record, RecordKey, RecordKind};

pub(crate) fn message(message: &Message) -> String {
    let Message { term, body } = message;
    let what = match body {
        Body::Prepare { prev, entries: sent, committed, .. } => {
            format!("prepare {} after {prev:?}, committed {committed}", entries(sent))
        }
        Body::Prepared { seq } => format!("prepared {seq}"),
        Body::Mismatch { last, committed } => format!("mismatch, last {last:?}, committed {committed}"),
        Body::Fenced { promised } => format!("fenced by {promised}"),
        Body::NotMember => "not a member".into(),
        Body::Seal => "seal".into(),
        Body::Sealed { last, committed } => format!("sealed, last {last:?}, committed {committed}"),
        Body::Fetch { after, last } => format!("fetch after {after} to {last:?}"),
        Body::Fetched { prev, entries: sent, last } => format!("fetched {} after {prev:?} of {last:?}", entries(sent)),
        Body::Chunk(chunk) => {
            let records: Vec<_> = chunk.records.iter().map(|(key, record)| self::record(key, record)).collect();
            let end = chunk.settled.map(|seq| format!(", the last, exact from {seq}")).unwrap_or_default();
            let (snapshot, number, start) = (chunk.snapshot.0, chunk.number, chunk.start);
            format!("snapshot {snapshot} of {start:?}, part {number} [{}]{end}", records.join(", "))
        }
        Body::ChunkTaken { snapshot, next, arrived, .. } if next == arrived => {
            format!("has snapshot {} before part {next}", snapshot.0)
        }
        Body::ChunkTaken { snapshot, next, arrived, .. } => {
            format!("has snapshot {} before part {next}, and before {arrived} at hand", snapshot.0)
        }
        Body::Confirm { nonce } => format!("confirm round {nonce}"),
        Body::Confirmed { nonce } => format!("confirmed round {nonce}"),
    };
    format!("{term} {what}")
}

fn entries(entries: &[Entry]) -> String {
    format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
}

pub(crate) fn entry(entry: &Entry) -> String {
    let Ok(batch) = Batch::decode(&entry.payload) else { return format!("{:?} malformed", entry.id) };
    let mut text = format!("{:?}", entry.id);
    for change in &batch.changes {
        if change.key.kind == RecordKind::Fence {
            text.push_str(&format!(" {}", fence(&change.key, change.value.as_ref())));
        }
    }
    for change in batch.changes.iter().filter(|change| change.key.kind == RecordKind::User) {
        let value = change.value.as_ref().map_or("(none)".into(), |value| value.escape_ascii().to_string());
        text.push_str(&format!(" {}={value}", change.key.name.escape_ascii()));
    }
    for change in &batch.changes {
        let verb = match (change.key.kind, &change.value) {
            (RecordKind::Prepared, Some(_)) => "prepares",
            (RecordKind::Prepared, None) => "releases",
            (RecordKind::Decision, Some(_)) => "decides",
            (RecordKind::Decision, None) => "forgets",
            _ => continue,
        };
        let attempt = AttemptId::from_name(&change.key.name).map_or("?".into(), |attempt| attempt.to_string());
        text.push_str(&format!(" {verb} {attempt}"));
    }
    for change in batch.changes.iter().filter(|change| change.key.kind == RecordKind::Expiry) {
        let name = change.key.name.escape_ascii();
        match change.value.as_ref().map(Expiry::decode) {
            Some(Ok(expiry)) => text.push_str(&format!(" {name} lives {}", lifetime(expiry.lifetime))),
            Some(Err(_)) => text.push_str(&format!(" {name} lives malformed")),
            None => text.push_str(&format!(" {name} has no time")),
        }
    }
    if let Some(stamp) = batch.forgotten_before {
        text.push_str(&format!(" forget before {stamp:?}"));
    }
    text
}

fn fence(key: &RecordKey, token: Option<&bytes::Bytes>) -> String {
    let token = token.and_then(|value| types::entry::take_varint(&mut value.clone()).ok());
    format!("fence {}:{}", key.name.escape_ascii(), token.map_or("?".into(), |token| token.to_string()))
}

/// A record as the state holds it.
pub(crate) fn record(key: &RecordKey, record: &Record) -> String {
    match key.kind {
        RecordKind::User => format!("{}={}@{}", key.name.escape_ascii(), record.value.escape_ascii(), record.seq),
        RecordKind::Expiry => format!("{} expires@{}", key.name.escape_ascii(), record.seq),
        RecordKind::Requests if key.name.is_empty() => "what is forgotten".into(),
        RecordKind::Requests => "requests".into(),
        RecordKind::Prepared | RecordKind::Decision => {
            let attempt = AttemptId::from_name(&key.name).map_or("?".into(), |attempt| attempt.to_string());
            format!("{:?} {attempt}@{}", key.kind, record.seq)
        }
        RecordKind::Fence => fence(key, Some(&record.value)),
    }
}

pub(crate) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Persist { record, .. } => match record {
            PersistRecord::Base(base) => format!("writes its base, promised {}", base.promised),
            PersistRecord::Reset(base) if base.standing == Standing::None => {
                format!("ends its record with {}, promised {}", base.generation, base.promised)
            }
            PersistRecord::Reset(base) => format!("writes a new {}, promised {}", base.generation, base.promised),
            PersistRecord::Promise(term) => format!("writes the promise {term}"),
            PersistRecord::Append { entries: written, .. } => format!("writes {}", entries(written)),
        },
        Effect::Reply { token, answer } => format!("answers #{}: {}", token.0, self::answer(answer)),
        Effect::Serving { term: Some(term) } => format!("serves {term}"),
        Effect::Serving { term: None } => "serves no more".into(),
        Effect::ReportStuck { term, unreachable, holder: None } => {
            format!("is stuck in {term}, unreachable {unreachable:?}")
        }
        Effect::ReportStuck { term, holder: Some(holder), .. } => format!("is stuck in {term}, {holder} has its log"),
        Effect::WantView => "asks for the newest view".into(),
        Effect::ReportActivated { term } => format!("reports that {term} is ready to be activated"),
        Effect::ReportDamaged => "reports its damage".into(),
        Effect::ReadState { to, generation, after, .. } => {
            let after = after.as_ref().map_or("the beginning".into(), |key| key.name.escape_ascii().to_string());
            format!("reads {generation} after {after} for {to}")
        }
        Effect::Install { generation, number, start, .. } => {
            let end = start.map(|start| format!(", the last of {start:?}")).unwrap_or_default();
            format!("installs part {number} in {generation}{end}")
        }
        Effect::ScanState { token, generation, .. } => format!("reads a page of {generation} for #{}", token.0),
        Effect::Expiring { key, expiry } => {
            format!("counts {} for {}, version {}", lifetime(expiry.lifetime), key.escape_ascii(), expiry.version)
        }
        Effect::ExpiryOver { keys } => {
            let keys: Vec<_> = keys.iter().map(|(key, version)| format!("{}@{version}", key.escape_ascii())).collect();
            format!("counts no more for {}", keys.join(", "))
        }
        Effect::DeleteData { generation } => format!("deletes {generation}"),
        Effect::Send { .. } | Effect::SendToPartition { .. } => unreachable!("messages are shown with their link"),
    }
}

/// What partitions say to each other.
pub(crate) fn between_partitions(message: &TransactionMessage) -> String {
    let TransactionMessage { attempt, body, .. } = message;
    let what = match body {
        TransactionBody::Prepare { .. } | TransactionBody::Abort | TransactionBody::Done => body.name().into(),
        TransactionBody::Yes { prepared, judged } if judged.holds => format!("yes, prepared at {prepared}"),
        TransactionBody::Yes { prepared, .. } => format!("yes, prepared at {prepared}, and the conditions do not hold"),
        TransactionBody::No { code } => format!("no: {code:?}"),
        TransactionBody::Fenced { newest } => format!("no: fenced, the newest token is {newest}"),
        TransactionBody::Commit { prepared, succeeded } => {
            format!("commit {} as prepared at {prepared}", if *succeeded { "then" } else { "otherwise" })
        }
        TransactionBody::Ask { prepared } => format!("ask, prepared at {prepared}"),
    };
    format!("{attempt} {what}")
}

fn result(result: &OperationResult) -> String {
    match result {
        OperationResult::Put { version, replaced } => {
            let version = version.map_or(String::new(), |version| format!(" {version}"));
            format!("put{version} {}", if *replaced { "replaced" } else { "new" })
        }
        OperationResult::Deleted { existed } => format!("deleted {}", if *existed { "a value" } else { "nothing" }),
        OperationResult::Found(record) => format!("found {}@{}", record.value.escape_ascii(), record.seq),
        OperationResult::NotFound => "not found".into(),
    }
}

fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Written { outcome, durable_on, .. } => {
            let replaced = if outcome.replaced { "replaced" } else { "new" };
            format!("written, version {}, {replaced}, on {durable_on} disks", outcome.version)
        }
        Answer::Transacted { outcome, durable_on, .. } => {
            let branch = if outcome.succeeded { "then" } else { "otherwise" };
            let results: Vec<_> = outcome.results.iter().map(result).collect();
            format!("{branch} [{}], on {durable_on} disks", results.join(", "))
        }
        Answer::Collected(collected) => {
            let one = |collected: &Collected| match collected {
                Collected::Found(record) => format!("{}@{}", record.value.escape_ascii(), record.seq),
                Collected::Absent { since: Some(since) } => format!("absent since {since}"),
                Collected::Absent { since: None } => "absent".into(),
            };
            format!("collected [{}]", collected.iter().map(one).collect::<Vec<_>>().join(", "))
        }
        Answer::Found(record) => format!("found {}, version {}", record.value.escape_ascii(), record.seq),
        Answer::Page(page) => {
            let item = |item: &types::PageItem| {
                let value = item.value.as_ref().map_or("(left out)".into(), |value| value.escape_ascii().to_string());
                format!("{}={value}@{}", item.name.escape_ascii(), item.seq)
            };
            let items: Vec<_> = page.items.iter().map(item).collect();
            let more = page.resume.as_ref().map(|name| format!(", more after {}", name.escape_ascii()));
            format!("as of {} [{}]{}", page.at, items.join(", "), more.unwrap_or_default())
        }
        Answer::NotFound => "not found".into(),
        Answer::ConditionFailed { version: Some(version) } => format!("condition failed at version {version}"),
        Answer::ConditionFailed { version: None } => "condition failed, there is no value".into(),
        Answer::Fenced { newest } => format!("fenced, the newest token is {newest}"),
        Answer::Error(code) => format!("{code:?}"),
    }
}

/// What a watcher is shown.
pub(crate) fn fed(fed: &Result<Fed, NotFed>) -> String {
    match fed {
        Ok(fed) => {
            let change = |change: &replcore::Changed| {
                let value = change.value.as_ref().map_or("(none)".into(), |value| value.escape_ascii().to_string());
                format!("{}={value}@{}", change.key.escape_ascii(), change.seq)
            };
            let changes: Vec<_> = fed.changes.iter().map(change).collect();
            format!("[{}] through {}", changes.join(", "), fed.through)
        }
        Err(NotFed::Compacted(oldest)) => format!("that it has nothing before {oldest}"),
        Err(NotFed::Beyond(end)) => format!("that only {end} is committed"),
        Err(NotFed::Refused(code)) => format!("nothing: {code:?}"),
    }
}

fn lifetime(lifetime: Lifetime) -> String {
    match lifetime {
        Lifetime::Milliseconds(ttl_ms) => format!("{ttl_ms} ms"),
        Lifetime::Lease(lease) => format!("as long as {lease}"),
    }
}

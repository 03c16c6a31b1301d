//! Keys that expire.
//!
//! A put with a time to live writes a hidden record beside the key: the version that the put made, and how long that
//! lives. The core has no clock. It tells the driver of each such version when it is committed ([`Effect::Expiring`]); the
//! driver counts, and proposes ([`Event::Expired`](crate::Event::Expired)); what deletes the key is an entry of the log like
//! any other. So once anybody has seen it gone, nobody sees it again.
//!
//! * **Never early.** The entry is judged like a mutation, against everything appended (P12): it deletes the key only if
//!   that still has the version whose time is over. A put without a time to live, or with another one, makes another
//!   version, and needs to do nothing else to end the old time.
//! * **How late.** Only whoever serves counts, from the commit, or, where it has taken over, from the moment it serves: a
//!   new primary gives every version its full time again, because nobody's clock but its own says anything to it, and what
//!   another has counted is gone with it. A key lives for its time to live from the last takeover before its end, and
//!   while nobody serves. (Writing down what is left of it now and then would shorten this for long times, at the price of a
//!   write for each key and each time; it would still not make it exact.)
//! * **Bound to a lease.** The same, but that the driver waits for the word that the lease has ended. That is a fact of the
//!   viewleaders which no takeover here delays: every new primary hears it again.
//! * **Locked.** A key that a transaction has locked expires after that (P22).
//! * **Rubbish.** The hidden record of a version that was overwritten stays until its own time is over; the entry that
//!   would have deleted the key then deletes the record alone. There is never more than one for a key.
//!
//! A primary that begins to serve reads the hidden records page by page, like a scan: timers are not needed to serve.

use crate::event::{Effect, State, Token};
use crate::mutants::{Mutant, on};
use crate::replica::{Replica, Role, user};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use types::{Batch, Change, Expiry, Mutation, MutationKind, Page, PageQuery, RecordKey, RecordKind, Seq};

/// Records of one page of the list with which a term begins.
const LIST_RECORDS: usize = 4096;
const LIST_BYTES: usize = 256 << 10;

/// What is to be told once it is committed.
#[derive(Clone, Hash, Debug, Default)]
pub(crate) struct Expiring {
    /// By the entry that says so, in order.
    appended: VecDeque<(Seq, News)>,
}

#[derive(Clone, Hash, Debug)]
enum News {
    Begins(Bytes, Expiry),
    Over(Vec<(Bytes, Seq)>),
}

impl Expiring {
    /// Everything through here is committed.
    pub(crate) fn committed(&mut self, through: Seq, effects: &mut Vec<Effect>) {
        while let Some((_, news)) = self.appended.pop_front_if(|(seq, _)| *seq <= through || on(Mutant::ExpiryEarly)) {
            effects.push(match news {
                News::Begins(key, expiry) => Effect::Expiring { key, expiry },
                News::Over(keys) => Effect::ExpiryOver { keys },
            });
        }
    }
}

fn hidden(key: &Bytes) -> RecordKey {
    RecordKey { kind: RecordKind::Expiry, name: key.clone() }
}

impl Replica {
    /// The hidden record that goes with a put, if it has a time to live.
    pub(crate) fn begin_expiry(&mut self, mutation: &Mutation, version: Seq) -> Option<Change> {
        let MutationKind::PutExpiring { lifetime, .. } = mutation.kind else { return None };
        let expiry = Expiry { version, lifetime };
        let Role::Primary(primary) = &mut self.role else { return None };
        primary.expiring.appended.push_back((version, News::Begins(mutation.key.clone(), expiry)));
        Some(Change { key: hidden(&mutation.key), value: Some(expiry.encode()) })
    }

    pub(crate) fn on_expired(&mut self, keys: Vec<(Bytes, Seq)>, state: &dyn State, effects: &mut Vec<Effect>) {
        let room = self.settings.uncommitted_bytes_max;
        let serves = matches!(&self.role, Role::Primary(p) if p.serving() && p.uncommitted_bytes() <= room);
        if !serves {
            return; // the driver asks again, or its timers are over
        }
        // A key has one timer; of two that are told the greater version counts.
        let keys: BTreeMap<Bytes, Seq> = keys.into_iter().collect();
        let (mut changes, mut over, mut needless) = (Vec::new(), Vec::new(), Vec::new());
        for (key, version) in keys {
            let Role::Primary(primary) = &self.role else { return };
            if primary.transactions.locks.conflict([(&key, true)]).is_some() {
                continue; // P22: the driver asks again
            }
            let Some((current, _)) = self.newest(&user(&key), state, effects) else { return };
            if current.is_some_and(|record| record.seq == version || on(Mutant::ExpiryVersion)) {
                changes.push(Change { key: user(&key), value: None });
                changes.push(Change { key: hidden(&key), value: None });
                over.push((key, version));
                continue;
            }
            // Written again, or deleted, since: the record may be of another version too.
            let Some((stored, _)) = self.newest(&hidden(&key), state, effects) else { return };
            match stored.map(|record| Expiry::decode(&record.value)) {
                Some(Ok(expiry)) if expiry.version == version => {
                    changes.push(Change { key: hidden(&key), value: None });
                    over.push((key, version));
                }
                Some(Err(_)) => return self.go_out_of_service(effects),
                Some(Ok(_)) | None => needless.push((key, version)),
            }
        }
        if !needless.is_empty() {
            effects.push(Effect::ExpiryOver { keys: needless });
        }
        let Role::Primary(primary) = &mut self.role else { return };
        if !changes.is_empty() {
            let seq = self.log.last().seq.next();
            primary.expiring.appended.push_back((seq, News::Over(over)));
            self.append_batch(&Batch { changes, ..Batch::default() });
        }
    }

    /// A term serves: it must learn which keys expire.
    pub(crate) fn list_expiring(&mut self, effects: &mut Vec<Effect>) {
        self.list_after(Bytes::new(), effects);
    }

    fn list_after(&mut self, after: Bytes, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &self.role else { return };
        self.begin_scan(Token::own(primary.term()), query(after), effects);
    }

    /// A page of hidden records.
    pub(crate) fn on_expiring_listed(&mut self, page: Page, effects: &mut Vec<Effect>) {
        for item in page.items {
            match item.value.map(|value| Expiry::decode(&value)) {
                Some(Ok(expiry)) => effects.push(Effect::Expiring { key: item.name, expiry }),
                Some(Err(_)) | None => return self.go_out_of_service(effects),
            }
        }
        if let Some(after) = page.resume {
            self.list_after(after, effects);
        }
    }
}

fn query(after: Bytes) -> PageQuery {
    PageQuery {
        kind: RecordKind::Expiry,
        prefix: Bytes::new(),
        after,
        records_max: LIST_RECORDS,
        bytes_max: LIST_BYTES,
        names_only: false,
    }
}

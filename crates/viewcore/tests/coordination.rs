//! Leases and locks: golden scripts, what holds for every sequence of requests, and that a missing rule is noticed.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use goldenscript::Command as Line;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use types::{FencingToken, LeaseId, RequestId};
use viewcore::coordination::mutants::{Mutant, set};
use viewcore::coordination::{Claim, Coordination, Done, LeaseClock, Outcome, Request};

/// A group of one that commits at once, and the clocks of its leaders.
#[derive(Default)]
struct World {
    coordination: Coordination,
    now_ms: u64,
    clock: LeaseClock,
    /// Of a leader that is stopped: what it believes is over.
    stopped: Option<LeaseClock>,
    /// What a leader has found to be over, and not yet proposed.
    found: Vec<(LeaseId, u64)>,
}

impl World {
    fn apply(&mut self, request: &Request) -> String {
        let mut touched = BTreeSet::new();
        let outcome = self.coordination.apply(request, &mut touched);
        let mut text = show(&outcome);
        for name in touched {
            let _ = write!(text, "\n  {name}: {}", self.lock(&name));
        }
        // Whoever leads sees what is applied at once.
        self.clock.observe(self.now_ms, self.coordination.leases());
        text
    }

    fn lock(&self, name: &str) -> String {
        let Some(lock) = self.coordination.locks().get(name) else { return "free".to_owned() };
        let claim = |claim: &Claim| match claim.bound {
            true => format!("{} on {}", claim.client, claim.lease),
            false => claim.client.clone(),
        };
        let mut text = format!("held by {} with {}", claim(&lock.holder.claim), lock.holder.token);
        for waiting in &lock.queue {
            let _ = write!(text, ", then {}", claim(waiting));
        }
        text
    }

    fn over(&mut self) -> Vec<(LeaseId, u64)> {
        self.clock.expired(self.now_ms, self.coordination.leases(), 100)
    }
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Ok(Done::Granted { lease, ttl_ms }) => format!("lease {lease} for {ttl_ms} ms"),
        Ok(Done::KeptAlive(alive)) => format!("kept alive {alive:?}"),
        Ok(Done::Revoked(was_alive)) => format!("revoked, was alive: {was_alive}"),
        Ok(Done::Expired(count)) => format!("{count} expired"),
        Ok(Done::Held(token)) => format!("held with {token}"),
        Ok(Done::Queued { ahead }) => format!("waits behind {ahead}"),
        Ok(Done::Released(was_held)) => format!("released, was held: {was_held}"),
        Ok(Done::Abandoned) => "abandoned".to_owned(),
        Err(refusal) => format!("refused: {refusal}"),
    }
}

fn lease(text: &str) -> Result<LeaseId, Box<dyn Error>> {
    Ok(LeaseId(text.trim_start_matches('l').parse()?))
}

impl goldenscript::Runner for World {
    type Command = Line;

    fn run(&mut self, line: &Line, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut args = line.consume_args();
        let out = match line.name.as_str() {
            // wait MS
            "wait" => {
                self.now_ms += args.next_pos().ok_or("how long?")?.parse::<u64>()?;
                String::new()
            }
            // grant TTL_MS id=N
            "grant" => {
                let ttl_ms = args.next_pos().ok_or("how long?")?.parse()?;
                let counter = args.take_key("id").ok_or("id=")?.parse()?;
                self.apply(&Request::Grant { request: RequestId { client: 1, counter }, ttl_ms })
            }
            // keep LEASE…
            "keep" => {
                let mut leases = Vec::new();
                while let Some(text) = args.next_pos() {
                    leases.push(lease(text)?);
                }
                self.apply(&Request::KeepAlive(leases))
            }
            "revoke" => {
                let id = lease(args.next_pos().ok_or("which?")?)?;
                self.apply(&Request::Revoke(id))
            }
            // lock NAME CLIENT on=LEASE claim=N [bound=no] [wait=no]
            "lock" => {
                let name = args.next_pos().ok_or("which?")?.to_owned();
                let claim = Claim {
                    client: args.next_pos().ok_or("who?")?.to_owned(),
                    lease: lease(args.take_key("on").ok_or("on=")?)?,
                    number: args.take_key("claim").ok_or("claim=")?.parse()?,
                    bound: args.take_key("bound") != Some("no"),
                    value: Bytes::new(),
                };
                let wait = args.take_key("wait") != Some("no");
                self.apply(&Request::Acquire { name, claim, wait })
            }
            // release NAME CLIENT TOKEN
            "release" => {
                let name = args.next_pos().ok_or("which?")?.to_owned();
                let client = args.next_pos().ok_or("who?")?.to_owned();
                let token = FencingToken(args.next_pos().ok_or("token?")?.trim_start_matches('f').parse()?);
                self.apply(&Request::Release { name, client, token })
            }
            // abandon NAME on=LEASE claim=N
            "abandon" => {
                let name = args.next_pos().ok_or("which?")?.to_owned();
                let (on, number) = (lease(args.take_key("on").ok_or("on=")?)?, args.take_key("claim").ok_or("claim=")?);
                self.apply(&Request::Abandon { name, lease: on, number: number.parse()? })
            }
            // The leader looks, and proposes at once.
            "tick" => match self.over() {
                over if over.is_empty() => "nothing is over".to_owned(),
                over => format!("{over:?} are over: {}", self.apply(&Request::Expire(over.clone()))),
            },
            // The leader looks, and its proposal is late.
            "look" => {
                self.found = self.over();
                format!("{:?} are over", self.found)
            }
            "propose" => {
                let found = std::mem::take(&mut self.found);
                self.apply(&Request::Expire(found))
            }
            // The leader is stopped; another one is elected now.
            "elect" => {
                let clock = LeaseClock::begin(self.now_ms, self.coordination.leases());
                self.stopped = Some(std::mem::replace(&mut self.clock, clock));
                String::new()
            }
            // The stopped leader goes on with what it knew when it was stopped.
            "resume" => {
                let mut stopped = self.stopped.take().ok_or("nobody was stopped")?;
                let over = stopped.expired(self.now_ms, self.coordination.leases(), 100);
                format!("{over:?} are over: {}", self.apply(&Request::Expire(over.clone())))
            }
            // Everything dies, and comes back from a snapshot.
            "restore" => {
                self.coordination = restored(&self.coordination);
                self.clock = LeaseClock::begin(self.now_ms, self.coordination.leases());
                String::new()
            }
            "left" => {
                let mut out = String::new();
                for (id, _) in self.coordination.leases().iter() {
                    let left = self.clock.remaining_ms(self.now_ms, id);
                    let _ = write!(out, "{id} {} ms ", left.unwrap_or_default());
                }
                out
            }
            name => return Err(format!("unknown command {name}").into()),
        };
        args.reject_next()?;
        Ok(if out.is_empty() { out } else { format!("{out}\n") })
    }
}

fn restored(coordination: &Coordination) -> Coordination {
    postcard::from_bytes(&postcard::to_stdvec(coordination).unwrap()).unwrap()
}

const SCRIPTS: &[(&str, &str)] = &[
    ("leases", include_str!("scripts/leases")),
    ("locks", include_str!("scripts/locks")),
    ("late", include_str!("scripts/late")),
];

/// Guards against any change in who holds what, and when a lease is over, that nobody meant.
#[test]
fn scripts() {
    for (name, _) in SCRIPTS {
        goldenscript::run(&mut World::default(), format!("tests/scripts/{name}")).unwrap();
    }
}

/// The rule, and the script that must notice that it is gone.
const NOTICED_BY: &[(Mutant, &str)] = &[
    (Mutant::P21Renewal, "leases"),
    (Mutant::P21Election, "leases"),
    (Mutant::ReleaseByAnybody, "locks"),
    (Mutant::TokensRestored, "locks"),
    (Mutant::LateClaim, "late"),
    (Mutant::Unfair, "locks"),
    (Mutant::LeaseEnds, "locks"),
];

/// Guards against scripts that would not notice the rule that they stand for, and a mutant that nobody looks for.
#[test]
fn a_script_notices_each_broken_rule() {
    let trace = |script: &str, mutant| {
        set(mutant);
        let run = catch_unwind(AssertUnwindSafe(|| goldenscript::generate(&mut World::default(), script)));
        set(None);
        run.ok().and_then(Result::ok)
    };
    for mutant in Mutant::ALL {
        let (_, name) = NOTICED_BY.iter().find(|(listed, _)| listed == mutant).expect("every mutant is listed");
        let (_, script) = SCRIPTS.iter().find(|(script, _)| script == name).expect("a script that is listed exists");
        assert_eq!(trace(script, None).as_deref(), Some(*script), "{name} differs with no rule broken");
        let noticed = trace(script, Some(*mutant)).as_deref() != Some(*script);
        assert!(noticed, "{name} does not notice {mutant:?}: {}", mutant.what());
    }
}

fn requests() -> impl Strategy<Value = Request> {
    let lease = || (1u64..7).prop_map(LeaseId);
    let name = || (0u8..3).prop_map(|name| format!("lock-{name}"));
    let client = || (0u8..4).prop_map(|client| format!("client-{client}"));
    prop_oneof![
        2 => (1u64..5).prop_map(|counter| Request::Grant { request: RequestId { client: 1, counter }, ttl_ms: 5_000 }),
        1 => proptest::collection::vec(lease(), 0..3).prop_map(Request::KeepAlive),
        1 => lease().prop_map(Request::Revoke),
        1 => proptest::collection::vec((lease(), 1u64..30), 0..3).prop_map(Request::Expire),
        8 => (name(), client(), lease(), 1u64..8, any::<[bool; 2]>()).prop_map(|(name, client, lease, number, [bound, wait])| {
            Request::Acquire { name, claim: Claim { client, lease, number, bound, value: Bytes::new() }, wait }
        }),
        4 => (name(), client(), 0u64..40).prop_map(|(name, client, token)| {
            Request::Release { name, client, token: FencingToken(token) }
        }),
        2 => (name(), lease(), 1u64..8).prop_map(|(name, lease, number)| Request::Abandon { name, lease, number }),
    ]
}

/// What must hold in every state.
fn check(coordination: &Coordination) {
    for (name, lock) in coordination.locks().iter() {
        let mut clients = BTreeSet::from([&lock.holder.claim.client]);
        for claim in &lock.queue {
            assert!(clients.insert(&claim.client), "{name}: {} holds and waits, or waits twice", claim.client);
            let lease = coordination.leases().get(claim.lease).expect("who waits does so on a lease that lives");
            assert!(
                lease.claims().any(|claimed| claimed == name),
                "{name}: a lease that does not know who waits on it"
            );
        }
        let holder = &lock.holder.claim;
        if holder.bound {
            let lease = coordination.leases().get(holder.lease).expect("what is held on a lease ends with it");
            assert!(
                lease.claims().any(|claimed| claimed == name),
                "{name}: a lease that does not know what is held on it"
            );
        }
    }
    for (id, lease) in coordination.leases().iter() {
        for name in lease.claims() {
            let lock = coordination.locks().get(name).expect("a claim is on a lock that somebody holds");
            let mut claims = lock.queue.iter().chain([&lock.holder.claim].into_iter().filter(|claim| claim.bound));
            assert!(claims.any(|claim| claim.lease == id), "{id} believes to have a claim on {name}");
        }
    }
    assert_eq!(&restored(coordination), coordination, "what is restored is something else");
}

proptest! {
    /// Guards against two holders, a token that does not grow, a queue that is not served in order, a lock that outlives
    /// its lease or is freed by another than its holder, and a request that does something the second time.
    #[test]
    fn whatever_is_asked(requests in proptest::collection::vec(requests(), 1..120)) {
        let mut coordination = Coordination::default();
        let mut newest: BTreeMap<String, FencingToken> = BTreeMap::new();
        for request in &requests {
            let before = coordination.clone();
            let mut touched = BTreeSet::new();
            let outcome = coordination.apply(request, &mut touched);
            check(&coordination);
            if outcome.is_err() {
                prop_assert_eq!(&before, &coordination, "a refused request has changed something");
            }
            for (name, was) in before.locks().iter() {
                let is = coordination.locks().get(name);
                let holds_on = is.is_some_and(|is| is.holder == was.holder);
                prop_assert!(touched.contains(name) || is == Some(was), "{name} changed and nobody was told");
                if holds_on {
                    continue;
                }
                // Who may end a hold: its lease's end, its holder's release, or its holder on another footing.
                let claim = &was.holder.claim;
                let own = match request {
                    Request::Release { name: released, client, token } => {
                        released == name && client == &claim.client && *token == was.holder.token
                    }
                    Request::Acquire { name: acquired, claim: new, .. } => acquired == name && new.client == claim.client,
                    _ => claim.bound && coordination.leases().get(claim.lease).is_none(),
                };
                prop_assert!(own, "{request:?} has ended {:?}", was.holder);
                // The one who waited longest, of those whose lease lives, is next.
                let next = was.queue.iter().find(|waiting| coordination.leases().get(waiting.lease).is_some());
                if !matches!(request, Request::Acquire { .. }) {
                    prop_assert_eq!(is.map(|is| &is.holder.claim), next, "not the next one holds {}", name);
                }
            }
            for (name, lock) in coordination.locks().iter() {
                let is_new = before.locks().get(name).is_none_or(|was| was.holder.token != lock.holder.token);
                let last = newest.insert(name.to_owned(), lock.holder.token);
                prop_assert!(!is_new || last < Some(lock.holder.token), "a token of {name} does not grow");
            }
            // The same again, as of a client that did not hear the answer.
            let (mut again, mut touched) = (coordination.clone(), BTreeSet::new());
            let repeated = again.apply(request, &mut touched);
            match request {
                Request::KeepAlive(_) => prop_assert_eq!(&repeated, &outcome),
                _ => prop_assert_eq!(&again, &coordination, "{:?} again is not harmless", request),
            }
            if let (Request::Acquire { .. } | Request::Grant { .. }, Ok(_)) = (request, &outcome) {
                prop_assert_eq!(&repeated, &outcome, "another answer the second time");
            }
        }
    }

    /// Guards P21: a lease that ends before its time has passed since its last renewal, and since the last election.
    #[test]
    fn no_lease_ends_early(steps in proptest::collection::vec((0u8..6, 1u64..6, 0u64..4_000), 1..200)) {
        const TTL_MS: u64 = 5_000;
        let (mut coordination, mut clock) = (Coordination::default(), LeaseClock::default());
        let (mut now_ms, mut elected_ms) = (0u64, 0u64);
        let mut renewed_ms: BTreeMap<LeaseId, u64> = BTreeMap::new();
        for (step, id, wait_ms) in steps {
            now_ms += wait_ms;
            let mut touched = BTreeSet::new();
            match step {
                0 | 1 => {
                    let request = RequestId { client: now_ms, counter: id };
                    let granted = coordination.apply(&Request::Grant { request, ttl_ms: TTL_MS }, &mut touched);
                    if let Ok(Done::Granted { lease, .. }) = granted {
                        renewed_ms.insert(lease, now_ms);
                    }
                }
                2 => {
                    let kept = coordination.apply(&Request::KeepAlive(vec![LeaseId(id)]), &mut touched);
                    if kept == Ok(Done::KeptAlive(vec![true])) {
                        renewed_ms.insert(LeaseId(id), now_ms);
                    }
                }
                3 => {
                    clock = LeaseClock::begin(now_ms, coordination.leases());
                    elected_ms = now_ms;
                }
                _ => {
                    clock.observe(now_ms, coordination.leases());
                    let over = clock.expired(now_ms, coordination.leases(), 100);
                    for (lease, _) in &over {
                        let since_ms = renewed_ms[lease].max(elected_ms);
                        prop_assert!(now_ms >= since_ms + TTL_MS, "{lease} is over after {} ms", now_ms - since_ms);
                    }
                    coordination.apply(&Request::Expire(over), &mut touched).unwrap();
                }
            }
        }
    }
}

/// Guards against a member that takes a lease which it has not heard of yet for one that has ended: keys that are bound to
/// it would go.
#[test]
fn only_what_was_granted_can_have_ended() {
    let mut coordination = Coordination::default();
    assert_eq!(coordination.leases().ended_count(), 0);
    let mut apply = |request: Request| coordination.apply(&request, &mut BTreeSet::new()).map(drop);
    for counter in 1..=2 {
        assert!(apply(Request::Grant { request: RequestId { client: 1, counter }, ttl_ms: 1_000 }).is_ok());
    }
    assert!(apply(Request::Revoke(LeaseId(1))).is_ok());
    for leases in [coordination.leases(), restored(&coordination).leases()] {
        let ended = [1, 2, 3].map(|lease| leases.has_ended(LeaseId(lease)));
        assert_eq!((ended, leases.ended_count()), ([true, false, false], 1));
    }
}

fn claim(client: &str, lease: LeaseId, number: u64) -> Claim {
    Claim { client: client.into(), lease, number, bound: true, value: Bytes::new() }
}

fn granted(coordination: &mut Coordination, counter: u64, ttl_ms: u64) -> Option<LeaseId> {
    let request = RequestId { client: 1, counter };
    match coordination.apply(&Request::Grant { request, ttl_ms }, &mut BTreeSet::new()) {
        Ok(Done::Granted { lease, .. }) => Some(lease),
        _ => None,
    }
}

/// Guards against requests that the group's memory and its log have no bound for.
#[test]
fn what_is_asked_for_is_bounded() {
    let mut coordination = Coordination::default();
    for (ttl_ms, taken) in [(999, false), (1_000, true), (24 * 3_600_000, true), (24 * 3_600_000 + 1, false)] {
        assert_eq!(granted(&mut coordination, ttl_ms, ttl_ms).is_some(), taken, "{ttl_ms} ms");
    }
    let lease = granted(&mut coordination, 1, 5_000).unwrap();
    let long = |bytes: usize| "x".repeat(bytes);
    let mut tried = 0;
    for (name, client, value_bytes, taken) in [
        (long(0), long(1), 0, false),
        (long(1), long(0), 0, false),
        (long(255), long(255), 1_024, true),
        (long(256), long(1), 0, false),
        (long(2), long(256), 0, false),
        (long(2), long(1), 1_025, false),
        ("a\nb".into(), long(1), 0, false),
    ] {
        tried += 1;
        let claim = Claim { value: vec![7; value_bytes].into(), ..claim(&client, lease, tried) };
        let outcome = coordination.apply(&Request::Acquire { name, claim, wait: false }, &mut BTreeSet::new());
        assert_eq!(outcome.is_ok(), taken, "try {tried}: {outcome:?}");
    }
    // So many may wait for one lock, and no more; room that becomes free is room.
    let mut acquire = |client: u64| {
        let claim = claim(&client.to_string(), lease, 100 + client);
        coordination.apply(&Request::Acquire { name: "one".into(), claim, wait: true }, &mut BTreeSet::new())
    };
    let Ok(Done::Held(token)) = acquire(0) else { panic!("nobody holds it") };
    for client in 1..=1_024 {
        assert_eq!(acquire(client), Ok(Done::Queued { ahead: client as usize - 1 }));
    }
    acquire(1_025).unwrap_err();
    let release = Request::Release { name: "one".into(), client: "0".into(), token };
    coordination.apply(&release, &mut BTreeSet::new()).unwrap();
    let claim = claim("1025", lease, 3_000);
    let again = Request::Acquire { name: "one".into(), claim, wait: true };
    assert_eq!(coordination.apply(&again, &mut BTreeSet::new()), Ok(Done::Queued { ahead: 1_023 }));
}

/// Guards against a request that was overtaken by a later one of its client and takes back what that one got.
#[test]
fn who_was_overtaken_by_himself_is_late() {
    let mut coordination = Coordination::default();
    let lease = granted(&mut coordination, 1, 5_000).unwrap();
    let other = granted(&mut coordination, 2, 5_000).unwrap();
    let mut acquire = |client: &str, lease, number| {
        let claim = claim(client, lease, number);
        coordination.apply(&Request::Acquire { name: "one".into(), claim, wait: true }, &mut BTreeSet::new())
    };
    let Ok(Done::Held(first)) = acquire("a", lease, 5) else { panic!("nobody holds it") };
    assert_eq!(acquire("a", lease, 4), Err(viewcore::coordination::Refusal::Late));
    assert_eq!(acquire("a", lease, 5), Ok(Done::Held(first)), "a retry");
    let Ok(Done::Held(second)) = acquire("a", lease, 6) else { panic!("the holder asks again") };
    assert!(second > first);
    // Numbers count within a lease: on another one he may begin anew.
    let Ok(Done::Held(third)) = acquire("a", other, 1) else { panic!("the holder asks again") };
    assert!(third > second);
    // And so while he waits.
    assert_eq!(acquire("b", lease, 9), Ok(Done::Queued { ahead: 0 }));
    assert_eq!(acquire("b", lease, 8), Err(viewcore::coordination::Refusal::Late));
    assert_eq!(acquire("b", other, 1), Ok(Done::Queued { ahead: 0 }));
}

/// Guards against a leader that names all leases at once after they were all cut off, or none.
#[test]
fn leases_that_are_over_are_named_a_few_at_a_time() {
    let mut coordination = Coordination::default();
    let leases: Vec<LeaseId> = (0..10).filter_map(|counter| granted(&mut coordination, counter, 5_000)).collect();
    let mut clock = LeaseClock::begin(0, coordination.leases());
    assert_eq!(clock.expired(4_999, coordination.leases(), 4), []);
    let mut ended = Vec::new();
    for most in [4, 4, 4, 4] {
        let over = clock.expired(5_000, coordination.leases(), most);
        assert!(over.len() <= most);
        ended.extend(over.iter().map(|(lease, _)| *lease));
        coordination.apply(&Request::Expire(over), &mut BTreeSet::new()).unwrap();
    }
    assert_eq!(ended, leases);
}

//! `leaders` and `leaders remove`: the members of the viewleader group. New ones are added by being started with `--join`.

use crate::cli::{ClusterFlags, Globals};
use crate::cluster::{ask_status, print, within};
use crate::failure;
use crate::output::{self, counted};
use clap::{Args, Subcommand};
use client::{Leaders, MemberStatus};
use daemon::{Exit, Failure};
use serde_json::{Value, json};

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LeadersFlags {
    #[command(subcommand)]
    action: Option<LeadersAction>,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Subcommand)]
enum LeadersAction {
    /// Take a viewleader out of the group; its process then ends.
    Remove(RemoveFlags),
}

#[derive(Clone, Debug, Args)]
struct RemoveFlags {
    /// Its id or address, as `dhtctl leaders` shows them.
    #[arg(value_name = "ID|ADDRESS")]
    member: String,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub(crate) async fn run(globals: &Globals, flags: &LeadersFlags) -> Result<Exit, Failure> {
    match &flags.action {
        None => list(globals, &flags.cluster).await,
        Some(LeadersAction::Remove(remove)) => take_out(globals, remove).await,
    }
}

async fn list(globals: &Globals, flags: &ClusterFlags) -> Result<Exit, Failure> {
    let members = ask_status(globals, flags).await?.members;
    print(
        globals.output,
        || text(&members),
        || members.iter().map(member_json).collect(),
        || members.iter().map(|member| member.address.clone()).collect(),
    )
}

async fn take_out(globals: &Globals, flags: &RemoveFlags) -> Result<Exit, Failure> {
    let member = match flags.member.parse() {
        Ok(id) => id,
        // Asked by id only: the same address may be another member's by the time it is asked again.
        Err(_) => id_at(&ask_status(globals, &flags.cluster).await?.members, &flags.member)?,
    };
    let leaders = Leaders::new(globals.leaders(&flags.cluster)).map_err(failure::of)?;
    within(globals, leaders.remove_member(member)).await?;
    print(
        globals.output,
        || format!("member {member} is out of the group"),
        || json!({ "removed": member }),
        || vec![member.to_string()],
    )
}

fn id_at(members: &[MemberStatus], address: &str) -> Result<u64, Failure> {
    let at: Vec<&MemberStatus> = members.iter().filter(|member| member.address == address).collect();
    match at[..] {
        [member] => Ok(member.id),
        [] => {
            let known: Vec<&str> = members.iter().map(|member| member.address.as_str()).collect();
            Err(Failure::usage(format!("no viewleader is at {address}; they are at {}", known.join(", "))))
        }
        [first, second, ..] => Err(Failure::usage(format!(
            "members {} and {} are both at {address}; give the id of one",
            first.id, second.id
        ))),
    }
}

fn text(members: &[MemberStatus]) -> String {
    let row = |member: &MemberStatus| {
        let name = if member.name.is_empty() { "–".to_owned() } else { member.name.clone() };
        let applied = if is_there(member) { member.last_applied.to_string() } else { "–".to_owned() };
        vec![member.id.to_string(), name, member.address.clone(), member.role.clone(), applied]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    let there = members.iter().filter(|member| is_there(member)).count();
    format!(
        "{}\n\n{} of {} there",
        output::table(&["id", "name", "address", "role", "applied"], &rows),
        there,
        counted(members.len(), "viewleader"),
    )
}

fn is_there(member: &MemberStatus) -> bool {
    member.role != "unreachable"
}

/// As in `status`.
pub(crate) fn member_json(member: &MemberStatus) -> Value {
    json!({
        "id": member.id, "name": member.name, "address": member.address, "role": member.role,
        "raft_term": member.raft_term.0, "last_applied": member.last_applied,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Term;

    fn member(id: u64, address: &str, role: &str) -> MemberStatus {
        let (name, role) = (if role == "unreachable" { String::new() } else { format!("v{id}") }, role.to_owned());
        MemberStatus { id, name, address: address.to_owned(), role, raft_term: Term(3), last_applied: 17 }
    }

    /// Guards against a list that hides who is away, or who does not vote yet.
    #[test]
    fn members_for_people() {
        let members = [member(1, "a:1", "leader"), member(3, "b:1", "unreachable"), member(4, "c:1", "learner")];
        assert_eq!(
            text(&members),
            "  id  name  address  role         applied\n   1  v1    a:1      leader            17\n   \
             3  –     b:1      unreachable        –\n   4  v4    c:1      learner           17\n\n\
             2 of 3 viewleaders there"
        );
    }

    /// Guards against the removal of somebody else than was meant.
    #[test]
    fn an_address_names_one_member() {
        let members = [member(1, "a:1", "leader"), member(2, "b:1", "unreachable"), member(4, "b:1", "learner")];
        assert_eq!(id_at(&members, "a:1"), Ok(1));
        assert!(id_at(&members, "b:1").unwrap_err().message.contains("2 and 4"));
        let unknown = id_at(&members, "c:1").unwrap_err();
        assert_eq!(unknown.exit, Exit::Usage);
    }
}

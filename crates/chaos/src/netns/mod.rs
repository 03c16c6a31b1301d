//! The network between the processes, as namespaces of the kernel: each process has its own, with an address of its own,
//! behind a router that drops what is cut. Needs root.
//!
//! ```text
//! clients 10.N.0.1 ──┐
//! process 1 10.N.1.2 ┼── router (a namespace that forwards; a cut is a rule `from A to B blackhole`)
//! process 2 10.N.2.2 ┘
//! ```
//!
//! Invariants: packets are really lost, and nobody is told. Every namespace is deleted when the network is dropped, and
//! with it every link, route and rule. Names carry the process id, so that runs beside each other don't meet.
//!
//! Left out: late and lossy links, for which many kernels lack the queueing discipline; proxies make those.

use crate::error::Error;
use crate::random::Random;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const PORT: u16 = 7000;
/// Networks 10.N.0.0/16 that are tried.
const NETWORKS_TRIED: usize = 32;
const RULE_PREFERENCE: &str = "100";

/// The network. Dropping it takes it away.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// What all its names begin with.
    prefix: String,
    network: u8,
    count: u8,
    /// Ways that are cut, by the places of their ends.
    cut: Mutex<BTreeSet<(usize, usize)>>,
}

impl Namespaces {
    /// A network of `count` namespaces.
    ///
    /// # Errors
    /// [`Error::Machine`]: not root, no `ip`, a kernel without namespaces.
    pub(crate) fn new(count: u8, random: &mut Random) -> Result<Namespaces, Error> {
        let root = rustix::process::geteuid().is_root();
        let refused = |why: &str| Error::machine("make namespaces")(std::io::Error::other(why.to_owned()));
        if !root {
            return Err(refused("that needs root; run it as root, or without --netns"));
        }
        let taken = ip(&["route", "show"])?;
        let mut tried = (0..NETWORKS_TRIED).map(|_| 64 + random.below(128) as u8);
        let free = tried.find(|network| !taken.contains(&format!("10.{network}.")));
        let network = free.ok_or_else(|| refused("no network 10.x.0.0/16 is free"))?;
        // Whatever fails from here on is taken back by the value's end.
        let made = Namespaces { prefix: prefix(), network, count, cut: Mutex::default() };
        made.make_router()?;
        (0..made.count).try_for_each(|place| made.make(place))?;
        Ok(made)
    }

    /// Where the process of a place listens.
    pub(crate) fn address(&self, place: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(10, self.network, place as u8 + 1, 2), PORT))
    }

    /// The namespace of a place.
    pub(crate) fn name(&self, place: usize) -> String {
        format!("{}-{}", self.prefix, place + 1)
    }

    /// Packets from one place to another are lost, or no longer.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub(crate) fn cut(&self, from: usize, to: usize, wanted: bool) -> Result<(), Error> {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if cut.contains(&(from, to)) == wanted {
            return Ok(());
        }
        let (router, action) = (self.router(), if wanted { "add" } else { "del" });
        let (source, target) = (self.address(from).ip().to_string(), self.address(to).ip().to_string());
        let rule = ["rule", action, "pref", RULE_PREFERENCE, "from", &source, "to", &target, "blackhole"];
        ip(&[&["-n", router.as_str()], rule.as_slice()].concat())?;
        match wanted {
            true => cut.insert((from, to)),
            false => cut.remove(&(from, to)),
        };
        Ok(())
    }

    /// Packets that the router has lost so far.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub(crate) fn lost(&self) -> Result<u64, Error> {
        let counters = ip(&["netns", "exec", &self.router(), "cat", "/proc/net/snmp"])?;
        let mut lines = counters.lines().filter(|line| line.starts_with("Ip: "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let value = |wanted: &str| -> u64 {
            let mut pairs = names.split(' ').zip(values.split(' '));
            pairs.find(|(name, _)| *name == wanted).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        Ok(value("InReceives").saturating_sub(value("ForwDatagrams") + value("InDelivers")))
    }

    fn router(&self) -> String {
        format!("{}-r", self.prefix)
    }

    fn make_router(&self) -> Result<(), Error> {
        let (router, network) = (self.router(), self.network);
        let (here, there) = (format!("{}h", self.prefix), format!("{}r", self.prefix));
        ip(&["netns", "add", &router])?;
        ip(&["netns", "exec", &router, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        ip(&["-n", &router, "link", "set", "lo", "up"])?;
        ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &router])?;
        ip(&["addr", "add", &format!("10.{network}.0.1/24"), "dev", &here])?;
        ip(&["link", "set", &here, "up"])?;
        ip(&["-n", &router, "addr", "add", &format!("10.{network}.0.2/24"), "dev", &there])?;
        ip(&["-n", &router, "link", "set", &there, "up"])?;
        let all = format!("10.{network}.0.0/16");
        ip(&["route", "add", &all, "via", &format!("10.{network}.0.2")]).map(|_| ())
    }

    fn make(&self, place: u8) -> Result<(), Error> {
        let (router, network, subnet) = (self.router(), self.network, place + 1);
        let (name, port) = (self.name(place.into()), format!("p{subnet}"));
        ip(&["netns", "add", &name])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &router, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        ip(&["-n", &router, "addr", "add", &format!("10.{network}.{subnet}.1/24"), "dev", &port])?;
        ip(&["-n", &router, "link", "set", &port, "up"])?;
        ip(&["-n", &name, "addr", "add", &format!("10.{network}.{subnet}.2/24"), "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &name, "route", "add", "default", "via", &format!("10.{network}.{subnet}.1")]).map(|_| ())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        delete_all();
    }
}

/// What all names of this process begin with.
fn prefix() -> String {
    format!("dc{}", std::process::id())
}

/// Deletes whatever namespaces this process has made, and what led to them.
pub(crate) fn delete_all() {
    let prefix = prefix();
    // Without `ip` there is nothing to delete.
    let names = ip(&["netns", "list"]).unwrap_or_default();
    let names = names.lines().filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| name.starts_with(&format!("{prefix}-"))) {
        // Somebody else has been quicker.
        let _gone = ip(&["netns", "del", name]);
    }
    // The end of a link whose other end a namespace has taken along is gone already.
    let _gone = ip(&["link", "del", &format!("{prefix}h")]);
}

/// Runs `ip`; what it printed.
fn ip(arguments: &[&str]) -> Result<String, Error> {
    let action = || format!("run `ip {}`", arguments.join(" "));
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        // Ctrl-C is for the harness: what it is about to delete is to be deleted.
        .process_group(0)
        .output()
        .map_err(|error| Error::machine(action())(error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = daemon::exit::one_line(&String::from_utf8_lossy(&output.stderr));
    Err(Error::Machine { action: action(), why: said })
}

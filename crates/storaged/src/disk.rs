//! The node's directory at start: identity, log and state, each checked against the others.
//!
//! ```text
//! LOCK  identity  wal/  state/
//! ```

use crate::config::Config;
use crate::error::Error;
use crate::fatal::Fatal;
use crate::identity::Identity;
use crate::journal::{self, WalJournal};
use crate::me::Me;
use crate::recovery::{self, Found, Replayed};
use daemon::DataDirectory;
use engine::Engine;
use std::path::Path;
use std::sync::Arc;
use types::View;
use wal::Options;

/// What a start found, and what it writes to.
pub(crate) struct Disk {
    /// Who this start is; counted durably.
    pub(crate) identity: Identity,
    /// What the log said.
    pub(crate) replayed: Replayed,
    /// The log.
    pub(crate) journal: Arc<WalJournal>,
    /// The state.
    pub(crate) engine: Arc<dyn Engine>,
}

/// The disk of an accepted node: its view is durable, its partitions are read.
pub(crate) struct Joined {
    /// Who it is.
    pub(crate) me: Me,
    /// The newest view, on disk (P5).
    pub(crate) view: Arc<View>,
    /// Every partition that was found.
    pub(crate) found: Vec<Found>,
    /// The log.
    pub(crate) journal: Arc<WalJournal>,
    /// The state.
    pub(crate) engine: Arc<dyn Engine>,
}

impl Disk {
    /// Opens everything and counts this start.
    ///
    /// # Errors
    /// One line: what is damaged, full or in use, and what to do.
    pub(crate) async fn open(
        config: &Config,
        directory: DataDirectory,
        fatal: Arc<Fatal>,
    ) -> Result<(Disk, Arc<DataDirectory>), Error> {
        let options = Options { segment_bytes: config.segment_bytes, ..Options::default() };
        blocking(move || {
            let directory = Arc::new(directory);
            let (replayed, writer) = recovery::open_log(&directory, options, fatal)?;
            let rest = || {
                let engine: Arc<dyn Engine> = Arc::new(recovery::open_engine(&directory.path().join("state"))?);
                let identity = Identity::begin(&directory)?;
                check(directory.path(), &identity, &replayed)?;
                Ok((engine, identity))
            };
            match rest() {
                Ok((engine, identity)) => {
                    let journal = Arc::new(WalJournal::new(writer));
                    Ok((Disk { identity, replayed, journal, engine }, directory))
                }
                Err(error) => {
                    // The first error is the one that matters; a log that fails says so by itself.
                    let _second = writer.shutdown();
                    Err(error)
                }
            }
        })
        .await
    }

    /// The node is accepted: brings the view and, the first time, its id to the disk, and reads its partitions.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub(crate) async fn join(self, directory: &Arc<DataDirectory>, me: &Me, view: Arc<View>) -> Result<Joined, Error> {
        let Disk { identity, replayed, journal, engine } = self;
        // The view first: an identity without a view would look like a log that was lost.
        if replayed.view.as_ref().is_none_or(|known| known.epoch < view.epoch || known.cluster != view.cluster) {
            let written = journal::write_view(journal.as_ref(), &view).await;
            // Whoever lost it has told why.
            written.ok_or(Error::Wal(wal::WalError::Failed))?;
        }
        let me = *me;
        let directory = directory.clone();
        let of_join = engine.clone();
        let found = blocking(move || {
            if !identity.has_joined() {
                identity.join(&directory, me.cluster, me.node)?;
            }
            Ok(replayed.join(of_join.as_ref())?)
        })
        .await?;
        Ok(Joined { me, view, found, journal, engine })
    }

    /// Ends without having been accepted.
    ///
    /// # Errors
    /// [`Error::Wal`] if the log failed.
    pub(crate) async fn close(self) -> Result<(), Error> {
        close(self.journal, self.engine).await
    }
}

/// Closes log and state.
///
/// # Errors
/// [`Error::Wal`] if the log failed.
pub(crate) async fn close(journal: Arc<WalJournal>, engine: Arc<dyn Engine>) -> Result<(), Error> {
    blocking(move || {
        let closed = journal.writer().shutdown();
        drop(engine);
        Ok(closed?)
    })
    .await
}

/// P1: a directory whose parts are not of one life would forget promises.
fn check(path: &Path, identity: &Identity, replayed: &Replayed) -> Result<(), Error> {
    let torn = |reason: &str| Err(Error::Torn { path: path.to_owned(), reason: reason.to_owned() });
    match (identity.has_joined(), &replayed.view) {
        (true, None) => torn("it has joined a cluster, but its write-ahead log is empty"),
        (true, Some(view)) if view.cluster != identity.cluster => {
            torn("its identity and its write-ahead log are of different clusters")
        }
        (false, _) if replayed.has_partitions() => torn("it has a write-ahead log, but no identity"),
        _ => Ok(()),
    }
}

/// Runs what blocks away from the event loops.
///
/// # Errors
/// What `work` says.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::Bug(format!("work on the disk did not end: {error}"))),
    }
}

//! What listens: gRPC for clients and peers, HTTP for people and scripts. Both are up before the node is accepted, and
//! say that it is not.

use crate::error::Error;
use crate::gate::Gate;
use crate::grpc;
use crate::http;
use crate::kv::service::KvService;
use crate::peer::service::PeerService;
use daemon::admin::{Admin, Check, Readiness};
use engine::Engine;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;
use types::limits::MESSAGE_BYTES_MAX;
use wire::v1::kv_server::KvServer;
use wire::v1::peer_server::PeerServer;

/// How long open connections may hold up the end.
const FINISH_MAX: Duration = Duration::from_millis(300);

/// The servers at work.
pub(crate) struct Servers {
    tasks: JoinSet<Result<(), Error>>,
    health: HealthReporter,
}

impl Servers {
    /// Serves on both listeners until `stop`.
    ///
    /// # Errors
    /// [`Error::System`] without a random source.
    pub(crate) fn start(
        gate: &Arc<Gate>,
        engine: &Arc<dyn Engine>,
        grpc_listener: TcpListener,
        http_listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<Servers, Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut tasks = JoinSet::new();
        let gate_of_grpc = gate.clone();
        let stop_of_grpc = stop.clone();
        tasks.spawn(async move {
            let address = grpc_listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
            let failed = |reason: String| Error::Serve { address: address.clone(), reason };
            let reflection = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
                .build_v1()
                .map_err(|error| Error::Bug(format!("the descriptors cannot be served: {error}")))?;
            let kv = KvServer::new(KvService::new(gate_of_grpc.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let peer = PeerServer::new(PeerService::new(gate_of_grpc))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            grpc::server()
                .add_service(health_service)
                .add_service(reflection)
                .add_service(kv)
                .add_service(peer)
                .serve_with_incoming_shutdown(
                    TcpIncoming::from(grpc_listener).with_nodelay(Some(true)),
                    stop_of_grpc.cancelled_owned(),
                )
                .await
                .map_err(|error| failed(grpc::root_cause(&error)))
        });
        let admin =
            Admin { program: "storaged", version: env!("CARGO_PKG_VERSION"), readiness: readiness(gate.clone()) };
        let gateway = http::router(gate.clone(), engine.clone())?;
        tasks.spawn(
            async move { Ok(daemon::admin::serve(http_listener, admin, gateway, stop.cancelled_owned()).await?) },
        );
        Ok(Servers { tasks, health })
    }

    /// The node answers from now on.
    pub(crate) async fn accepted(&self) {
        self.health.set_serving::<KvServer<KvService>>().await;
        self.health.set_serving::<PeerServer<PeerService>>().await;
    }

    /// Resolves when a server has ended that should not have.
    pub(crate) async fn failed(&mut self) -> Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => Error::Bug(format!("a server failed: {error}")),
            _ => Error::Bug("a server ended by itself".to_owned()),
        }
    }

    /// Waits a moment for what is open, then cuts it off. `stop` has come.
    pub(crate) async fn finish(mut self) {
        let finishing = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok(Err(error)) = ended {
                    tracing::warn!(%error, "a server did not end well");
                }
            }
        };
        // Streams of peers and clients end with their process, not by themselves.
        let _cut_off = tokio::time::timeout(FINISH_MAX, finishing).await;
    }
}

fn readiness(gate: Arc<Gate>) -> Readiness {
    Arc::new(move || {
        let (accepted, has_map) = match gate.node() {
            None => (Some("no viewleader has accepted this start of the node yet".to_owned()), None),
            Some(node) if node.view.borrow().has_map() => (None, None),
            Some(_) => (None, Some("too few storage nodes have registered for a partition map".to_owned())),
        };
        let stopping = gate.is_stopping().then(|| "the node is stopping".to_owned());
        vec![
            Check { name: "accepted", failing: accepted },
            Check { name: "partition-map", failing: has_map },
            Check { name: "not-stopping", failing: stopping },
        ]
    })
}

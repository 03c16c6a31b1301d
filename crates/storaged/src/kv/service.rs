//! The `Kv` service: one stream per client, and single calls for other people's clients.

use crate::gate::Gate;
use crate::kv::connection::Connection;
use crate::kv::router;
use crate::watch;
use crate::watch::service::Parts;
use futures::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::{Request, Response, Status, Streaming};
use wire::v1;
use wire::v1::kv_server::Kv;

/// Answers clients.
pub(crate) struct KvService {
    gate: Arc<Gate>,
}

impl KvService {
    /// A service behind this gate.
    pub(crate) fn new(gate: Arc<Gate>) -> KvService {
        KvService { gate }
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    type StreamStream = Answers;
    type WatchStream = Parts;

    async fn stream(&self, request: Request<Streaming<v1::RequestBatch>>) -> Result<Response<Answers>, Status> {
        let connection = Arc::new(Connection::default());
        let answers = Answers { connection: connection.clone(), gate: self.gate.clone() };
        tokio::spawn(read(request.into_inner(), connection, self.gate.clone()));
        Ok(Response::new(answers))
    }

    async fn watch(&self, request: Request<Streaming<v1::WatchRequest>>) -> Result<Response<Parts>, Status> {
        Ok(Response::new(watch::service::begin(&self.gate, request.into_inner()).await?))
    }

    async fn call(&self, request: Request<v1::Request>) -> Result<Response<v1::Response>, Status> {
        Ok(Response::new(router::call(&self.gate, request.into_inner()).await))
    }
}

/// Takes a client's batches on until it sends no more.
async fn read(mut requests: Streaming<v1::RequestBatch>, connection: Arc<Connection>, gate: Arc<Gate>) {
    loop {
        connection.room().await;
        if connection.is_gone() {
            return;
        }
        match requests.message().await {
            Ok(Some(batch)) => router::dispatch(&gate, &connection, batch).await,
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(%status, "a client's stream broke");
                break;
            }
        }
    }
    connection.finish();
}

/// A client's answers, as batches.
pub(crate) struct Answers {
    connection: Arc<Connection>,
    gate: Arc<Gate>,
}

impl Stream for Answers {
    type Item = Result<v1::ResponseBatch, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connection.poll_answers(context).map(|answers| {
            let epoch = self.gate.node().map_or(0, |node| node.view.borrow().epoch.0);
            answers.map(|responses| Ok(v1::ResponseBatch { epoch, responses }))
        })
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.connection.hang_up();
    }
}
